//! What is asked of a simulated world: when requests come, and how long they are.
//!
//! Request number `n` is the same under every policy: everything of it follows from the seed and the number. Arrivals at a
//! gateway are a Poisson process whose rate may follow the sun (the sum of exponential gaps of rate 1, stretched so that the
//! area under the rate between two arrivals is the gap), or those of a recorded load.

use std::sync::Arc;

use hansa_gateway::limits::{PREFIX_BLOCK_BYTES, PREFIX_BLOCKS_MAX};
use hansa_gateway::route::prefix::covered;

use super::node::{BLOCK_TOKENS, Means};
use crate::clock::Nanos;
use crate::rng::{SplitMix64, mix};
use crate::spread::{Spread, exponential, normal};
use crate::trace::{self, Prompt, Trace};
use crate::workload::Prefix;

/// Requests drawn to know the means.
const SAMPLE: u64 = 4_096;
/// Length of a piece of constant rate, in seconds.
const PIECE_S: f64 = 60.0;
/// Blocks of a prompt that may be found again: those that routers look at.
const BLOCKS_MAX: u64 = (covered(PREFIX_BLOCKS_MAX) / PREFIX_BLOCK_BYTES) as u64;
/// Families of draws.
const GAPS: u64 = 0x6761_7073;
const SIZES: u64 = 0x7369_7a65;
const BURSTS: u64 = 0x6275_7273;

/// When requests come.
#[derive(Debug, Clone)]
pub enum Arriving {
    /// At random, all day alike.
    Poisson {
        /// Requests a second over all gateways.
        rate: f64,
    },
    /// At random, more at day than at night and in waves of minutes, as Azure's recorded loads are.
    Daily(Daily),
    /// As recorded.
    Recorded(Arc<Trace>),
}

/// A load that follows the sun, at each gateway its own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Daily {
    /// Requests a second over all gateways, on average over a day.
    pub rate: f64,
    /// How much more than the mean there is at the peak, from 0 to 1; as much less twelve hours later.
    pub swing: f64,
    /// Hour of the sun at a gateway at which its peak is.
    pub peak_hour: f64,
    /// Standard deviation of the logarithm of a minute's rate.
    pub waves: f64,
}

/// How long requests are, and what they share.
#[derive(Debug, Clone)]
pub struct Lengths {
    /// Tokens of a prompt, without what it shares.
    pub prompt: Spread,
    /// Tokens of an answer.
    pub output: Spread,
    /// What clients name as the most; routers see this and no more.
    pub max_tokens: Option<u32>,
    /// Beginnings that prompts share.
    pub prefix: Option<Prefix>,
    /// Recorded lengths instead.
    pub recorded: Option<Arc<Trace>>,
}

/// One request.
#[derive(Debug, Clone)]
pub(super) struct Demand {
    pub(super) prompt: u64,
    pub(super) output: u64,
    pub(super) blocks: Arc<[u64]>,
    /// A number in `[0, 1)` that says whose it is.
    pub(super) whose: f64,
}

impl Demand {
    /// The blocks as routers cut them, later ones longer: each is told by its last part.
    pub(super) fn beginnings(&self) -> Arc<[u64]> {
        let ends = (1..=PREFIX_BLOCKS_MAX).map(|block| covered(block) / PREFIX_BLOCK_BYTES);
        ends.map_while(|end| self.blocks.get(end - 1).copied())
            .collect()
    }
}

impl Lengths {
    /// Request number `number`.
    pub(super) fn draw(&self, seed: u64, number: u64) -> Demand {
        let mut rng = SplitMix64::for_item(seed ^ SIZES, number);
        let whose = rng.next_unit();
        let own = mix(seed ^ mix(number));
        if let Some(trace) = &self.recorded {
            return recorded(trace, number, own, whose);
        }
        let mut prompt = u64::from(self.prompt.sample_whole(&mut rng));
        let output = u64::from(self.output.sample_whole(&mut rng)).max(1);
        let output = self
            .max_tokens
            .map_or(output, |max| output.min(u64::from(max)));
        let mut shared = 0;
        let mut beginning = 0;
        if let Some(prefix) = self.prefix.filter(|p| rng.next_unit() < p.share) {
            shared = u64::from(prefix.tokens);
            beginning = mix(seed ^ (rng.next_unit() * f64::from(prefix.count)) as u64);
        }
        prompt = (prompt + shared).max(1);
        let whole = (prompt / BLOCK_TOKENS).min(BLOCKS_MAX);
        let block = |index: u64| {
            let stream = if (index + 1) * BLOCK_TOKENS <= shared {
                beginning
            } else {
                own
            };
            mix(stream.wrapping_add(index))
        };
        Demand {
            prompt,
            output,
            blocks: (0..whole).map(block).collect(),
            whose,
        }
    }

