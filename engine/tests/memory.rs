//! The weights of a served model are in memory once: what is read from the file is kept in the kernels' layout, and nothing
//! else of it stays, neither a second copy nor the pages of the file. A test of its own, so that its process holds nothing
//! else. Linux tells what is resident; elsewhere there is nothing to ask.
#![cfg(all(feature = "candle", target_os = "linux"))]
#![expect(
    clippy::expect_used,
    reason = "a test program: what is missing fails it"
)]

mod real;

use hansa_engine::api::SamplingParams;
use hansa_engine::{EngineHandle, RunnerOptions};
use hansa_models::KvType;

use real::{options, ready, say};

/// Beside the weights and the cache: tokenizer, buffers of a step, stacks, and what the allocator keeps.
const REST_BYTES: u64 = 48 << 20;

#[tokio::test]
async fn the_weights_are_in_memory_once() {
    let (engine_options, runner) = options(KvType::F16);
    let kv_bytes = engine_options.kv_bytes_max;
    let RunnerOptions::Candle(candle) = &runner else {
        panic!("the options are those of a real model");
    };
    let file = std::fs::metadata(&candle.model_path).expect("the model is a file");
    let before = resident_bytes();
    let engine = EngineHandle::start(engine_options, runner);
    ready(&engine).await;
    say(&engine, &[1; 64], 8, SamplingParams::default()).await;
    let held = resident_bytes() - before;
    let weights = held.saturating_sub(kv_bytes + REST_BYTES);
    assert!(
        weights < file.len() * 5 / 4,
        "{held} bytes are held for a file of {} and a cache of {kv_bytes}",
        file.len()
    );
}

/// What this process has in memory, pages of mapped files with it.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let digits = line.and_then(|line| line.split_whitespace().nth(1));
    let kib: u64 = digits
        .and_then(|digits| digits.parse().ok())
        .expect("a figure in kB");
    kib * 1024
}
