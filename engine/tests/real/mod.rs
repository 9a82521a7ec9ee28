//! An engine over the real default model, as the tests of its tokens start and ask it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hansa_engine::api::{EngineState, Event, Priority, SamplingParams, StopParams, Submission};
use hansa_engine::{CandleOptions, DeviceOptions, EngineHandle, EngineOptions, RunnerOptions};
use hansa_models::KvType;
use hansa_models::source::{SourceOptions, resolve};

/// A small engine over the default model.
#[expect(
    clippy::disallowed_methods,
    reason = "the test is the binary here: it brings the clock"
)]
pub(crate) fn options(kv_type: KvType) -> (EngineOptions, RunnerOptions) {
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
        inter_token_target: Duration::from_millis(50),
        draft_tokens_max: 8,
        queue_tokens_max: 1 << 20,
        stall_after: Duration::from_secs(30),
    };
    let candle = CandleOptions {
        model_path: model.path,
        device: DeviceOptions::Cpu,
        kv_type,
        quantise: None,
        threads: None,
        allow_inexact: false,
    };
    (options, RunnerOptions::Candle(candle))
}

/// Waits until the engine serves.
pub(crate) async fn ready(engine: &EngineHandle) {
    let mut state = engine.watch_state();
    let settled =
        |state: &EngineState| matches!(state, EngineState::Ready | EngineState::Failed(_));
    let reached = state.wait_for(settled).await.expect("the engine lives");
    assert_eq!(*reached, EngineState::Ready);
}

/// The tokens that follow a prompt: as many as `count`, drawn with seed 7.
pub(crate) async fn say(
    engine: &EngineHandle,
    prompt: &[u32],
    count: usize,
    sampling: SamplingParams,
) -> Vec<u32> {
    let submission = Submission {
        id: "said".into(),
        prompt: prompt.into(),
        n: 1,
        sampling,
        stop: StopParams {
            ignore_eos: true,
            ..StopParams::after(u32::try_from(count).expect("few tokens"))
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
    };
    let mut events = engine.submit(submission).expect("the engine takes it");
    let mut tokens = Vec::new();
    while let Some(event) = events.recv().await {
        assert!(!matches!(event, Event::Failed(..)), "{event:?}");
        if let Event::Delta { token_ids, .. } = event {
            tokens.extend(token_ids);
        }
    }
    tokens
}
