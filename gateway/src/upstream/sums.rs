//! What several upstreams have done and hold, as if they were one.

use crate::upstream::{Resident, UpstreamTotals};

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
