//! What a client may send to do harm, while somebody else is served: what breaks a rule is refused by name before anything
//! is held for it, what is taken ends by itself, and the neighbour says what it would have said alone.

use std::sync::Arc;
use std::time::Duration;

use super::around::{Around, Stepped};
use super::cpu::{assert_cheap, timed};
use super::model::{FAILS, IS_NAN, PANICS, completion, ids_of, submission, text_of};
use super::threads::{options, reach, read_all};
use crate::EngineHandle;
use crate::api::{EngineState, Event, SamplingParams, StopParams, Submission, SubmitError};
use crate::grammar::tests::bombs;
use crate::grammar::{GrammarError, GrammarSpec};
use crate::limits;

/// Tokens of prompt and completion together of the model that all this is sent to.
const CONTEXT: u32 = 1600;
/// Width of its logits.
const WIDTH: u32 = 1266;

async fn engine() -> EngineHandle {
    let plain = |step: &mut dyn FnMut() -> Stepped| step();
    let engine = EngineHandle::start_with(options(40, 40), move |_| Ok(Around::boxed(plain)));
    reach(&engine, |state| *state == EngineState::Ready).await;
    assert_eq!(engine.context_len(), Some(CONTEXT));
    engine
}

/// A submission that is changed in one place, and a word of the error that names it.
type Bad = (fn(&mut Submission), &'static str);

const BAD_TOKENS: &[Bad] = &[
    (|s| s.prompt = [].into(), "prompt"),
    (|s| s.prompt = [WIDTH].into(), "token ids"),
    (|s| s.prompt = vec![u32::MAX; 1_000].into(), "token ids"),
    (|s| s.prompt = vec![u32::MAX; 1 << 20].into(), "the context"),
    (
        |s| s.prompt = vec![1; CONTEXT as usize].into(),
        "the context",
    ),
    (|s| s.resume = vec![vec![WIDTH]], "resume"),
    (|s| s.resume = vec![vec![1; 1 << 20]], "resume"),
    (|s| s.resume = vec![Vec::new(); 1 << 20], "resume"),
    (
        |s| s.sampling.logit_bias = [(WIDTH, 1.0)].into(),
        "logit_bias",
    ),
    (
        |s| s.sampling.logit_bias = [(u32::MAX, 1.0)].into(),
        "logit_bias",
    ),
    (
        |s| s.sampling.logit_bias = [(1, f32::NAN)].into(),
        "logit_bias",
    ),
    (|s| s.sampling.logit_bias = [(1, 1e9)].into(), "logit_bias"),
    (
        |s| s.sampling.logit_bias = vec![(1, 1.0); 1 << 20].into(),
        "logit_bias",
    ),
    (|s| s.stop.token_ids = [WIDTH].into(), "stop_token_ids"),
    (
        |s| s.stop.token_ids = vec![1; 1 << 20].into(),
        "stop_token_ids",
    ),
];

const BAD_NUMBERS: &[Bad] = &[
    (|s| s.sampling.temperature = f32::NAN, "temperature"),
    (|s| s.sampling.temperature = f32::INFINITY, "temperature"),
    (|s| s.sampling.temperature = -1.0, "temperature"),
    (|s| s.sampling.top_p = f32::NAN, "top_p"),
    (|s| s.sampling.top_p = 0.0, "top_p"),
    (|s| s.sampling.top_p = 1.1, "top_p"),
    (|s| s.sampling.min_p = f32::NAN, "min_p"),
    (|s| s.sampling.min_p = 1.5, "min_p"),
    (
        |s| s.sampling.frequency_penalty = f32::NAN,
        "frequency_penalty",
    ),
    (
        |s| s.sampling.presence_penalty = f32::INFINITY,
        "presence_penalty",
    ),
    (
        |s| s.sampling.repetition_penalty = 0.0,
        "repetition_penalty",
    ),
    (
        |s| s.sampling.repetition_penalty = f32::NAN,
        "repetition_penalty",
    ),
    (|s| s.sampling.logprobs = Some(u32::MAX), "logprobs"),
    (|s| s.prompt_logprobs = true, "logprobs"),
    (|s| s.n = 0, "n must"),
    (|s| s.n = u32::MAX, "n must"),
    (|s| s.stop.max_tokens = 0, "max_tokens"),
    (|s| s.stop.min_tokens = u32::MAX, "min_tokens"),
];

const BAD_STOPS: &[Bad] = &[
    (|s| s.stop.strings = vec![String::new()], "stop"),
    (|s| s.stop.strings = vec!["x".to_owned(); 5_000], "stop"),
    (|s| s.stop.strings = vec!["x".repeat(10 << 20)], "stop"),
    (|s| s.deadline = Some(Duration::ZERO), "deadline"),
];

/// Somebody else: long enough that all of the others come while it is answered.
fn neighbour() -> Submission {
    let mut asked = submission(7, 20, 900);
    asked.stop.ignore_eos = true;
    asked
}

/// What the neighbour said is what it says alone, to the byte.
fn assert_unmoved(events: &[Event]) {
    let alone = completion(&neighbour(), 0, CONTEXT);
    let text: String = alone.iter().map(|id| format!("{id} ")).collect();
    assert_eq!(ids_of(events, 0), alone);
    assert_eq!(text_of(events, 0), text);
    assert!(matches!(events.last(), Some(Event::Done(_))));
}

#[tokio::test]
async fn what_breaks_a_rule_is_refused_by_name_and_costs_nobody_a_step() {
    let engine = engine().await;
    let mut stream = engine.submit(neighbour()).unwrap();
    let mut events = Vec::new();
    for (change, word) in [BAD_TOKENS, BAD_NUMBERS, BAD_STOPS].concat() {
        events.extend(stream.recv().await);
        let mut bad = submission(1, 10, 10);
        change(&mut bad);
        let (ms, refused) = timed(|| engine.submit(bad).unwrap_err());
        assert_cheap(word, ms);
        assert!(refused.to_string().contains(word), "{refused} names {word}");
        assert_ne!(refused, SubmitError::QueueFull);
    }
    events.extend(read_all(&mut stream).await);
    assert_unmoved(&events);
    let mut stats = engine.watch_stats();
    let at_rest = stats.wait_for(|stats| stats.running == 0).await;
    let at_rest = *at_rest.expect("the engine tells its figures");
    // All that was ever computed is the neighbour's.
    assert_eq!((at_rest.prefill_tokens, at_rest.decode_tokens), (20, 900));
    assert_eq!(at_rest.blocks_free, at_rest.blocks_total);
}

/// Submissions at the edge of every bound, which are taken; most of them all at once.
pub(super) fn extremes() -> Vec<Submission> {
    let sampled = |id, sampling| Submission {
        sampling,
        ..submission(id, 30, 20)
    };
    let neutral = SamplingParams::default();
    let bias = (0..limits::LOGIT_BIAS_MAX as u32).map(|id| (id, limits::LOGIT_BIAS_ABS_MAX));
    vec![
        Submission {
            n: 8,
            ..sampled(
                100,
                SamplingParams {
                    temperature: f32::MAX,
                    ..neutral.clone()
                },
            )
        },
        sampled(
            101,
            SamplingParams {
                temperature: 2e-5,
                top_p: f32::MIN_POSITIVE,
                ..neutral.clone()
            },
        ),
        sampled(
            102,
            SamplingParams {
                min_p: 1.0,
                top_k: u32::MAX,
                ..neutral.clone()
            },
        ),
        sampled(
            103,
            SamplingParams {
                logit_bias: bias.collect(),
                ..neutral.clone()
            },
        ),
        sampled(
            104,
            SamplingParams {
                repetition_penalty: limits::REPETITION_PENALTY_MAX,
                frequency_penalty: -limits::PENALTY_ABS_MAX,
                presence_penalty: limits::PENALTY_ABS_MAX,
                ..neutral.clone()
            },
        ),
        Submission {
            prompt_logprobs: true,
            ..sampled(
                105,
                SamplingParams {
                    logprobs: Some(limits::TOP_LOGPROBS_MAX),
                    ..neutral
                },
            )
        },
        many_stops(106),
    ]
}

/// One with as many and as long stop strings as may be.
fn many_stops(id: u64) -> Submission {
    let strings = (0..limits::STOP_STRINGS_MAX).map(|i| {
        let end = char::from(b'a' + (i % 26) as u8);
        format!("{}{end}", "a".repeat(limits::STOP_STRING_BYTES_MAX - 1))
    });
    Submission {
        stop: StopParams {
            strings: strings.collect(),
            token_ids: (0..limits::STOP_TOKENS_MAX as u32).collect(),
            min_tokens: 10,
            ..StopParams::after(20)
        },
        ..submission(id, 30, 20)
    }
}

#[tokio::test]
async fn what_is_just_within_the_rules_or_breaks_its_step_moves_nobody() {
    let engine = engine().await;
    let mut stream = engine.submit(neighbour()).unwrap();
    let mut events: Vec<Event> = stream.recv().await.into_iter().collect();
    let mut hostile = extremes();
    hostile.extend([PANICS, FAILS, IS_NAN].map(|token| Submission {
        prompt: [1, token, 2].into(),
        ..submission(u64::from(token), 1, 5)
    }));
    let mut others: Vec<_> = hostile
        .into_iter()
        .map(|asked| {
            let (ms, stream) = timed(|| engine.submit(asked));
            assert_cheap("a submission at its bounds", ms);
            stream.expect("it is taken")
        })
        .collect();
    for other in &mut others {
        events.extend(stream.recv().await);
        let ended = read_all(other).await;
        assert!(matches!(
            ended.last(),
            Some(Event::Done(_) | Event::Failed(..))
        ));
    }
    events.extend(read_all(&mut stream).await);
    assert_unmoved(&events);
}

#[tokio::test]
async fn hostile_grammars_are_refused_or_end_alone() {
    let engine = engine().await;
    let mut stream = engine.submit(neighbour()).unwrap();
    let mut events: Vec<Event> = stream.recv().await.into_iter().collect();
    let grammars = engine.grammars().expect("the engine is loaded");
    let nothing = GrammarSpec::JsonSchema("false".into());
    let refused = grammars.compile(&nothing).expect_err("it allows nothing");
    assert!(matches!(refused, GrammarError::Invalid(_)), "{refused}");
    for name in ["nodes", "repetition", "options", "ambiguous", "deep array"] {
        events.extend(stream.recv().await);
        let spec = bombs::named(name);
        // As the gateway does, away from those who serve.
        let grammars = Arc::clone(&grammars);
        let compiled = tokio::task::spawn_blocking(move || grammars.compile(&spec));
        let Ok(grammar) = compiled.await.expect("no bomb breaks the compiler") else {
            continue;
        };
        let guided = Submission {
            grammar: Some(grammar),
            ..submission(200, 9, 12)
        };
        let ended = read_all(&mut engine.submit(guided).expect("it is taken")).await;
        assert!(
            matches!(ended.last(), Some(Event::Done(_) | Event::Failed(..))),
            "{name}"
        );
    }
    events.extend(read_all(&mut stream).await);
    assert_unmoved(&events);
}
