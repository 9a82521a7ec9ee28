//! Greedy continuations of the real default model against those that llama.cpp gives for the same file.
//!
//! The tokens were written once by `scripts/golden-tokens`; each was the best by a clear margin there.
#![cfg(feature = "candle")]
#![expect(
    clippy::expect_used,
    reason = "a test program: what is missing fails it"
)]

mod real;

use std::sync::Arc;
use std::time::Duration;

use hansa_engine::api::{EngineState, SamplingParams};
use hansa_engine::embed::{EmbedHandle, EmbedOptions, EmbedderOptions};
use hansa_engine::{Device, DeviceOptions, EngineHandle};
use hansa_models::KvType;
use hansa_models::source::{SourceOptions, resolve};
use hansa_models::text::SpecialTokens;
use serde_json::Value;

const GOLDEN: &str = include_str!("data/golden_smollm2.json");

/// A text, and the vector that `transformers` gives it.
const SALT: &str = "the free cities traded salt and fish";
const VECTORS: &str = include_str!("../../models/tests/data/minilm_vectors.json");

struct Case {
    prompt: String,
    prompt_ids: Vec<u32>,
    tokens: Vec<u32>,
}

#[tokio::test]
async fn greedy_tokens_are_those_of_llama_cpp() {
    for kv_type in [KvType::F16, KvType::F32] {
        let (options, runner) = real::options(kv_type);
        let engine = EngineHandle::start(options, runner);
        real::ready(&engine).await;
        let text = engine.text().expect("a loaded engine has a tokenizer");
        for case in cases() {
            let ids = text
                .encode(&case.prompt, SpecialTokens::Parse)
                .expect("the prompt is short");
            assert_eq!(ids, case.prompt_ids, "tokens of {:?}", case.prompt);
            let got = greedy(&engine, &case).await;
            assert_eq!(
                got, case.tokens,
                "continuation of {:?} with {kv_type:?}",
                case.prompt
            );
        }
    }
}

#[tokio::test]
async fn a_model_and_an_embedder_that_share_a_processor_say_what_they_say_alone() {
    let device = Device::start();
    let (options, runner) = real::options(KvType::F16);
    let embed = EmbedOptions {
        clock: Arc::clone(&options.clock),
        step_tokens_max: 256,
        pass_target: Duration::from_millis(50),
        requests_max: 8,
        queue_tokens_max: 1 << 20,
        stall_after: Duration::from_secs(30),
    };
    let found = resolve("all-minilm-l6-v2", &SourceOptions::from_env());
    let embedder = EmbedderOptions::Candle {
        model_path: found.expect("the embedder is there").path,
        device: DeviceOptions::Cpu,
    };
    let engine = EngineHandle::start_on(&device, 1, options, runner);
    let embedder = EmbedHandle::start_on(&device, 1, embed, embedder);
    real::ready(&engine).await;
    let mut state = embedder.watch_state();
    let is_ready = |state: &EngineState| *state == EngineState::Ready;
    state.wait_for(is_ready).await.expect("the embedder loads");
    let model = embedder.embedder().expect("a loaded embedder");
    let ids: Arc<[u32]> = model.encode(SALT).expect("a short text").into();
    let asked = vec![ids; 40];
    for case in cases().iter().take(2) {
        let vectors = embedder.embed(asked.clone(), None).expect("it takes it");
        let (tokens, vectors) = tokio::join!(greedy(&engine, case), vectors.wait());
        assert_eq!(tokens, case.tokens, "continuation of {:?}", case.prompt);
        let expected: Vec<Value> = serde_json::from_str(VECTORS).expect("the vectors are JSON");
        let expected = expected[0]["vector"].as_array().expect("numbers");
        for vector in vectors.expect("vectors") {
            let pairs = vector.iter().zip(expected);
            let apart = pairs.map(|(x, y)| (f64::from(*x) - y.as_f64().unwrap_or(9.0)).abs());
            assert!(apart.fold(0.0, f64::max) < 1e-4);
        }
    }
}

fn cases() -> Vec<Case> {
    let golden: Value = serde_json::from_str(GOLDEN).expect("the golden file is JSON");
    let ids = |value: &Value| -> Vec<u32> {
        value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|id| u32::try_from(id.as_u64()?).ok())
            .collect()
    };
    let cases = golden["cases"].as_array().expect("cases");
    cases
        .iter()
        .map(|case| Case {
            prompt: case["prompt"].as_str().unwrap_or_default().to_owned(),
            prompt_ids: ids(&case["prompt_ids"]),
            tokens: ids(&case["tokens"]),
        })
        .filter(|case| !case.tokens.is_empty())
        .collect()
}

async fn greedy(engine: &EngineHandle, case: &Case) -> Vec<u32> {
    let sampling = SamplingParams {
        temperature: 0.0,
        ..SamplingParams::default()
    };
    real::say(engine, &case.prompt_ids, case.tokens.len(), sampling).await
}
