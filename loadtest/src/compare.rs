//! Two runs side by side: how much each figure changed, how sure that is, and whether a gate lets the change pass.
//!
//! Intervals are bootstrapped: both runs are drawn again and again from their own requests, and the middle 95 % of the
//! changes seen are the interval. Requests are drawn in blocks of neighbours in time, since neighbours share queues and
//! drawing them one by one would make the interval too narrow (circular blocks, Politis and Romano 1992; their length is
//! the cube root of the number of requests).

use std::fmt;
use std::str::FromStr;

use crate::drive::record::View;
use crate::limits::{BOOTSTRAP_DRAWS, BOOTSTRAP_ROUNDS, MIN_TAIL};
use crate::problems::quote;
use crate::raw::{Request, Run};
use crate::rng::SplitMix64;
use crate::slo::{Metric, Statistic};

/// A figure of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Figure {
    /// Of a latency over all requests, response view; a failed one is an answer that never came. Milliseconds.
    Latency(Metric, Statistic),
    /// Good requests, of all.
    Good,
    /// Output tokens of good requests per second.
    Output,
}

/// A bound of a figure's change from the first run to the second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gate {
    figure: Figure,
    /// The change must be below the limit; otherwise above it.
    below: bool,
    /// As a part of the first run's figure: 0.05 for +5 %.
    limit: f64,
}

/// How a figure changed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// Which.
    pub figure: Figure,
    /// In the first run; infinite where too many requests failed, none where there is none.
    pub before: Option<f64>,
    /// In the second run.
    pub after: Option<f64>,
    /// The change as a part of the first, and the ends of its interval of 95 %; none where it has no meaning, or where
    /// too few requests lie beyond a percentile to know it.
    pub change: Option<[f64; 3]>,
}

/// What a gate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// All of the interval keeps the limit.
    Open,
    /// All of the interval is beyond the limit.
    Shut,
    /// The interval holds the limit, or there is none: more requests are needed.
    Undecided,
}

/// The figures that a comparison shows.
pub const FIGURES: [Figure; 13] = {
    use Metric::{E2e, Tpot, Ttft};
    use Statistic::{Mean, Percentile};
    [
        Figure::Latency(Ttft, Mean),
        Figure::Latency(Ttft, Percentile(50.0)),
        Figure::Latency(Ttft, Percentile(90.0)),
        Figure::Latency(Ttft, Percentile(99.0)),
        Figure::Latency(Tpot, Mean),
        Figure::Latency(Tpot, Percentile(50.0)),
        Figure::Latency(Tpot, Percentile(99.0)),
        Figure::Latency(E2e, Mean),
        Figure::Latency(E2e, Percentile(50.0)),
        Figure::Latency(E2e, Percentile(90.0)),
        Figure::Latency(E2e, Percentile(99.0)),
        Figure::Good,
        Figure::Output,
    ]
};

/// Why a text is no gate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is no gate; write ttft.p99 < +5% (or e2e, tpot, ntpot, ttfb; mean, p50 to p99.99, max), good > -1%, or output > -5%"
)]
pub struct NoGate(String);

impl FromStr for Gate {
    type Err = NoGate;

    fn from_str(text: &str) -> Result<Self, NoGate> {
        let read = || {
            let at = text.find(['<', '>'])?;
            let below = text[at..].starts_with('<');
            let percent = text[at + 1..].trim().strip_suffix('%')?;
            let percent: f64 = percent.trim().parse().ok()?;
            let figure = match text[..at].trim() {
                "good" => Figure::Good,
                "output" => Figure::Output,
                latency => {
                    let (metric, statistic) = latency.split_once('.')?;
                    let metric = metric
                        .parse()
                        .ok()
                        .filter(|metric| *metric != Metric::Itl)?;
                    Figure::Latency(metric, statistic.parse().ok()?)
                }
            };
            let better_when_lower = matches!(figure, Figure::Latency(..));
            let limit = percent / 100.0;
            (below == better_when_lower && limit.is_finite()).then_some(Self {
                figure,
                below,
                limit,
            })
        };
        read().ok_or_else(|| NoGate(quote(text)))
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latency(metric, statistic) => write!(f, "{metric}.{statistic}"),
            Self::Good => f.write_str("good"),
            Self::Output => f.write_str("output"),
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.below { '<' } else { '>' };
        write!(f, "{} {sign} {:+}%", self.figure, self.limit * 100.0)
    }
}

impl Gate {
    /// The figure that it watches.
    pub fn figure(&self) -> Figure {
        self.figure
    }

    /// Whether a change may pass.
    pub fn judge(&self, change: &Change) -> Passage {
        let Some([_, low, high]) = change.change else {
            return Passage::Undecided;
        };
        let (nearest, farthest) = if self.below {
            (low, high)
        } else {
            (-high, -low)
        };
        let limit = if self.below { self.limit } else { -self.limit };
        if farthest < limit {
            Passage::Open
        } else if nearest >= limit {
            Passage::Shut
        } else {
            Passage::Undecided
        }
    }
}

