//! Guessed tokens on the real default model: what it says, greedy and drawn, is the same with and without them, to the
//! token, where the text repeats its input and where it does not.
#![cfg(feature = "candle")]
#![expect(
    clippy::expect_used,
    reason = "a test program: what is missing fails it"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use hansa_engine::api::{EngineState, Event, Priority, SamplingParams, StopParams, Submission};
use hansa_engine::{CandleOptions, DeviceOptions, EngineHandle, EngineOptions, RunnerOptions};
use hansa_models::KvType;
use hansa_models::source::{SourceOptions, resolve};
use hansa_models::text::SpecialTokens;

/// A text that the model goes on repeating, and one that it does not.
const PROMPTS: [&str; 2] = [
    "Name: Ada Lovelace, born 1815 in London, mathematician.\nName: Alan Turing, born 1912 in London, mathematician.\n\
     Name: Grace Hopper, born 1906 in New York, admiral.\nThe same list again:\nName: Ada Lovelace, born",
    "Write a poem about the sea and the ships of Lubeck.\n",
];

/// How a completion is drawn.
const TEMPERATURES: [f32; 2] = [0.0, 0.7];

#[tokio::test]
async fn guesses_change_no_token_of_the_real_model() {
    let (plain, _) = say_all(0).await;
    let (guessed, accepted) = say_all(15).await;
    assert_eq!(guessed, plain);
    // How many depends on how long steps take on the machine; some are always tried.
    assert!(accepted > 0, "nothing was guessed right");
}

/// The completions of all prompts with so many guesses, and how many of these were right.
async fn say_all(draft_tokens_max: u32) -> (Vec<Vec<u32>>, u64) {
    let engine = engine(draft_tokens_max);
    let mut state = engine.watch_state();
    let settled =
        |state: &EngineState| matches!(state, EngineState::Ready | EngineState::Failed(_));
    let reached = state
        .wait_for(settled)
        .await
        .expect("the engine lives")
        .clone();
    assert_eq!(reached, EngineState::Ready);
    let cases = PROMPTS
        .iter()
        .flat_map(|prompt| TEMPERATURES.map(|t| (prompt, t)));
    let mut said = Vec::new();
    // One after another: alone a guess is worth most.
    for (prompt, temperature) in cases {
        let asked = submission(&engine, prompt, temperature);
        let mut events = engine.submit(asked).expect("the engine takes it");
        let mut tokens = Vec::new();
        while let Some(event) = events.recv().await {
            assert!(!matches!(event, Event::Failed(..)), "{event:?}");
            if let Event::Delta { token_ids, .. } = event {
                tokens.extend(token_ids);
            }
        }
        assert_eq!(tokens.len(), 48);
        said.push(tokens);
    }
    (said, engine.stats().accepted_tokens)
}

fn submission(engine: &EngineHandle, prompt: &str, temperature: f32) -> Submission {
    let text = engine.text().expect("a loaded engine has a tokenizer");
    let prompt = text
        .encode(prompt, SpecialTokens::Parse)
        .expect("the prompt is short");
    Submission {
        id: format!("{temperature} {}", prompt.len()).into(),
        prompt: prompt.into(),
        n: 1,
        sampling: SamplingParams {
            temperature,
            top_p: 0.95,
            ..SamplingParams::default()
        },
        stop: StopParams {
            ignore_eos: true,
            ..StopParams::after(48)
        },
        grammar: None,
        seed: 7,
        priority: Priority::Interactive,
        resume: Vec::new(),
        flow: 0,
        pool: 0,
        deadline: Some(Duration::from_secs(3600)),
        want_token_ids: true,
        prompt_logprobs: false,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test is the binary here: it brings the clock"
)]
fn engine(draft_tokens_max: u32) -> EngineHandle {
    let start = Instant::now();
    let model = resolve("smollm2-135m-instruct", &SourceOptions::from_env())
        .expect("the default model is there");
    let options = EngineOptions {
        clock: Arc::new(move || start.elapsed()),
        sequences_max: 8,
        step_tokens_max: 256,
        queue_max: 8,
        block_size: 16,
        context_max: None,
        kv_bytes_max: 64 << 20,
        // Whatever the machine does meanwhile, there is time for guesses.
        inter_token_target: Duration::from_secs(10),
        draft_tokens_max,
        queue_tokens_max: 1 << 20,
        stall_after: Duration::from_secs(30),
    };
    let candle = CandleOptions {
        model_path: model.path,
        device: DeviceOptions::Cpu,
        kv_type: KvType::F16,
        quantise: None,
        threads: None,
        allow_inexact: false,
    };
    EngineHandle::start(options, RunnerOptions::Candle(candle))
}