    /// Mean figures, from a sample.
    #[must_use]
    pub fn means(&self, seed: u64) -> Means {
        let shared = self.prefix.map_or(0.0, |prefix| {
            let whole = u64::from(prefix.tokens) / BLOCK_TOKENS * BLOCK_TOKENS;
            prefix.share * whole as f64
        });
        let mut sum = Means::default();
        for number in 0..SAMPLE {
            let demand = self.draw(seed, number);
            let (prompt, output) = (demand.prompt as f64, demand.output as f64);
            sum.prompt += prompt;
            sum.output += output;
            sum.output_context += output * (prompt + output / 2.0);
        }
        let n = SAMPLE as f64;
        Means {
            prompt: sum.prompt / n,
            uncached: sum.prompt / n - shared,
            output: sum.output / n,
            output_context: sum.output_context / n,
        }
    }
}

/// Request `number` of a recorded load; beyond its end it begins again.
fn recorded(trace: &Trace, number: u64, own: u64, whose: f64) -> Demand {
    let entries = trace.entries();
    let index = usize::try_from(number % entries.len().max(1) as u64).unwrap_or(0);
    let Some(entry) = entries.get(index) else {
        return Demand {
            prompt: 1,
            output: 1,
            blocks: Arc::default(),
            whose,
        };
    };
    let (prompt, named, stream) = match &entry.prompt {
        Prompt::Words { tokens, stream } => (u64::from(*tokens), [].as_slice(), *stream),
        Prompt::Blocks { tokens, ids } => (u64::from(*tokens), &**ids, None),
        Prompt::Chat { messages, upto } => {
            let bytes = messages.iter().take(*upto).map(|m| m.content.len());
            (bytes.sum::<usize>() as u64 / 4, [].as_slice(), None)
        }
    };
    let per_name = u64::from(trace::BLOCK_TOKENS) / BLOCK_TOKENS;
    let own = stream.map_or(own, mix);
    let block = |index: u64| {
        let name = named.get(usize::try_from(index / per_name).unwrap_or(usize::MAX));
        mix(name.map_or(own, |name| mix(*name)).wrapping_add(index))
    };
    let whole = (prompt / BLOCK_TOKENS).min(BLOCKS_MAX);
    Demand {
        prompt: prompt.max(1),
        output: u64::from(entry.output_tokens).max(1),
        blocks: (0..whole).map(block).collect(),
        whose,
    }
}

/// Arrivals at one gateway.
#[derive(Debug)]
pub(super) struct Stream {
    arriving: Arriving,
    share: f64,
    /// Hour of the sun at the gateway when the run begins.
    sun: f64,
    rng: SplitMix64,
    bursts: u64,
    at_s: f64,
    /// Of a recorded load: the next one, and which part of it comes here.
    next: usize,
    part: (f64, f64),
}

impl Stream {
    /// Arrivals at gateway `number`, which has `share` of all and stands where the sun says `sun` o'clock.
    pub(super) fn new(
        arriving: &Arriving,
        (seed, number): (u64, usize),
        part: (f64, f64),
        sun: f64,
    ) -> Self {
        Self {
            arriving: arriving.clone(),
            share: part.1 - part.0,
            sun,
            rng: SplitMix64::for_item(seed ^ GAPS, number as u64),
            bursts: mix(seed ^ BURSTS ^ mix(number as u64)),
            at_s: 0.0,
            next: 0,
            part,
        }
    }

