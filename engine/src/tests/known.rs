//! What submissions say alone, as random lives are held against it: a formula where nothing has a say but the model. Where
//! a grammar has, each of some submissions is run once.

use std::sync::LazyLock;

use super::model::{Bench, REPEATS, completion, grammar, ids_of, submission, take_all};
use crate::api::{Event, Submission};
use crate::grammar::GrammarSpec;

/// A submission, and the tokens that its choices have still to say if nobody else is there.
pub(super) type Asked = (Submission, Vec<Vec<u32>>);

/// An unguided submission whose first choice has said up to `emitted` tokens before: only what leaves something to say can
/// go on.
pub(super) fn resumed(mut asked: Submission, emitted: usize, context_len: u32) -> Asked {
    let whole = |choice| completion(&asked, choice, context_len);
    let mut alone: Vec<_> = (0..asked.n).map(whole).collect();
    let emitted = emitted.min(alone[0].len() - 1);
    asked.resume = vec![alone[0].drain(..emitted).collect()];
    (asked, alone)
}

/// How many guided submissions there are.
pub(super) const KNOWN: u64 = 12;

/// Choices of each.
const CHOICES: u32 = 3;

/// A submission, of a prompt and an answer that any cache holds, and the tokens of its choices when nobody else is there.
pub(super) struct Known {
    asked: Submission,
    alone: Vec<Vec<u32>>,
}

/// One of them.
pub(super) fn known(index: u64) -> &'static Known {
    static ALL: LazyLock<Vec<Known>> = LazyLock::new(|| (0..KNOWN).map(Known::run).collect());
    &ALL[(index % KNOWN) as usize]
}

impl Known {
    /// The submission as client `id` asks it for `n` choices, each of which has said up to `emitted` of its tokens; and what
    /// is still to be said.
    pub(super) fn asked(&self, id: u64, n: u32, emitted: usize) -> Asked {
        let cut = |ids: &Vec<u32>| emitted.min(ids.len() - 1);
        let said = self.alone.iter().take(n.min(CHOICES) as usize);
        let asked = Submission {
            id: id.to_string().into(),
            n: n.min(CHOICES),
            resume: said.clone().map(|ids| ids[..cut(ids)].to_vec()).collect(),
            ..self.asked.clone()
        };
        (asked, said.map(|ids| ids[cut(ids)..].to_vec()).collect())
    }

    fn run(index: u64) -> Self {
        let spec = match index % 3 {
            // Much of it is forced, some of it is long, and some of it can be guessed.
            0 => GrammarSpec::Regex("1[0-9] (5 6 7 8 9 ){2}[23][0-9] ".into()),
            1 => GrammarSpec::Regex("([0-9]+ ){5,20}(7 7 7 )?9 ".into()),
            _ => {
                GrammarSpec::Lark("start: pair+ \"0 \"\npair: A B\nA: /[1-4] /\nB: /[5-9] /".into())
            }
        };
        let mut asked = Submission {
            grammar: Some(grammar(&spec)),
            n: CHOICES,
            ..submission(5_000 + index, 9, 30)
        };
        if index % 2 == 1 {
            let mut prompt = asked.prompt.to_vec();
            prompt[0] = REPEATS;
            asked.prompt = prompt.into();
        }
        if index % 4 >= 2 {
            asked.sampling.frequency_penalty = 0.4;
            asked.sampling.repetition_penalty = 1.1;
        }
        let mut bench = Bench::new(4, 64, 100);
        let mut stream = bench.submit(asked.clone());
        let mut events = Vec::new();
        while bench.finish() > 0 {
            events.extend(take_all(&mut stream));
            bench.core.look_around();
        }
        events.extend(take_all(&mut stream));
        assert!(matches!(events.last(), Some(Event::Done(_))), "{events:?}");
        let alone = (0..CHOICES).map(|choice| ids_of(&events, choice));
        Self {
            asked,
            alone: alone.collect(),
        }
    }
}
