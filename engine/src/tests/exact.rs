//! Batch invariance of the engine over the real default model: whatever happens around a sequence, its tokens are the same.
//!
//! One loaded model serves every case, each with a scheduler and a cache of its own. `HANSA_SOAK_EXACT` repeats the cases
//! with so many other seeds; `scripts/soak` sets it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hansa_models::source::{SourceOptions, resolve};
use hansa_models::text::{SpecialTokens, TextCodec};
use hansa_models::{Batch, KvType};

use super::hostile::extremes;
use super::model::{Bench, ids_of, submission, take_all};
use super::threads::options;
use crate::api::{Event, Priority, SamplingParams, StopParams, Submission};
use crate::candle_runner::CandleRunner;
use crate::core::Turn;
use crate::device::Device;
use crate::events::EventStream;
use crate::grammar::{Grammar, GrammarSpec, Grammars};
use crate::numerics::Numerics;
use crate::runner::{RowOutcome, Runner, RunnerError, RunnerProfile, SampleRow};
use crate::{CandleOptions, DeviceOptions, EngineOptions};

const BLOCK: u32 = 16;
/// Tokens of each answer.
const TOKENS: u32 = 16;

/// The model, lent to one engine after another.
#[derive(Clone)]
struct Lent(Arc<Mutex<CandleRunner>>);

impl Runner for Lent {
    fn profile(&self) -> RunnerProfile {
        self.model().profile()
    }

    fn text(&self) -> Arc<dyn TextCodec> {
        self.model().text()
    }

    fn warm_up(&mut self) -> Result<(), RunnerError> {
        self.model().warm_up()
    }

    fn numerics(&self) -> Numerics {
        self.model().numerics()
    }

    fn step(
        &mut self,
        batch: &Batch,
        rows: &[SampleRow<'_>],
        outcomes: &mut Vec<RowOutcome>,
    ) -> Result<(), RunnerError> {
        self.model().step(batch, rows, outcomes)
    }
}

impl Lent {
    fn model(&self) -> MutexGuard<'_, CandleRunner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load() -> Self {
        let model = resolve("smollm2-135m-instruct", &SourceOptions::from_env());
        let engine = EngineOptions {
            kv_bytes_max: 64 << 20,
            ..options(40, 40)
        };
        let candle = CandleOptions {
            model_path: model.expect("the default model is there").path,
            device: DeviceOptions::Cpu,
            kv_type: KvType::F16,
            quantise: None,
            threads: None,
            allow_inexact: false,
        };
        let mut runner =
            CandleRunner::load(&Device::start(), &engine, &candle).expect("the model loads");
        runner.warm_up().expect("the self-test passes");
        assert!(runner.numerics().is_repeatable());
        let kv_bytes = runner.resident().kv;
        assert!(kv_bytes > 0 && kv_bytes <= engine.kv_bytes_max);
        Self(Arc::new(Mutex::new(runner)))
    }

    fn bench(&self, sequences_max: u32, step_tokens_max: u32) -> Bench {
        Bench::over(
            Box::new(self.clone()),
            BLOCK,
            sequences_max,
            step_tokens_max,
        )
    }
}

/// Requests of every kind whose tokens could depend on something they must not.
fn subjects(text: &Arc<dyn TextCodec>, vocab_size: u32, seed: u64) -> Vec<Submission> {
    let prompt = "<|im_start|>user\nTell me of the harbour of Lübeck, its ships and their salt: \
                  who sails where, and why?<|im_end|>\n<|im_start|>assistant\n";
    let prompt = text
        .encode(prompt, SpecialTokens::Parse)
        .expect("a short prompt");
    let grammars = Grammars::new(Arc::clone(text), vocab_size);
    let schema = r#"{"type":"object","properties":{"city":{"type":"string","maxLength":12},
        "is_a_port":{"type":"boolean"}},"required":["city","is_a_port"],"additionalProperties":false}"#;
    let grammar = grammars
        .compile(&GrammarSpec::JsonSchema(schema.into()))
        .expect("sound");
    let asked = |id: u64, n: u32, sampling: SamplingParams, grammar: Option<Grammar>| Submission {
        prompt: prompt.clone().into(),
        n,
        sampling,
        stop: StopParams {
            ignore_eos: grammar.is_none(),
            ..StopParams::after(TOKENS)
        },
        grammar,
        seed: seed + id,
        pool: id,
        ..submission(id, 1, 1)
    };
    let greedy = SamplingParams {
        temperature: 0.0,
        ..SamplingParams::default()
    };
    let drawn = SamplingParams {
        temperature: 0.9,
        top_p: 0.95,
        ..SamplingParams::default()
    };
    let penalised = SamplingParams {
        repetition_penalty: 1.2,
        frequency_penalty: 0.5,
        top_k: 50,
        ..SamplingParams::default()
    };
    vec![
        asked(1000, 1, greedy.clone(), None),
        asked(1001, 2, drawn.clone(), None),
        asked(1002, 1, penalised, None),
        asked(1003, 1, greedy, Some(grammar.clone())),
        asked(1004, 2, drawn, Some(grammar)),
    ]
}

/// Tokens of every choice.
fn tokens(asked: &Submission, events: &[Event]) -> Vec<Vec<u32>> {
    assert!(
        matches!(events.last(), Some(Event::Done(_))),
        "{:?}",
        events.last()
    );
    (0..asked.n).map(|choice| ids_of(events, choice)).collect()
}