/// How `figure` changed from one run to the other. `seed` fixes the draws.
pub fn change(figure: Figure, before: &Run, after: &Run, seed: u64) -> Change {
    let runs = [Sample::of(figure, before), Sample::of(figure, after)];
    let [a, b] = [&runs[0], &runs[1]].map(|sample| sample.figure(sample.values.clone()));
    let known = runs.iter().all(|sample| sample.tells(figure));
    let change = a.zip(b).and_then(|(a, b)| relative(a, b)).filter(|_| known);
    Change {
        figure,
        before: a,
        after: b,
        change: change
            .and_then(|point| interval(&runs, seed).map(|[low, high]| [point, low, high])),
    }
}

fn relative(before: f64, after: f64) -> Option<f64> {
    let change = (after - before) / before;
    (!change.is_nan() && before.is_finite()).then_some(change)
}

/// The middle 95 % of the changes between runs drawn again.
fn interval(runs: &[Sample; 2], seed: u64) -> Option<[f64; 2]> {
    let longest = runs.iter().map(|sample| sample.values.len()).max()?;
    let rounds = (BOOTSTRAP_DRAWS / longest.max(1))
        .clamp(*BOOTSTRAP_ROUNDS.start(), *BOOTSTRAP_ROUNDS.end());
    let mut changes = Vec::with_capacity(rounds);
    for round in 0..rounds as u64 {
        let mut drawn = [0, 1].map(|run| {
            let rng = SplitMix64::for_item(seed, 2 * round + run);
            let sample = &runs[run as usize];
            sample.figure(sample.again(rng))
        });
        let (a, b) = (drawn[0].take()?, drawn[1].take()?);
        changes.push(relative(a, b).unwrap_or(f64::INFINITY));
    }
    changes.sort_by(f64::total_cmp);
    let at = |share: f64| {
        changes
            .get((share * (rounds - 1) as f64).round() as usize)
            .copied()
    };
    Some([at(0.025)?, at(0.975)?])
}

/// The values of a run's requests that a figure is made of, in the order of time.
struct Sample {
    values: Vec<f64>,
    statistic: Statistic,
    /// What the mean is multiplied by.
    scale: f64,
}

impl Sample {
    fn of(figure: Figure, run: &Run) -> Self {
        let requests = run.requests.iter();
        let (values, statistic, scale) = match figure {
            Figure::Latency(metric, statistic) => {
                let value = |request| latency_ms(metric, request);
                (requests.filter_map(value).collect(), statistic, 1.0)
            }
            Figure::Good => {
                let good = requests.map(|request| f64::from(u8::from(request.good)));
                (good.collect(), Statistic::Mean, 1.0)
            }
            Figure::Output => {
                let tokens = |request: &Request| {
                    let tokens = request.record.usage.filter(|_| request.good);
                    tokens.map_or(0.0, |usage| usage.completion_tokens as f64)
                };
                let scale = run.requests.len() as f64 * run.weight / seconds(run);
                (requests.map(tokens).collect(), Statistic::Mean, scale)
            }
        };
        Self {
            values,
            statistic,
            scale,
        }
    }

    /// The figure of these values; None where there are none.
    fn figure(&self, mut values: Vec<f64>) -> Option<f64> {
        let count = values.len();
        let rank = match self.statistic {
            Statistic::Mean => {
                let mean = values.iter().sum::<f64>() / count as f64;
                return (count > 0).then_some(mean * self.scale);
            }
            Statistic::Max => count,
            Statistic::Percentile(percent) => (percent / 100.0 * count as f64).ceil() as usize,
        };
        if count == 0 {
            return None;
        }
        let at = rank.clamp(1, count) - 1;
        Some(*values.select_nth_unstable_by(at, f64::total_cmp).1)
    }

    /// As many values, drawn in blocks of neighbours; the last is followed by the first.
    fn again(&self, mut rng: SplitMix64) -> Vec<f64> {
        let count = self.values.len();
        let block = (count as f64).cbrt().ceil() as usize;
        let mut drawn = Vec::with_capacity(count);
        while drawn.len() < count {
            let start = (rng.next_unit() * count as f64) as usize;
            let left = block.min(count - drawn.len());
            drawn.extend((start..start + left).map(|at| self.values[at % count]));
        }
        drawn
    }

    /// Whether enough values lie beyond the percentile for it to be known.
    fn tells(&self, figure: Figure) -> bool {
        let beyond = match figure {
            Figure::Latency(_, Statistic::Percentile(percent)) => {
                1.0 - percent.max(100.0 - percent) / 100.0
            }
            _ => 1.0,
        };
        beyond * self.values.len() as f64 >= MIN_TAIL - 1e-9
    }
}

