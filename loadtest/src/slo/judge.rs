//! Holds what was measured against objectives, at the end of a run and, for those that are lost, before.

use super::{Amount, Finding, Limit, Metric, Objective, Statistic};
use crate::drive::record::View;
use crate::stats::{Distribution, Latencies, Stats};

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
        Objective::Probe {
            metric,
            statistic,
            limit_ms,
        } => {
            let probes = stats.probes.as_deref();
            let measured =
                probes.and_then(|probes| over_all(probes, *metric, View::Response, *statistic));
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
        Objective::AtLeast(..) | Objective::Probe { .. } => false,
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
    fn objectives_of_probe_requests_are_held_against_theirs() {
        let mut with = Stats::default();
        let finding = |stats: &Stats, text: &str| {
            let finding = &findings(&[objective(text)], stats, 10.0)[0];
            (finding.measured.map(f64::round), finding.met)
        };
        assert_eq!(finding(&with, "probe.ttft.p50 < 1s"), (None, false));
        with.probes = Some(Box::new(stats()));
        assert_eq!(finding(&with, "probe.ttft.p50 < 51ms"), (Some(50.0), true));
        assert_eq!(finding(&with, "probe.ttft.p91 < 1s"), (None, false));
        assert!(!is_hopeless(
            &[objective("probe.ttft.p50 < 1ms")],
            &with,
            10
        ));
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