/// Runs an engine to its end while everybody reads; all events of each stream.
fn play(bench: &mut Bench, streams: &mut [EventStream]) -> Vec<Vec<Event>> {
    let mut events: Vec<Vec<Event>> = streams.iter().map(|_| Vec::new()).collect();
    loop {
        let turn = bench.turn();
        for (stream, events) in streams.iter_mut().zip(&mut events) {
            events.extend(take_all(stream));
        }
        if turn == Turn::Idle {
            return events;
        }
    }
}

fn run(bench: &mut Bench, asked: &Submission) -> Vec<Event> {
    let stream = bench.submit(asked.clone());
    play(bench, &mut [stream]).remove(0)
}

/// All subjects at once, between the others.
fn in_company(
    bench: &mut Bench,
    subjects: &[Submission],
    others: &[Submission],
) -> Vec<Vec<Vec<u32>>> {
    let (before, after) = others.split_at(others.len() / 2);
    let all = before.iter().chain(subjects).chain(after);
    let mut streams: Vec<EventStream> = all.map(|asked| bench.submit(asked.clone())).collect();
    let events = play(bench, &mut streams);
    let of_subjects = subjects.iter().zip(&events[before.len()..]);
    of_subjects
        .map(|(asked, events)| tokens(asked, events))
        .collect()
}

/// So many others that 32 sequences run with the subjects.
fn company() -> Vec<Submission> {
    let other = |id: u64| Submission {
        seed: id,
        ..submission(id, 5 + (id % 9) as u32, 12)
    };
    (0..25).map(other).collect()
}

/// A subject of the lower class whose seats are taken from it twice.
fn preempted(bench: &mut Bench, asked: &Submission) -> Vec<Vec<u32>> {
    let asked = Submission {
        priority: Priority::Batch,
        ..asked.clone()
    };
    let mut stream = bench.submit(asked.clone());
    let mut events = Vec::new();
    for round in 0..2 {
        for _ in 0..3 {
            bench.turn();
            events.extend(take_all(&mut stream));
        }
        let urgent = Submission {
            n: asked.n,
            ..submission(round, 7, 1)
        };
        let mut urgent = bench.submit(urgent);
        while !matches!(take_all(&mut urgent).last(), Some(Event::Done(_))) {
            bench.turn();
            events.extend(take_all(&mut stream));
        }
    }
    events.extend(play(bench, &mut [stream]).remove(0));
    let preemptions = bench.core.stats().preemptions;
    assert!(
        preemptions >= 2 * u64::from(asked.n),
        "{preemptions} preemptions"
    );
    tokens(&asked, &events)
}

/// The same subject after each choice has said so many of its tokens, every choice another number.
fn resumed(bench: &mut Bench, asked: &Submission, alone: &[Vec<u32>], cut: usize) -> Vec<Vec<u32>> {
    let cut = |choice: usize, ids: &[u32]| (cut + 3 * choice).min(ids.len() - 1);
    let before = alone
        .iter()
        .enumerate()
        .map(|(c, ids)| ids[..cut(c, ids)].to_vec());
    let asked = Submission {
        resume: before.collect(),
        ..asked.clone()
    };
    let after = tokens(&asked, &run(bench, &asked));
    asked
        .resume
        .into_iter()
        .zip(after)
        .map(|(before, after)| [before, after].concat())
        .collect()
}

fn check(model: &Lent, subjects: &[Submission]) {
    let lonely = |asked| tokens(asked, &run(&mut model.bench(8, 256), asked));
    let alone: Vec<_> = subjects.iter().map(lonely).collect();
    assert_ne!(alone[1][0], alone[1][1], "choices draw for themselves");
    assert_ne!(alone[4][0], alone[4][1], "under a grammar too");
    assert_eq!(
        in_company(&mut model.bench(40, 256), subjects, &company()),
        alone,
        "in company"
    );
    assert_eq!(
        in_company(&mut model.bench(40, 256), subjects, &extremes()),
        alone,
        "beside what is just within the rules"
    );
    assert_eq!(
        in_company(&mut model.bench(7, 11), subjects, &[]),
        alone,
        "in odd chunks"
    );
    for (asked, alone) in subjects.iter().zip(&alone) {
        let id = &asked.id;
        assert_eq!(
            &preempted(&mut model.bench(asked.n, 256), asked),
            alone,
            "{id} preempted"
        );
        let mut bench = model.bench(8, 256);
        for cut in [1, 6] {
            assert_eq!(
                &resumed(&mut bench, asked, alone, cut),
                alone,
                "{id} resumed at {cut}"
            );
        }
        let events = run(&mut bench, asked);
        let cached = matches!(events.last(), Some(Event::Done(usage)) if usage.cached_tokens > 0);
        assert!(cached, "{id} found its prompt");
        assert_eq!(&tokens(asked, &events), alone, "{id} with a known prompt");
    }
}

#[test]
fn nothing_around_a_sequence_changes_its_tokens() {
    let model = Lent::load();
    let rounds = std::env::var("HANSA_SOAK_EXACT").ok();
    let rounds = rounds.map_or(1, |n| n.parse().expect("HANSA_SOAK_EXACT is a number"));
    for round in 0..rounds {
        let (text, width) = (model.text(), model.profile().vocab_size);
        check(&model, &subjects(&text, width, 7919 * round));
    }
}
