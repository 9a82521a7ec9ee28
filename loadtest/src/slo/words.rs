//! How objectives are written, and read again.

use std::fmt;
use std::str::FromStr;

use super::{Amount, Limit, Metric, Objective, Statistic};
use crate::drive::record::View;
use crate::problems::quote;
use crate::units;

/// Why a text is no objective.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is no objective; write ttft.p99 < 500ms (or e2e, tpot, ntpot, itl, ttfb; mean, p50 to p99.99, max), \
     tpot < 50ms for every request of the goodput, goodput > 95%, goodput > 10/s, good > 99.9%, output > 1000/s, or probe.ttft.p99 < 200ms"
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
    if let Some(name) = name.strip_prefix("probe.") {
        let (metric, statistic) = name.split_once('.')?;
        return Some(Objective::Probe {
            metric: metric.parse().ok()?,
            statistic: statistic.parse().ok()?,
            limit_ms,
        });
    }
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
            Self::Probe {
                metric,
                statistic,
                limit_ms,
            } => write!(f, "probe.{metric}.{statistic} < {limit_ms}ms"),
            Self::AtLeast(Amount::GoodputShare, share) => write!(f, "goodput > {}%", share * 100.0),
            Self::AtLeast(Amount::GoodShare, share) => write!(f, "good > {}%", share * 100.0),
            Self::AtLeast(Amount::GoodputRate, rate) => write!(f, "goodput > {rate}/s"),
            Self::AtLeast(Amount::GoodRate, rate) => write!(f, "good > {rate}/s"),
            Self::AtLeast(Amount::OutputRate, rate) => write!(f, "output > {rate}/s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objective(text: &str) -> Objective {
        text.parse().unwrap()
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
            "probe.ttft.p99 < 200ms",
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
            "probe.ttft < 5ms",
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
}
