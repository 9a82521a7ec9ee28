//! What a long prompt does to the streams beside it, and what a prompt costs that was computed before.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::completion::{Completion, prompt};
use crate::server::Server;

/// Streams that decode while the long prompt comes.
const STREAMS: usize = 16;
/// Tokens of each: enough to be decoding before, during and after.
const STREAM_TOKENS: usize = 320;
/// How long they decode alone.
const ALONE: Duration = Duration::from_secs(5);
/// Words of the long prompt.
const LONG_WORDS: usize = 1_500;
/// Words of the prompt that is sent twice.
const PREFIX_WORDS: usize = 1_000;

/// How the streams' gaps change.
pub struct Company {
    pub median_gap_before_ms: f64,
    /// While the long prompt was computed.
    pub p99_gap_ms: f64,
    pub long_ttft_s: f64,
    pub long_tokens: u64,
}

impl Company {
    /// Starts the streams, then the prompt. `round` makes its text different from every earlier one.
    pub fn measure(server: &Server, round: usize) -> Result<Self> {
        let (streams, long) = thread::scope(|scope| {
            let streams: Vec<_> = (0..STREAMS)
                .map(|i| {
                    let text = prompt(16, 1_000 * (round + 1) + i);
                    scope.spawn(move || Completion::run(server, &text, STREAM_TOKENS))
                })
                .collect();
            thread::sleep(ALONE);
            let long = Completion::run(server, &prompt(LONG_WORDS, round + 1), 4);
            let streams = streams.into_iter().map(|stream| stream.join());
            (streams.collect::<Vec<_>>(), long)
        });
        let long = long?;
        let ttft = long.ttft()?;
        let during = long.sent..long.sent + Duration::from_secs_f64(ttft);
        let (mut before, mut beside) = (Vec::new(), Vec::new());
        for stream in streams {
            let stream = stream.ok().context("a stream panicked")??;
            // The first gaps hold the prefill of the other streams.
            let started = stream.sent + ALONE / 2;
            for pair in stream.arrivals.windows(2) {
                let gap = (pair[1] - pair[0]).as_secs_f64() * 1e3;
                if pair[0] > started && pair[1] < during.start {
                    before.push(gap);
                } else if overlaps(pair, &during) {
                    beside.push(gap);
                }
            }
        }
        Ok(Self {
            median_gap_before_ms: quantile(&mut before, 0.5)?,
            p99_gap_ms: quantile(&mut beside, 0.99)?,
            long_ttft_s: ttft,
            long_tokens: long.prompt_tokens,
        })
    }

    pub fn ratio(&self) -> f64 {
        self.p99_gap_ms / self.median_gap_before_ms
    }
}

fn overlaps(pair: &[Instant], during: &std::ops::Range<Instant>) -> bool {
    pair[1] > during.start && pair[0] < during.end
}

/// Seconds to the first token of a prompt that is new, and of the same once more.
pub fn prefix(server: &Server, round: usize) -> Result<(f64, f64)> {
    let text = prompt(PREFIX_WORDS, 77 + round);
    let first = Completion::run(server, &text, 4)?.ttft()?;
    let again = Completion::run(server, &text, 4)?.ttft()?;
    Ok((first, again))
}

fn quantile(samples: &mut [f64], q: f64) -> Result<f64> {
    samples.sort_by(f64::total_cmp);
    let rank = (samples.len() as f64 * q).ceil() as usize;
    let sample = samples.get(rank.saturating_sub(1));
    sample
        .copied()
        .context("no gap was seen: the streams ended too early")
}
