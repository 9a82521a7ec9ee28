//! Figures of many as figures of one, and figures that have become old.
//!
//! The picture is recursive as the servers are: a site's figures are made from its nodes' in the same way as those of a
//! group of sites. Both functions are pure: time comes in as an age.

use std::time::Duration;

use crate::limits;
use crate::upstream::{Readiness, UpstreamStatus};

/// The figures of several upstreams of one model as those of one. Counts add up; the free KV of the node where most is,
/// the least wait and the longest walltime stand for themselves; digests make a set. Those that take no requests count
/// for nothing, unless none does: then all are what the one nearest to it is.
#[must_use]
pub fn combined(parts: impl IntoIterator<Item = UpstreamStatus>) -> UpstreamStatus {
    let parts: Vec<UpstreamStatus> = parts.into_iter().collect();
    let any_ready = parts.iter().any(is_ready);
    let counted = parts
        .into_iter()
        .filter(|part| !any_ready || is_ready(part));
    let counted: Vec<UpstreamStatus> = counted.collect();
    let joules_per_token = mean(counted.iter().filter_map(|part| part.joules_per_token));
    let grams_per_kwh = mean(counted.iter().filter_map(|part| part.grams_per_kwh));
    let all = counted.into_iter().reduce(both);
    let all = all.map(|all| UpstreamStatus {
        joules_per_token,
        grams_per_kwh,
        ..all
    });
    all.unwrap_or_else(|| UpstreamStatus {
        readiness: Readiness::Stalled,
        ..UpstreamStatus::default()
    })
}

fn is_ready(status: &UpstreamStatus) -> bool {
    status.readiness == Readiness::Ready
}

/// How far an upstream is from taking requests.
fn nearness(readiness: &Readiness) -> u8 {
    match readiness {
        Readiness::Ready => 0,
        Readiness::Warming => 1,
        Readiness::Loading => 2,
        Readiness::Stalled => 3,
        Readiness::Draining => 4,
        Readiness::Failed(_) => 5,
    }
}

fn both(a: UpstreamStatus, b: UpstreamStatus) -> UpstreamStatus {
    let mut numerics = a.numerics;
    numerics.extend(b.numerics);
    numerics.sort_unstable();
    numerics.dedup();
    UpstreamStatus {
        readiness: std::cmp::min_by_key(a.readiness, b.readiness, nearness),
        running: a.running.saturating_add(b.running),
        waiting: a.waiting.saturating_add(b.waiting),
        waiting_prefill_tokens: a
            .waiting_prefill_tokens
            .saturating_add(b.waiting_prefill_tokens),
        kv_blocks_total: a.kv_blocks_total.saturating_add(b.kv_blocks_total),
        kv_blocks_free: a.kv_blocks_free.saturating_add(b.kv_blocks_free),
        kv_blocks_cached: a.kv_blocks_cached.saturating_add(b.kv_blocks_cached),
        mean_step: a.mean_step.max(b.mean_step),
        prefill_tokens_per_s: a.prefill_tokens_per_s + b.prefill_tokens_per_s,
        decode_tokens_per_s: a.decode_tokens_per_s + b.decode_tokens_per_s,
        sequence: a.sequence.max(b.sequence),
        age: a.age.max(b.age),
        silent: a.silent && b.silent,
        // None is without end.
        walltime_left: a.walltime_left.zip(b.walltime_left).map(|(a, b)| a.max(b)),
        kv_tokens_total: a.kv_tokens_total.saturating_add(b.kv_tokens_total),
        kv_tokens_free: a.kv_tokens_free.max(b.kv_tokens_free),
        queued_tokens: a.queued_tokens.saturating_add(b.queued_tokens),
        numerics,
        // These do not add up: whoever adds the rest takes the mean of all.
        joules_per_token: a.joules_per_token,
        grams_per_kwh: a.grams_per_kwh,
        experimental: a.experimental && b.experimental,
        least_wait: a.least_wait.min(b.least_wait),
        unheard: a.unheard || b.unheard,
        beyond: a.beyond || b.beyond,
        detour: a.detour && b.detour,
    }
}