    /// When the next request comes, and its number in a recorded load; `None` for never.
    pub(super) fn next(&mut self) -> Option<(Nanos, Option<u64>)> {
        if let Arriving::Recorded(trace) = &self.arriving {
            while let Some(entry) = trace.entries().get(self.next) {
                let number = self.next as u64;
                self.next += 1;
                let chance = SplitMix64::for_item(self.bursts_of_all(), number).next_unit();
                if (self.part.0..self.part.1).contains(&chance) {
                    return Some((entry.at, Some(number)));
                }
            }
            return None;
        }
        let mut area = exponential(&mut self.rng);
        loop {
            let piece = (self.at_s / PIECE_S).floor();
            let rate = self.rate(piece);
            if rate <= 0.0 && self.never() {
                return None;
            }
            let end = (piece + 1.0) * PIECE_S;
            let inside = rate * (end - self.at_s);
            if area < inside {
                self.at_s += area / rate;
                return Some(((self.at_s * 1e9).round() as Nanos, None));
            }
            area -= inside;
            self.at_s = end;
        }
    }

    /// All gateways draw the same chance for a recorded request, so that exactly one takes it.
    fn bursts_of_all(&self) -> u64 {
        GAPS
    }

    fn never(&self) -> bool {
        match &self.arriving {
            Arriving::Poisson { rate } => *rate * self.share <= 0.0,
            Arriving::Daily(daily) => daily.rate * self.share <= 0.0,
            Arriving::Recorded(_) => false,
        }
    }

    /// Requests a second in a piece of the day.
    fn rate(&self, piece: f64) -> f64 {
        match &self.arriving {
            Arriving::Poisson { rate } => rate * self.share,
            Arriving::Daily(daily) => {
                let hour = self.sun + (piece + 0.5) * PIECE_S / 3_600.0;
                let phase = std::f64::consts::TAU * (hour - daily.peak_hour) / 24.0;
                let mut rng = SplitMix64::for_item(self.bursts, piece as u64);
                let wave = (daily.waves * normal(&mut rng) - daily.waves.powi(2) / 2.0).exp();
                daily.rate * self.share * (1.0 + daily.swing * phase.cos()).max(0.0) * wave
            }
            Arriving::Recorded(_) => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(prefix: Option<Prefix>) -> Lengths {
        Lengths {
            prompt: Spread::Fixed(1_000.0),
            output: Spread::Exponential { mean: 200.0 },
            max_tokens: Some(1_000),
            prefix,
            recorded: None,
        }
    }

    fn count(stream: &mut Stream, from_s: u64, to_s: u64) -> usize {
        let mut count = 0;
        while let Some((at, _)) = stream.next() {
            if at >= to_s * 1_000_000_000 {
                break;
            }
            count += usize::from(at >= from_s * 1_000_000_000);
        }
        count
    }

    #[test]
    fn a_day_has_the_rate_asked_for_and_most_of_it_comes_at_the_peak() {
        let daily = Daily {
            rate: 2.0,
            swing: 0.6,
            peak_hour: 14.0,
            waves: 0.2,
        };
        let stream = || Stream::new(&Arriving::Daily(daily), (7, 0), (0.25, 0.75), 0.0);
        let day = count(&mut stream(), 0, 86_400) as f64;
        assert!((day / 86_400.0 - 1.0).abs() < 0.02, "{day}");
        let (hour, peak) = (3_600, count(&mut stream(), 13 * 3_600, 15 * 3_600) as f64);
        assert!((peak / (2.0 * hour as f64) - 1.6).abs() < 0.08, "{peak}");
    }

    #[test]
    fn a_request_is_the_same_whenever_it_is_drawn_and_shares_what_it_should() {
        let prefix = Prefix {
            tokens: 600,
            share: 1.0,
            count: 1,
        };
        let lengths = lengths(Some(prefix));
        let (one, again) = (lengths.draw(1, 5), lengths.draw(1, 5));
        assert_eq!(
            (one.prompt, one.output, &one.blocks),
            (1_600, again.output, &again.blocks)
        );
        let other = lengths.draw(1, 6);
        // Two whole blocks lie within the shared 600 tokens.
        assert_eq!(one.blocks[..2], other.blocks[..2]);
        assert_ne!(one.blocks[2], other.blocks[2]);
        assert_eq!(one.blocks.len(), 6);
        let means = lengths.means(1);
        assert!((means.uncached - 1_088.0).abs() < 1e-6, "{means:?}");
        assert!((means.output / 200.0 - 1.0).abs() < 0.05, "{means:?}");
    }
}
