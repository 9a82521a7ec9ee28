//! What a run must meet, as people write it: `ttft.p99 < 500ms`, `tpot < 50ms`, `goodput > 95%`, `good > 99.9%`,
//! `output > 1000/s`.
//!
//! Failed requests are not fast: in a percentile of an objective every failure counts as an answer that never came, and
//! goodput is a share of all requests. Latencies are those of the response view unless `service.` stands before them.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::drive::record::{Record, View};
use crate::problems::quote;
use crate::stats::{Distribution, Latencies, Stats};
use crate::units;

/// Something that must hold.
#[derive(Debug, Clone, PartialEq)]
pub enum Objective {
    /// Of every request that counts for goodput.
    Each(Limit),
    /// Of a latency's distribution.
    Latency {
        /// Which.
        metric: Metric,
        /// From when it is counted.
        view: View,
        /// Which figure of it.
        statistic: Statistic,
        /// It is below this, in milliseconds.
        limit_ms: f64,
    },
    /// Of a share or a rate, which is above the number.
    AtLeast(Amount, f64),
}

/// A bound of one request's latency.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    /// Which.
    pub metric: Metric,
    /// From when it is counted.
    pub view: View,
    /// It is below this, in milliseconds.
    pub limit_ms: f64,
}

/// A latency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Time to first byte.
    Ttfb,
    /// Time to first token.
    Ttft,
    /// End to end.
    E2e,
    /// Time per output token after the first.
    Tpot,
    /// End to end per output token.
    Ntpot,
    /// Gap between content events; of a single request, its largest.
    Itl,
}

/// A figure of a distribution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Statistic {
    /// Arithmetic mean.
    Mean,
    /// Largest value.
    Max,
    /// The smallest value that this many percent of all do not exceed.
    Percentile(f64),
}

/// A share or a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// Requests within all limits, of all.
    GoodputShare,
    /// Requests within all limits, per second.
    GoodputRate,
    /// Good requests, of all.
    GoodShare,
    /// Good requests per second.
    GoodRate,
    /// Output tokens per second.
    OutputRate,
}

/// What came of an objective.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// The objective, as it is written.
    pub objective: String,
    /// What was measured, in milliseconds, per second, or as a share from 0 to 1; for a limit of single requests the
    /// share of all requests that kept all limits. None where it is beyond all bounds,
    /// since too many requests failed, or where there was nothing to measure.
    pub measured: Option<f64>,
    /// Whether it was met.
    pub met: bool,
}

/// Why a text is no objective.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is no objective; write ttft.p99 < 500ms (or e2e, tpot, ntpot, itl, ttfb; mean, p50 to p99.99, max), \
     tpot < 50ms for every request of the goodput, goodput > 95%, goodput > 10/s, good > 99.9%, or output > 1000/s"
)]
pub struct NoObjective(String);

impl FromStr for Objective {
    type Err = NoObjective;

    fn from_str(text: &str) -> Result<Self, NoObjective> {
        let read = || {
            let at = text.find(['<', '>'])?;
            let (name, rest) = (text[..at].trim(), &text[at + 1..]);
            let value = rest.strip_prefix('=').unwrap_or(rest).trim();
            match &text[at..=at] {
                "<" => below(name, value),
                _ => above(name, value),
            }
        };
        read().ok_or_else(|| NoObjective(quote(text)))
    }
}

fn below(name: &str, value: &str) -> Option<Objective> {
    let limit_ms = units::duration(value).ok()?.as_secs_f64() * 1e3;
    let (view, name) = match name.split_once('.') {
        Some(("service", rest)) => (View::Service, rest),
        Some(("response", rest)) => (View::Response, rest),
        _ => (View::Response, name),
    };
    let (metric, statistic) = name
        .split_once('.')
        .map_or((name, None), |(metric, rest)| (metric, Some(rest)));
    let metric: Metric = metric.parse().ok()?;
    Some(match statistic {
        Some(statistic) => {
            let statistic = statistic.parse().ok()?;
            Objective::Latency {
                metric,
                view,
                statistic,
                limit_ms,
            }
        }
        None => Objective::Each(Limit {
            metric,
            view,
            limit_ms,
        }),
    })
}

