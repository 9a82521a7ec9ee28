//! The router as its drivers use it.

mod doubt;
mod herding;
mod properties;
mod recovery;
mod router;
mod sheets;
mod walltime;

use std::sync::Arc;
use std::time::Duration;

use super::decision::Attempt;
use super::facts::{CandidateId, Facts, Figures};
use super::means::Means;
use super::options::Options;
use super::residency::Rules;
use super::{Ask, Placement, Router, Unplaced};

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(super) fn s(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// Figures of a candidate with nothing to do.
pub(super) fn idle() -> Figures {
    Figures {
        ready: true,
        prefill_tokens_per_s: 10_000.0,
        kv_tokens_total: 100_000,
        kv_tokens_free: 100_000,
        ..Figures::default()
    }
}

/// Candidates `a`, `b`, `c`, ... of the model `m`, each at a site and upstream of its own name, idle.
pub(super) fn router(options: Options, count: usize) -> (Router, Vec<CandidateId>) {
    let mut router = Router::new(options, 7);
    let names = ('a'..='z').map(String::from).take(count);
    let ids = names.map(|name| {
        let facts = Facts::new(&name, &name, "", "m");
        let id = router.add(facts, Duration::ZERO).unwrap();
        router.observe(id, idle(), Duration::ZERO);
        id
    });
    let ids: Vec<CandidateId> = ids.collect();
    (router, ids)
}

/// What a test asks beside the usual.
#[derive(Default)]
pub(super) struct Extra<'a> {
    pub(super) attempt: Option<Attempt>,
    pub(super) rules: Option<&'a Rules>,
    pub(super) blocks: &'a [u64],
    pub(super) session: Option<u64>,
    pub(super) tried: &'a [Arc<str>],
    pub(super) numerics: Option<&'a str>,
    pub(super) hops: u8,
    pub(super) allocation: Option<&'a (dyn Fn(&Facts) -> Means + Sync)>,
    pub(super) time_left: Option<Duration>,
}

/// Places a request for `m` of 4,000 prompt bytes.
pub(super) fn place(
    router: &mut Router,
    extra: &Extra<'_>,
    now: Duration,
) -> Result<Placement, Unplaced> {
    let open = Rules::default();
    let ask = Ask {
        attempt: extra.attempt.unwrap_or(Attempt::First),
        model: "m",
        prompt_bytes: 4_000,
        blocks: extra.blocks,
        session: extra.session,
        max_tokens: Some(100),
        n: 1,
        rules: extra.rules.unwrap_or(&open),
        hops: extra.hops,
        tried: extra.tried,
        numerics: extra.numerics,
        allocation: extra.allocation.unwrap_or(&|_| Means::Any),
        time_left: extra.time_left,
        waits: false,
    };
    router.place(&ask, now)
}
