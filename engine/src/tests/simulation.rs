//! Random lives of an engine with too little cache: whatever happens, the invariants hold, every accepted submission
//! ends once, and its tokens are those it would have had alone.

use proptest::prelude::*;

use super::known::{Asked, KNOWN, known, resumed};
use super::model::{Bench, FAILS, PANICS, REPEATS, after_text, ids_of, submission, take, take_all};
use crate::api::{EngineError, Event, Priority, Submission};
use crate::core::Turn;
use crate::events::EventStream;
use crate::limits::PAUSE_KEEPS_BLOCKS;

#[derive(Debug, Clone)]
enum Op {
    Submit {
        prompt: u32,
        max_tokens: u32,
        n: u32,
        slow: bool,
        deadline_ms: Option<u64>,
        kind: Kind,
    },
    Turns {
        count: u32,
    },
    Drop {
        stream: usize,
    },
    Abort {
        stream: usize,
    },
    Read {
        stream: usize,
        events: usize,
    },
    Pass,
}

/// Who asks, and for what.
#[derive(Debug, Clone)]
struct Kind {
    /// Text that the prompt begins with, and how much of it.
    text: u64,
    shared: u32,
    pool: u64,
    flow: u64,
    batch: bool,
    /// Tokens that each choice is taken to have produced already.
    emitted: u32,
    /// A token that breaks the step.
    bad: Option<u32>,
    /// Whether the completion goes round in circles, which can be guessed.
    repeats: bool,
    /// One of the guided submissions instead.
    guided: Option<u64>,
}

fn kind() -> impl Strategy<Value = Kind> {
    let bad = prop::option::weighted(0.05, prop_oneof![Just(PANICS), Just(FAILS)]);
    let emitted = prop_oneof![4 => Just(0), 1 => 1..20_u32];
    let shared = prop_oneof![Just(0), 1..40_u32];
    (
        0..3_u64,
        shared,
        0..2_u64,
        0..4_u64,
        any::<bool>(),
        emitted,
        bad,
        any::<bool>(),
        prop::option::weighted(0.1, 0..KNOWN),
    )
        .prop_map(
            |(text, shared, pool, flow, batch, emitted, bad, repeats, guided)| Kind {
                text,
                shared,
                pool,
                flow,
                batch,
                emitted,
                bad,
                repeats,
                guided,
            },
        )
}

/// The submission of client `id`, and the tokens that its choices have still to say.
fn asked(id: u64, prompt: u32, max_tokens: u32, n: u32, kind: &Kind, context_len: u32) -> Asked {
    let emitted = kind.emitted as usize;
    let (mut asked, alone) = match kind.guided {
        Some(index) => known(index).asked(id, n, emitted),
        None => {
            let unguided = unguided(id, prompt, max_tokens, kind);
            resumed(Submission { n, ..unguided }, emitted, context_len)
        }
    };
    asked.pool = kind.pool;
    asked.flow = kind.flow;
    asked.priority = if kind.batch {
        Priority::Batch
    } else {
        Priority::Interactive
    };
    (asked, alone)
}

fn unguided(id: u64, prompt: u32, max_tokens: u32, kind: &Kind) -> Submission {
    let shared = kind.shared.min(prompt - 1);
    let mut asked = after_text(kind.text, shared, id, prompt - shared, max_tokens);
    let mut prompt = asked.prompt.to_vec();
    if kind.repeats {
        prompt[0] = REPEATS;
    }
    if let Some(bad) = kind.bad {
        *prompt.last_mut().expect("a prompt has tokens") = bad;
    }
    asked.prompt = prompt.into();
    asked
}

fn op() -> impl Strategy<Value = Op> {
    let submit = (
        1..60_u32,
        1..90_u32,
        1..4_u32,
        prop::bool::weighted(0.3),
        deadline(),
        kind(),
    );
    prop_oneof![
        4 => submit.prop_map(|(prompt, max_tokens, n, slow, deadline_ms, kind)| {
            Op::Submit { prompt, max_tokens, n, slow, deadline_ms, kind }
        }),
        5 => (1..30_u32).prop_map(|count| Op::Turns { count }),
        1 => (0..64_usize).prop_map(|stream| Op::Drop { stream }),
        1 => (0..64_usize).prop_map(|stream| Op::Abort { stream }),
        2 => (0..64_usize, 1..80_usize).prop_map(|(stream, events)| Op::Read { stream, events }),
        1 => Just(Op::Pass),
    ]
}

fn deadline() -> impl Strategy<Value = Option<u64>> {
    prop::option::weighted(0.2, 0..400_u64)
}

/// A client: what it asked, what it would be told alone, what it got.
struct Client {
    asked: Submission,
    alone: Vec<Vec<u32>>,
    stream: Option<EventStream>,
    got: Vec<Event>,
    slow: bool,
}

struct World {
    bench: Bench,
    clients: Vec<Client>,
}