fn above(name: &str, value: &str) -> Option<Objective> {
    let number = |text: &str| {
        text.trim()
            .parse::<f64>()
            .ok()
            .filter(|number| *number >= 0.0 && number.is_finite())
    };
    let (amount, number) = if let Some(percent) = value.strip_suffix('%') {
        let amount = match name {
            "goodput" => Amount::GoodputShare,
            "good" => Amount::GoodShare,
            _ => return None,
        };
        (
            amount,
            number(percent).filter(|percent| *percent <= 100.0)? / 100.0,
        )
    } else {
        let amount = match name {
            "goodput" => Amount::GoodputRate,
            "good" => Amount::GoodRate,
            "output" => Amount::OutputRate,
            _ => return None,
        };
        (amount, number(value.strip_suffix("/s")?)?)
    };
    Some(Objective::AtLeast(amount, number))
}

impl FromStr for Metric {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Ok(match name {
            "ttfb" => Self::Ttfb,
            "ttft" => Self::Ttft,
            "e2e" => Self::E2e,
            "tpot" => Self::Tpot,
            "ntpot" => Self::Ntpot,
            "itl" => Self::Itl,
            _ => return Err(()),
        })
    }
}

impl FromStr for Statistic {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        match name {
            "mean" => Ok(Self::Mean),
            "max" => Ok(Self::Max),
            other => {
                let percent = other
                    .strip_prefix('p')
                    .and_then(|percent| percent.parse().ok());
                let percent =
                    percent.filter(|percent| (0.0..100.0).contains(percent) && *percent > 0.0);
                percent.map(Self::Percentile).ok_or(())
            }
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ttfb => "ttfb",
            Self::Ttft => "ttft",
            Self::E2e => "e2e",
            Self::Tpot => "tpot",
            Self::Ntpot => "ntpot",
            Self::Itl => "itl",
        })
    }
}

impl fmt::Display for Statistic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mean => f.write_str("mean"),
            Self::Max => f.write_str("max"),
            Self::Percentile(percent) => write!(f, "p{percent}"),
        }
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let view = |view: &View| match view {
            View::Service => "service.",
            View::Response => "",
        };
        match self {
            Self::Each(limit) => write!(
                f,
                "{}{} < {}ms",
                view(&limit.view),
                limit.metric,
                limit.limit_ms
            ),
            Self::Latency {
                metric,
                view: from,
                statistic,
                limit_ms,
            } => {
                write!(f, "{}{metric}.{statistic} < {limit_ms}ms", view(from))
            }
            Self::AtLeast(Amount::GoodputShare, share) => write!(f, "goodput > {}%", share * 100.0),
            Self::AtLeast(Amount::GoodShare, share) => write!(f, "good > {}%", share * 100.0),
            Self::AtLeast(Amount::GoodputRate, rate) => write!(f, "goodput > {rate}/s"),
            Self::AtLeast(Amount::GoodRate, rate) => write!(f, "good > {rate}/s"),
            Self::AtLeast(Amount::OutputRate, rate) => write!(f, "output > {rate}/s"),
        }
    }
}

impl Limit {
    /// Whether a good request keeps it. One that has no such latency (a single token has no tpot) keeps it only if
    /// there was nothing to wait for.
    pub fn is_kept(&self, record: &Record) -> bool {
        let us = match self.metric {
            Metric::Ttfb => record.ttfb_us(self.view),
            Metric::Ttft => record.ttft_us(self.view),
            Metric::E2e => record.e2e_us(self.view),
            Metric::Ntpot => record.ntpot_us(self.view),
            Metric::Tpot => record.tpot_us().or(Some(0)),
            Metric::Itl => Some(record.gaps_us.iter().copied().max().unwrap_or(0).into()),
        };
        us.is_some_and(|us| (us as f64) < self.limit_ms * 1e3)
    }
}

/// The limits of single requests among the objectives.
pub fn limits(objectives: &[Objective]) -> Vec<Limit> {
    let each = |objective: &Objective| match objective {
        Objective::Each(limit) => Some(*limit),
        _ => None,
    };
    objectives.iter().filter_map(each).collect()
}