fn latency_ms(metric: Metric, request: &Request) -> Option<f64> {
    if !request.good {
        return Some(f64::INFINITY);
    }
    let (record, view) = (&request.record, View::Response);
    let us = match metric {
        Metric::Ttfb => record.ttfb_us(view),
        Metric::Ttft => record.ttft_us(view),
        Metric::E2e => record.e2e_us(view),
        Metric::Ntpot => record.ntpot_us(view),
        Metric::Tpot | Metric::Itl => record.tpot_us(),
    };
    us.map(|us| us as f64 / 1e3)
}

/// From the first due time to the last end.
fn seconds(run: &Run) -> f64 {
    let stamps = || run.requests.iter().map(|request| &request.record.stamps);
    let first = stamps().map(|stamps| stamps.intended).min().unwrap_or(0);
    let last = stamps().map(|stamps| stamps.end).max().unwrap_or(0);
    (last.saturating_sub(first) as f64 / 1e9).max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::record::tests::record;
    use crate::spread::exponential;

    /// Requests whose TTFT is exponential with this mean in milliseconds.
    fn run(mean_ms: f64, requests: u64, seed: u64) -> Run {
        let mut rng = SplitMix64::new(seed);
        let request = |index: u64| {
            let mut record = record();
            let due = index * 10_000_000;
            record.stamps.intended = due;
            record.stamps.first_content =
                Some(due + (exponential(&mut rng) * mean_ms * 1e6) as u64);
            Request { record, good: true }
        };
        Run {
            requests: (0..requests).map(request).collect(),
            ..Run::default()
        }
    }

    fn ttft(statistic: &str, before: &Run, after: &Run) -> Change {
        change(
            Figure::Latency(Metric::Ttft, statistic.parse().unwrap()),
            before,
            after,
            1,
        )
    }

    fn judged(gate: &str, before: &Run, after: &Run) -> Passage {
        let gate: Gate = gate.parse().unwrap();
        gate.judge(&change(gate.figure(), before, after, 1))
    }

    #[test]
    fn gates_are_read_as_people_write_them() {
        for text in [
            "ttft.p99 < +5%",
            "e2e.mean < -10%",
            "good > -1%",
            "output > -2.5%",
        ] {
            assert_eq!(text.parse::<Gate>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "ttft < 5%",
            "ttft.p99 > 5%",
            "good < 5%",
            "ttft.p99 < 5",
            "itl.p99 < 5%",
            "output > x%",
        ] {
            assert!(bad.parse::<Gate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_change_that_is_there_is_found_and_one_that_is_not_is_not() {
        let (base, same, slow) = (
            run(100.0, 2_000, 1),
            run(100.0, 2_000, 2),
            run(150.0, 2_000, 3),
        );
        let [_, low, high] = ttft("mean", &base, &same).change.unwrap();
        assert!(low < 0.0 && high > 0.0, "{low} {high}");
        let [point, low, high] = ttft("mean", &base, &slow).change.unwrap();
        assert!(
            low > 0.3 && low < point && point < high && high < 0.7,
            "{low} {point} {high}"
        );
        assert_eq!(judged("ttft.mean < +20%", &base, &same), Passage::Open);
        assert_eq!(judged("ttft.mean < +20%", &base, &slow), Passage::Shut);
        assert_eq!(judged("ttft.mean < +50%", &base, &slow), Passage::Undecided);
    }

    #[test]
    fn the_interval_covers_the_truth_about_as_often_as_it_says() {
        let covered = (0..60).filter(|seed| {
            let (before, after) = (run(100.0, 300, 2 * seed), run(100.0, 300, 2 * seed + 1));
            let [_, low, high] = ttft("p50", &before, &after).change.unwrap();
            low <= 0.0 && 0.0 <= high
        });
        let covered = covered.count();
        assert!(
            (52..=60).contains(&covered),
            "{covered} of 60 intervals of 95 %"
        );
    }

    #[test]
    fn too_few_requests_and_failures_leave_a_gate_undecided() {
        let (few, more) = (run(100.0, 100, 1), run(100.0, 100, 2));
        assert_eq!(
            ttft("p99", &few, &more).change,
            None,
            "one request lies beyond p99"
        );
        assert_eq!(judged("ttft.p99 < +500%", &few, &more), Passage::Undecided);
        let mut broken = run(100.0, 2_000, 2);
        broken
            .requests
            .iter_mut()
            .step_by(20)
            .for_each(|request| request.good = false);
        let good = run(100.0, 2_000, 1);
        assert_eq!(ttft("mean", &good, &broken).after, Some(f64::INFINITY));
        assert_eq!(judged("ttft.mean < +20%", &good, &broken), Passage::Shut);
        assert_eq!(judged("good > -2%", &good, &broken), Passage::Shut);
        assert_eq!(judged("good > -9%", &good, &broken), Passage::Open);
        assert_eq!(
            judged("ttft.p50 < +1%", &broken, &Run::default()),
            Passage::Undecided
        );
    }
}