impl World {
    fn apply(&mut self, op: &Op) {
        let clients = self.clients.len();
        match *op {
            Op::Submit {
                prompt,
                max_tokens,
                n,
                slow,
                deadline_ms,
                ref kind,
            } => {
                let context_len = self.bench.context_len;
                let (mut asked, alone) =
                    asked(clients as u64, prompt, max_tokens, n, kind, context_len);
                asked.deadline =
                    deadline_ms.map(|ms| self.bench.now + std::time::Duration::from_millis(ms));
                let stream = Some(self.bench.submit(asked.clone()));
                self.clients.push(Client {
                    asked,
                    alone,
                    stream,
                    got: Vec::new(),
                    slow,
                });
            }
            Op::Turns { count } => (0..count).for_each(|_| self.turn()),
            Op::Pass => self.bench.now += PAUSE_KEEPS_BLOCKS,
            Op::Drop { stream } if clients > 0 => self.clients[stream % clients].stream = None,
            Op::Abort { stream } if clients > 0 => {
                self.bench.abort(&(stream % clients).to_string())
            }
            Op::Read { stream, events } if clients > 0 => {
                let client = &mut self.clients[stream % clients];
                if let Some(stream) = &mut client.stream {
                    client
                        .got
                        .extend(std::iter::from_fn(|| take(stream)).take(events));
                }
            }
            _ => {}
        }
    }

    fn turn(&mut self) {
        self.bench.turn();
        for client in self.clients.iter_mut().filter(|c| !c.slow) {
            client.read();
        }
    }

    /// Everyone reads until all is over.
    fn finish(&mut self) {
        for _ in 0..100_000 {
            self.clients.iter_mut().for_each(Client::read);
            if self.bench.turn() == Turn::Idle {
                return self.clients.iter_mut().for_each(Client::read);
            }
        }
        panic!("some sequence never ends");
    }
}

impl Client {
    fn read(&mut self) {
        if let Some(stream) = &mut self.stream {
            self.got.extend(take_all(stream));
        }
    }

    /// One end, the tokens of a lonely run, and a usage that counts them.
    fn check(&self) {
        let ends = |e: &&Event| matches!(e, Event::Done(_) | Event::Failed(..));
        assert_eq!(
            self.got.iter().filter(ends).count(),
            1,
            "each stream ends once"
        );
        let mut produced = 0;
        for (alone, choice) in self.alone.iter().zip(0..) {
            let ids = ids_of(&self.got, choice);
            produced += ids.len() as u32;
            match self.got.last() {
                Some(Event::Done(_)) => assert_eq!(&ids, alone),
                _ => assert!(alone.starts_with(&ids)),
            }
        }
        let (Some(Event::Done(usage)) | Some(Event::Failed(_, usage))) = self.got.last() else {
            panic!("the end is the last event");
        };
        assert_eq!(usage.completion_tokens, produced);
        if let Some(Event::Failed(error, _)) = self.got.last() {
            let is_bad = self
                .asked
                .prompt
                .iter()
                .any(|id| [PANICS, FAILS].contains(id));
            let fault = is_bad.then_some(EngineError::StepFailed);
            let expected = [EngineError::Aborted, EngineError::DeadlineExceeded];
            let expected: Vec<_> = expected.into_iter().chain(fault).collect();
            assert!(expected.contains(error), "{error}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_life_ends_well(
        ops in prop::collection::vec(op(), 1..60),
        sequences_max in 1_u32..8,
        step_tokens_max in 1_u32..40,
        kv_blocks in 16_u32..50,
        draft_tokens_max in 0_u32..10,
    ) {
        let bench = Bench::guessing(draft_tokens_max, sequences_max, step_tokens_max, kv_blocks);
        let mut world = World { bench, clients: Vec::new() };
        for op in &ops {
            world.apply(op);
        }
        world.finish();
        let stats = world.bench.core.stats();
        prop_assert_eq!(stats.blocks_free, stats.blocks_total);
        for client in world.clients.iter().filter(|c| c.stream.is_some()) {
            client.check();
        }
    }

    /// The oldest sequence goes on in every step, and needs no more steps than it has tokens to compute, twice where it
    /// was preempted before it became the oldest. So nobody waits longer than the sum over those before.
    #[test]
    fn nobody_waits_longer_than_those_before_need(
        requests in prop::collection::vec((1..60_u32, 1..40_u32), 1..24),
        sequences_max in 1_u32..8,
        step_tokens_max in 1_u32..40,
    ) {
        let mut bench = Bench::new(sequences_max, step_tokens_max, 26);
        let mut streams: Vec<EventStream> = requests.iter().zip(0..)
            .map(|(&(prompt, max_tokens), id)| bench.submit(submission(id, prompt, max_tokens)))
            .collect();
        let mut first_at = vec![None; streams.len()];
        for turn in 1..100_000_u32 {
            let state = bench.turn();
            for (stream, at) in streams.iter_mut().zip(&mut first_at) {
                if !take_all(stream).is_empty() {
                    at.get_or_insert(turn);
                }
            }
            if state == Turn::Idle {
                break;
            }
        }
        let mut bound = 0;
        for ((prompt, max_tokens), at) in requests.iter().zip(first_at) {
            bound += 2 * (prompt + max_tokens);
            prop_assert!(at.is_some_and(|at| at <= bound), "{at:?} is past {bound}");
        }
    }
}