/// Holds a run of `wall_s` seconds against its objectives. Limits of single requests say what goodput is; by themselves
/// they are met only if every request keeps them, unless an objective says how much goodput is enough.
pub fn findings(objectives: &[Objective], stats: &Stats, wall_s: f64) -> Vec<Finding> {
    let enough_is_said = enough_is_said(objectives);
    let judged = objectives.iter().map(|objective| match objective {
        Objective::Each(_) => {
            let all_keep_it = stats.judged() > 0 && stats.within == stats.judged();
            let measured = Amount::GoodputShare.of(stats, wall_s);
            finding(objective, measured, enough_is_said || all_keep_it)
        }
        Objective::Latency {
            metric,
            view,
            statistic,
            limit_ms,
        } => {
            let measured = over_all(stats, *metric, *view, *statistic);
            finding(
                objective,
                measured,
                measured.is_some_and(|ms| ms < *limit_ms),
            )
        }
        Objective::AtLeast(amount, least) => {
            let measured = amount.of(stats, wall_s);
            finding(
                objective,
                measured,
                measured.is_some_and(|measured| {
                    measured > *least || (measured >= 1.0 && *least >= 1.0 && amount.is_share())
                }),
            )
        }
    });
    judged.collect()
}

/// Whether no answer that can still come would meet an objective, given that `due` requests are judged in the end. A run
/// that is lost need not go on.
pub fn is_hopeless(objectives: &[Objective], stats: &Stats, due: u64) -> bool {
    let enough_is_said = enough_is_said(objectives);
    let most_but = |part: f64| ((1.0 - part) * due as f64).floor() as u64;
    objectives.iter().any(|objective| match objective {
        Objective::Each(_) => !enough_is_said && stats.within < stats.judged(),
        Objective::AtLeast(Amount::GoodputShare, share) => {
            stats.judged() - stats.within > most_but(*share)
        }
        Objective::AtLeast(Amount::GoodShare, share) => stats.failed() > most_but(*share),
        Objective::AtLeast(..) => false,
        Objective::Latency {
            metric,
            view,
            statistic,
            limit_ms,
        } => {
            let (distribution, failed) = distribution(stats, *metric, *view);
            // Beyond the precision of histograms, so that what would just be met is never given up.
            let slow = distribution.count_above((limit_ms * 1_002.0) as u64);
            match statistic {
                _ if *metric == Metric::Itl => false,
                Statistic::Mean => false,
                Statistic::Max => slow + failed > 0,
                Statistic::Percentile(percent) => {
                    let below = (percent / 100.0 * due as f64).ceil() as u64;
                    slow + failed > due.saturating_sub(below)
                }
            }
        }
    })
}

/// Whether an objective says how much goodput there must be.
fn enough_is_said(objectives: &[Objective]) -> bool {
    let goodput = |objective: &Objective| {
        matches!(
            objective,
            Objective::AtLeast(Amount::GoodputShare | Amount::GoodputRate, _)
        )
    };
    objectives.iter().any(goodput)
}

fn finding(objective: &Objective, measured: Option<f64>, met: bool) -> Finding {
    Finding {
        objective: objective.to_string(),
        measured,
        met,
    }
}

/// A figure over all judged requests, in milliseconds, failures counted as answers that never came: then None. Gaps
/// are pooled and a failure has none.
fn over_all(stats: &Stats, metric: Metric, view: View, statistic: Statistic) -> Option<f64> {
    let (distribution, failed) = distribution(stats, metric, view);
    let count = distribution.count();
    let all = count + failed;
    let percent = match statistic {
        Statistic::Percentile(percent) => percent,
        Statistic::Mean if failed == 0 && count > 0 => return Some(distribution.summary().mean),
        Statistic::Max if failed == 0 && count > 0 => return Some(distribution.summary().max),
        Statistic::Mean | Statistic::Max => return None,
    };
    let rank = (percent / 100.0 * all as f64).ceil();
    if count == 0 || rank > count as f64 {
        return None;
    }
    Some(distribution.percentile_us(100.0 * rank / count as f64) as f64 / 1e3)
}

/// The values of good requests, and the failed ones that a percentile must count as well.
fn distribution(stats: &Stats, metric: Metric, view: View) -> (&Distribution, u64) {
    let latencies: &Latencies = match view {
        View::Service => &stats.service,
        View::Response => &stats.response,
    };
    let failed = stats.failed();
    match metric {
        Metric::Ttfb => (&latencies.ttfb, failed),
        Metric::Ttft => (&latencies.ttft, failed),
        Metric::E2e => (&latencies.e2e, failed),
        Metric::Ntpot => (&latencies.ntpot, failed),
        Metric::Tpot => (&stats.tpot, failed),
        Metric::Itl => (&stats.itl, 0),
    }
}

impl Amount {
    fn is_share(self) -> bool {
        matches!(self, Self::GoodputShare | Self::GoodShare)
    }

