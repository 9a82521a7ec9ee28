//! The figures of several upstreams as those of one: counts add up, the largest room and the longest time stay as such.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::upstream::{Readiness, Resident, UpstreamStatus, UpstreamTotals};

/// The status of all together.
pub(super) fn combined(statuses: impl Iterator<Item = UpstreamStatus>) -> UpstreamStatus {
    let statuses: Vec<UpstreamStatus> = statuses.collect();
    let mut sum = UpstreamStatus {
        readiness: readiness(&statuses),
        walltime_left: Some(Duration::ZERO),
        experimental: !statuses.is_empty(),
        ..UpstreamStatus::default()
    };
    let mut digests = BTreeSet::new();
    let (mut stepping, mut step) = (0_u32, Duration::ZERO);
    for status in statuses {
        sum.running = sum.running.saturating_add(status.running);
        sum.waiting = sum.waiting.saturating_add(status.waiting);
        sum.waiting_prefill_tokens += status.waiting_prefill_tokens;
        sum.queued_tokens += status.queued_tokens;
        sum.kv_blocks_total = sum.kv_blocks_total.saturating_add(status.kv_blocks_total);
        sum.kv_blocks_free = sum.kv_blocks_free.saturating_add(status.kv_blocks_free);
        sum.kv_blocks_cached = sum.kv_blocks_cached.saturating_add(status.kv_blocks_cached);
        sum.kv_tokens_total += status.kv_tokens_total;
        sum.kv_tokens_free = sum.kv_tokens_free.max(status.kv_tokens_free);
        sum.prefill_tokens_per_s += status.prefill_tokens_per_s;
        sum.decode_tokens_per_s += status.decode_tokens_per_s;
        sum.sequence = sum.sequence.saturating_add(status.sequence);
        sum.age = sum.age.max(status.age);
        // One without an end goes on for ever, and so do all together.
        sum.walltime_left = match (sum.walltime_left, status.walltime_left) {
            (Some(longest), Some(left)) => Some(longest.max(left)),
            _ => None,
        };
        // Only where all are experimental are all together.
        sum.experimental &= status.experimental;
        sum.joules_per_token = largest(sum.joules_per_token, status.joules_per_token);
        sum.grams_per_kwh = largest(sum.grams_per_kwh, status.grams_per_kwh);
        digests.extend(status.numerics);
        if !status.mean_step.is_zero() {
            stepping += 1;
            step += status.mean_step;
        }
    }
    sum.mean_step = step.checked_div(stepping).unwrap_or_default();
    sum.numerics = digests.into_iter().collect();
    sum
}

/// The work of all together.
pub(super) fn total(totals: impl Iterator<Item = UpstreamTotals>) -> UpstreamTotals {
    totals.fold(UpstreamTotals::default(), |sum, one| UpstreamTotals {
        steps: sum.steps + one.steps,
        prefill_tokens: sum.prefill_tokens + one.prefill_tokens,
        decode_tokens: sum.decode_tokens + one.decode_tokens,
        preemptions: sum.preemptions + one.preemptions,
        prefix_tokens: sum.prefix_tokens + one.prefix_tokens,
        prefix_hit_tokens: sum.prefix_hit_tokens + one.prefix_hit_tokens,
        drafted_tokens: sum.drafted_tokens + one.drafted_tokens,
        accepted_tokens: sum.accepted_tokens + one.accepted_tokens,
    })
}

/// What all together hold in memory.
pub(super) fn resident(residents: impl Iterator<Item = Resident>) -> Resident {
    residents.fold(Resident::default(), |sum, one| Resident {
        weights_bytes: sum.weights_bytes + one.weights_bytes,
        kv_bytes: sum.kv_bytes + one.kv_bytes,
    })
}

/// One that is ready is enough; otherwise the one that is nearest to it.
fn readiness(statuses: &[UpstreamStatus]) -> Readiness {
    let rank = |readiness: &Readiness| match readiness {
        Readiness::Ready => 0,
        Readiness::Warming => 1,
        Readiness::Loading => 2,
        Readiness::Stalled => 3,
        Readiness::Draining => 4,
        Readiness::Failed(_) => 5,
    };
    let all = statuses.iter().map(|status| &status.readiness);
    let nearest = all.min_by_key(|readiness| rank(readiness));
    nearest.cloned().unwrap_or(Readiness::Loading)
}

/// What is only known of some is taken at its worst.
fn largest(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.max(other)),
        (known, None) | (None, known) => known,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(readiness: Readiness, running: u32, free: u64) -> UpstreamStatus {
        UpstreamStatus {
            readiness,
            running,
            kv_tokens_free: free,
            numerics: vec!["a".to_owned()],
            ..UpstreamStatus::default()
        }
    }

    #[test]
    fn counts_add_up_and_the_largest_room_stays() {
        let dead = node(Readiness::Failed("x".to_owned()), 0, 0);
        let all = [
            node(Readiness::Ready, 3, 10),
            node(Readiness::Warming, 4, 70),
            dead,
        ];
        let sum = combined(all.into_iter());
        assert_eq!(sum.readiness, Readiness::Ready);
        assert_eq!((sum.running, sum.kv_tokens_free), (7, 70));
        assert_eq!(sum.numerics, ["a"]);
        assert_eq!(sum.walltime_left, None);
    }

    #[test]
    fn an_end_is_known_only_where_all_have_one() {
        let until = |left: Option<u64>| UpstreamStatus {
            walltime_left: left.map(Duration::from_secs),
            ..UpstreamStatus::default()
        };
        let left = |all: &[Option<u64>]| combined(all.iter().map(|l| until(*l))).walltime_left;
        assert_eq!(left(&[Some(5), Some(9)]), Some(Duration::from_secs(9)));
        assert_eq!(left(&[Some(5), None]), None);
    }
}