/// The mean of those who tell.
fn mean(told: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = told.fold((0.0, 0_u32), |(sum, count), one| (sum + one, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

/// The figures of an upstream that was heard of `age` ago, and whose stream of status is `lost`: those that are old are
/// taken for worse and never for better, as if nothing had been served since and work had come at full speed. One that is
/// silent for long takes no requests.
#[must_use]
pub fn aged(mut status: UpstreamStatus, age: Duration, lost: bool) -> UpstreamStatus {
    status.age = status.age.saturating_add(age);
    let dead = if lost {
        limits::STATUS_LOST
    } else {
        limits::STATUS_DEAD
    };
    if age >= dead {
        // What it said of itself, that it loads or leaves, was the last word; that it takes requests was not.
        status.unheard |= status.readiness == Readiness::Ready;
        status.readiness = Readiness::Stalled;
    }
    let Some(late) = age
        .checked_sub(limits::STATUS_FRESH)
        .filter(|late| !late.is_zero())
    else {
        return status;
    };
    let span = limits::STATUS_DEAD.saturating_sub(limits::STATUS_FRESH);
    let trust = (1.0 - late.as_secs_f64() / span.as_secs_f64()).max(0.0);
    status.kv_tokens_free = scaled(status.kv_tokens_free, trust);
    status.kv_blocks_free = u32::try_from(scaled(status.kv_blocks_free.into(), trust)).unwrap_or(0);
    let come = (status.prefill_tokens_per_s * late.as_secs_f64()) as u64;
    status.waiting_prefill_tokens = status.waiting_prefill_tokens.saturating_add(come);
    status.queued_tokens = status.queued_tokens.saturating_add(come);
    status.least_wait = status.least_wait.saturating_add(late);
    status.walltime_left = status.walltime_left.map(|left| left.saturating_sub(age));
    status
}

#[expect(clippy::cast_sign_loss, reason = "neither factor is negative")]
fn scaled(count: u64, factor: f64) -> u64 {
    (count as f64 * factor) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(running: u32, free: u64, readiness: Readiness) -> UpstreamStatus {
        UpstreamStatus {
            readiness,
            running,
            kv_tokens_total: 100,
            kv_tokens_free: free,
            kv_blocks_free: 5,
            prefill_tokens_per_s: 10.0,
            numerics: vec![format!("digest-{}", running % 2)],
            walltime_left: Some(Duration::from_secs(running.into())),
            least_wait: Duration::from_secs(running.into()),
            ..UpstreamStatus::default()
        }
    }

    #[test]
    fn a_sites_figures_are_made_of_its_nodes() {
        let site = combined([
            node(3, 20, Readiness::Ready),
            node(5, 60, Readiness::Ready),
            node(9, 100, Readiness::Draining),
        ]);
        assert_eq!(
            (site.readiness.clone(), site.running),
            (Readiness::Ready, 8)
        );
        assert_eq!((site.kv_tokens_total, site.kv_tokens_free), (200, 60));
        assert_eq!(site.least_wait, Duration::from_secs(3));
        assert_eq!(site.walltime_left, Some(Duration::from_secs(5)));
        assert_eq!(site.numerics, ["digest-1"]);
        let endless = UpstreamStatus {
            walltime_left: None,
            ..node(0, 0, Readiness::Ready)
        };
        assert_eq!(combined([site.clone(), endless]).walltime_left, None);
        assert_eq!(combined([site.clone()]), site);
        assert_eq!(combined([]).readiness, Readiness::Stalled);
        let takes = |joules| UpstreamStatus {
            joules_per_token: Some(joules),
            ..node(0, 0, Readiness::Ready)
        };
        let three = combined([takes(1.0), takes(2.0), takes(6.0), site]);
        assert_eq!(three.joules_per_token, Some(3.0));
        let none = [Readiness::Draining, Readiness::Warming, Readiness::Loading];
        let none = none.map(|readiness| node(1, 0, readiness));
        assert_eq!(combined(none).readiness, Readiness::Warming);
    }

    #[test]
    fn silence_is_taken_for_load_and_then_for_death() {
        let fresh = node(1, 70, Readiness::Ready);
        let at = |seconds, lost| aged(fresh.clone(), Duration::from_secs(seconds), lost);
        assert_eq!(at(2, false).kv_tokens_free, 70);
        assert_eq!(at(2, false).age, Duration::from_secs(2));
        let late = at(5, false);
        assert_eq!(
            (late.readiness.clone(), late.queued_tokens),
            (Readiness::Ready, 20)
        );
        assert!(
            late.kv_tokens_free < 70 && late.kv_tokens_free > 0,
            "{late:?}"
        );
        assert_eq!(
            (at(10, false).readiness, at(10, false).kv_tokens_free),
            (Readiness::Stalled, 0)
        );
        assert_eq!(at(1, true).readiness, Readiness::Stalled);
    }

    proptest! {
        #[test]
        fn older_is_never_better(running in 0u32..9, free in 0u64..100, a in 0u64..20_000, b in 0u64..20_000) {
            let (younger, older) = (a.min(b), a.max(b));
            let at = |ms| aged(node(running, free, Readiness::Ready), Duration::from_millis(ms), false);
            let (younger, older) = (at(younger), at(older));
            prop_assert!(older.kv_tokens_free <= younger.kv_tokens_free);
            prop_assert!(older.queued_tokens >= younger.queued_tokens);
            prop_assert!(older.least_wait >= younger.least_wait);
            prop_assert!(older.walltime_left <= younger.walltime_left);
            prop_assert!(is_ready(&younger) || !is_ready(&older));
        }

        #[test]
        fn the_order_of_the_nodes_does_not_matter(counts in proptest::collection::vec((0u32..9, 0u64..100), 1..6)) {
            let nodes: Vec<_> = counts.iter().map(|(r, f)| node(*r, *f, Readiness::Ready)).collect();
            let mut turned = nodes.clone();
            turned.reverse();
            prop_assert_eq!(combined(nodes), combined(turned));
        }
    }
}