    fn of(self, stats: &Stats, wall_s: f64) -> Option<f64> {
        let (part, whole) = match self {
            Self::GoodputShare => (stats.within, stats.judged() as f64),
            Self::GoodShare => (stats.good, stats.judged() as f64),
            Self::GoodputRate => (stats.within, wall_s),
            Self::GoodRate => (stats.good, wall_s),
            Self::OutputRate => (stats.output_tokens, wall_s),
        };
        (whole > 0.0).then(|| part as f64 / whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::verdict::Class;

    fn objective(text: &str) -> Objective {
        text.parse().unwrap()
    }

    /// 90 good requests with TTFTs of 1 to 90 ms, and 10 failed ones.
    fn stats() -> Stats {
        let mut stats = Stats {
            good: 90,
            within: 80,
            output_tokens: 900,
            ..Stats::default()
        };
        (1..=90).for_each(|ms| stats.response.ttft.record(ms * 1_000));
        stats
            .failures
            .entry(Class::Timeout)
            .or_default()
            .insert("x".to_owned(), 10);
        stats
    }

    fn measured(text: &str) -> (Option<f64>, bool) {
        let finding = &findings(&[objective(text)], &stats(), 10.0)[0];
        (
            finding.measured.map(|value| (value * 10.0).round() / 10.0),
            finding.met,
        )
    }

    #[test]
    fn objectives_are_read_as_people_write_them() {
        for text in [
            "ttft.p99 < 500ms",
            "service.e2e.mean < 2000ms",
            "itl.p99.9 < 80ms",
            "tpot < 50ms",
            "goodput > 95%",
            "goodput > 10/s",
            "good > 99.9%",
            "good > 3/s",
            "output > 1000/s",
        ] {
            assert_eq!(objective(text).to_string(), text);
        }
        assert_eq!(
            objective("response.ttft.p50<=0.5s"),
            objective("ttft.p50 < 500ms")
        );
        for bad in [
            "",
            "ttft",
            "ttft.p99",
            "ttft.p99 < 5",
            "ttft.p0 < 5ms",
            "ttft.p100 < 5ms",
            "tttt < 5ms",
            "goodput > 101%",
            "goodput < 5%",
            "output > 5%",
            "ttft.p99 > 5ms",
            "good > x/s",
            "e2e.p9x < 1s",
        ] {
            assert!(bad.parse::<Objective>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_failure_is_an_answer_that_never_came() {
        assert_eq!(
            measured("ttft.p50 < 51ms"),
            (Some(50.0), true),
            "rank 50 of 100, not of 90"
        );
        assert_eq!(measured("ttft.p90 < 1s"), (Some(90.0), true));
        assert_eq!(measured("ttft.p91 < 1s"), (None, false));
        assert_eq!(measured("ttft.mean < 1s"), (None, false));
        assert_eq!(
            measured("service.ttft.p50 < 1s"),
            (None, false),
            "nothing measured proves nothing"
        );
    }

    #[test]
    fn shares_are_of_all_requests() {
        assert_eq!(measured("good > 89%"), (Some(0.9), true));
        assert_eq!(measured("goodput > 80%"), (Some(0.8), false));
        assert_eq!(measured("goodput > 7.9/s"), (Some(8.0), true));
        assert_eq!(measured("output > 89/s"), (Some(90.0), true));
    }

    #[test]
    fn limits_of_single_requests_hold_for_all_unless_less_is_enough() {
        let each = objective("ttft < 80ms");
        assert!(!findings(std::slice::from_ref(&each), &stats(), 10.0)[0].met);
        let both = findings(&[each, objective("goodput > 75%")], &stats(), 10.0);
        assert!(both.iter().all(|finding| finding.met));
    }

    #[test]
    fn a_run_is_hopeless_once_nothing_can_save_it() {
        let hopeless = |text: &str, due| is_hopeless(&[objective(text)], &stats(), due);
        assert!(hopeless("ttft.p99 < 1s", 999), "10 failed of at most 999");
        assert!(!hopeless("ttft.p99 < 1s", 1_000));
        assert!(
            hopeless("ttft.p90 < 50ms", 400),
            "50 are too slow or failed"
        );
        assert!(!hopeless("ttft.p90 < 50ms", 510));
        assert!(hopeless("good > 95%", 199) && !hopeless("good > 95%", 201));
        assert!(hopeless("goodput > 95%", 399) && !hopeless("goodput > 95%", 401));
        assert!(!hopeless("output > 1000/s", 100) && !hopeless("ttft.mean < 1ms", 100));
    }
}
