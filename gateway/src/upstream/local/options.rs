//! A `[[model]]` section as the engine's options.

use std::sync::Arc;
use std::time::Duration;

use hansa_config::schema;
use hansa_engine::embed::{EmbedOptions, EmbedderOptions, SimEmbedOptions};
use hansa_engine::{EngineOptions, RunnerOptions, SimOptions};

use crate::clock::Clock;

pub(super) fn engine_options(model: &schema::Model, clock: &Clock) -> EngineOptions {
    let clock = clock.clone();
    EngineOptions {
        clock: Arc::new(move || clock.now()),
        sequences_max: model.sequences_max,
        step_tokens_max: model.step_tokens_max,
        queue_max: model.queue_max,
        queue_tokens_max: model.queue_tokens_max,
        block_size: model.block_tokens,
        context_max: model.context_max,
        kv_bytes_max: model.kv_bytes_cap().unwrap_or(u64::MAX),
        draft_tokens_max: model.drafts_max(),
        inter_token_target: Duration::from_millis(model.inter_token_target_ms),
        stall_after: Duration::from_millis(model.stall_after_ms),
    }
}

pub(super) fn embed_options(model: &schema::Model, clock: &Clock) -> EmbedOptions {
    let clock = clock.clone();
    EmbedOptions {
        clock: Arc::new(move || clock.now()),
        step_tokens_max: model.step_tokens_max,
        pass_target: Duration::from_millis(model.inter_token_target_ms),
        requests_max: model.queue_max,
        queue_tokens_max: model.queue_tokens_max,
        stall_after: Duration::from_millis(model.stall_after_ms),
    }
}

/// What a model is for, known once its files are here.
pub(super) enum Runs {
    Generates(RunnerOptions),
    Embeds(EmbedderOptions),
}

pub(super) async fn runs(model: schema::Model) -> Result<Runs, String> {
    match model.runner {
        schema::Runner::Sim => Ok(sim_options(&model.sim)),
        schema::Runner::Candle => candle_options(model).await,
    }
}

/// Bytes of KV cache that a simulated token is taken to need: the default budget then holds 16,384 tokens, enough for two
/// whole contexts and few enough that a test can use them up.
const SIM_KV_BYTES_PER_TOKEN: u64 = 16 << 10;

fn sim_options(sim: &schema::Sim) -> Runs {
    if sim.embedding_numbers > 0 {
        return Runs::Embeds(EmbedderOptions::Sim(SimEmbedOptions {
            width: sim.embedding_numbers,
            tokens_max: sim.context_tokens,
            step_base: Duration::from_micros(sim.step_base_us),
            token: Duration::from_micros(sim.prefill_token_us),
        }));
    }
    Runs::Generates(RunnerOptions::Sim(SimOptions {
        context_len: sim.context_tokens,
        step_base: Duration::from_micros(sim.step_base_us),
        prefill_token: Duration::from_micros(sim.prefill_token_us),
        decode_sequence: Duration::from_micros(sim.decode_sequence_us),
        kv_bytes_per_token: SIM_KV_BYTES_PER_TOKEN,
    }))
}

#[cfg(feature = "candle")]
async fn candle_options(model: schema::Model) -> Result<Runs, String> {
    use hansa_engine::{CandleOptions, DeviceOptions};
    use hansa_models::source::{SourceOptions, resolve};

    let source = model.source.clone();
    // Downloading and hashing block for long, so on a thread of their own.
    let fetched = move || resolve(&source, &SourceOptions::from_env()).map_err(|e| e.to_string());
    let file = tokio::task::spawn_blocking(fetched)
        .await
        .map_err(|_| "fetching the model failed; the log says why".to_owned())??;
    let device = match model.device {
        schema::Device::Cpu => DeviceOptions::Cpu,
        schema::Device::Cuda(ordinal) => DeviceOptions::Cuda(ordinal as usize),
    };
    let model_path = file.path;
    if hansa_models::embed::is_embedder(&model_path) {
        return Ok(Runs::Embeds(EmbedderOptions::Candle { model_path, device }));
    }
    Ok(Runs::Generates(RunnerOptions::Candle(CandleOptions {
        model_path,
        device,
        kv_type: match model.kv_type {
            schema::KvType::F16 => hansa_models::KvType::F16,
            schema::KvType::F32 => hansa_models::KvType::F32,
        },
        allow_inexact: model.self_test == schema::SelfTest::Warn,
        quantise: match model.quantise {
            schema::Quantise::None => None,
            schema::Quantise::Q8_0 => Some(hansa_models::Quantise::Q8_0),
            schema::Quantise::Q4_K => Some(hansa_models::Quantise::Q4_K),
        },
        threads: model.threads.map(|threads| threads as usize),
    })))
}

#[cfg(not(feature = "candle"))]
async fn candle_options(_: schema::Model) -> Result<Runs, String> {
    Err(
        "this build has no tensors; use runner = \"sim\", or build with the cargo feature `candle`"
            .to_owned(),
    )
}
