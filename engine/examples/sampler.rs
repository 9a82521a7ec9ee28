//! What a draw costs, setting by setting: `cargo run --release -p hansa-engine --example sampler`.
//!
//! Three kinds of rows over SmolLM2's 49,152 tokens: one in which few tokens have a chance, as those of models do; one in
//! which all are nearly equally likely; and one whose tokens are all the same but for a best one.
#![expect(clippy::print_stdout, reason = "the figures are what it is run for")]
#![expect(
    clippy::disallowed_methods,
    reason = "it measures, and brings the clock"
)]

use std::time::{Duration, Instant};

use hansa_engine::api::{SamplingParams, StopParams};
use hansa_engine::runner::SampleRow;
use hansa_engine::sampler::Sampler;

const VOCABULARY: usize = 49_152;
const DRAWS: u32 = 200;

fn main() {
    println!(
        "{:24}{:>12}{:>12}{:>12}",
        "microseconds a draw", "peaked", "flat", "one better"
    );
    let rows = [peaked(), flat(), one_better()];
    for (name, sampling) in settings() {
        print!("{name:24}");
        for row in &rows {
            print!("{:>12.0}", micros_a_draw(row, &sampling));
        }
        println!();
    }
}

fn settings() -> Vec<(&'static str, SamplingParams)> {
    let of = |top_p, top_k, min_p| SamplingParams {
        top_p,
        top_k,
        min_p,
        ..SamplingParams::default()
    };
    let greedy = SamplingParams {
        temperature: 0.0,
        ..SamplingParams::default()
    };
    vec![
        ("greedy", greedy),
        ("neutral", of(1.0, 0, 0.0)),
        ("top_p 0.9", of(0.9, 0, 0.0)),
        ("top_p 0.999", of(0.999, 0, 0.0)),
        ("top_k 50", of(1.0, 50, 0.0)),
        ("top_k 20000", of(1.0, 20_000, 0.0)),
        ("top_k 20000, top_p 0.9", of(0.9, 20_000, 0.0)),
        ("min_p 0.05", of(1.0, 0, 0.05)),
        ("min_p 0.05, top_p 0.9", of(0.9, 0, 0.05)),
    ]
}

/// The median over some draws, the copy of the row left out.
fn micros_a_draw(row: &[f32], sampling: &SamplingParams) -> f64 {
    let (mut sampler, stop) = (Sampler::default(), StopParams::after(1));
    let mut draw = |index| {
        let mut logits = row.to_vec();
        let begun = Instant::now();
        let outcome = sampler.sample(
            &mut logits,
            &SampleRow {
                sampling,
                stop: &stop,
                history: None,
                guide: None,
                seed: 7,
                choice: 0,
                index,
                drafted: &[],
                given: None,
            },
        );
        assert!(outcome.token().is_some(), "the rows are valid");
        begun.elapsed()
    };
    let mut took: Vec<Duration> = (0..DRAWS).map(&mut draw).collect();
    took.sort_unstable();
    took[took.len() / 2].as_secs_f64() * 1e6
}

/// Numbers between 0 and 1 without order.
fn noise() -> impl Iterator<Item = f32> {
    (0..VOCABULARY as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 16_777_216.0)
}

fn peaked() -> Vec<f32> {
    noise().map(|x| -2.0 * (1.0 - x).max(1e-7).ln()).collect()
}

fn flat() -> Vec<f32> {
    noise().map(|x| x / 100.0).collect()
}

fn one_better() -> Vec<f32> {
    let mut row = vec![0.0; VOCABULARY];
    row[777] = 4.0;
    row
}
