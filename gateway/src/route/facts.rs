//! What is known of a candidate: the part that an operator wrote down, and the part that it tells of itself.
//!
//! A candidate is one model at one upstream. These are plain figures; who reads them over which wire is not known here.

use std::sync::Arc;
use std::time::Duration;

use super::residency::Purpose;

/// Number of a candidate of one [`super::Router`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CandidateId(pub(super) u16);

impl CandidateId {
    /// Its place in a table that grows with the router.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What the config says of a candidate.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// Id of the upstream, the same for all its models: retries are budgeted by it.
    pub upstream: Arc<str>,
    /// Site that serves.
    pub site: Arc<str>,
    /// Node within the site; empty where the site picks it.
    pub node: Arc<str>,
    /// Name of the model in the API.
    pub model: Arc<str>,
    /// Country of the site, ISO 3166 alpha-2 in capitals; a site that does not say is allowed nowhere that asks.
    pub country: Option<Arc<str>>,
    /// Whether only requests that opt in may go there.
    pub experimental: bool,
    /// Purposes that it serves; empty for all.
    pub purposes: Vec<Purpose>,
    /// Round trip until one is measured.
    pub rtt: Duration,
    /// Share of requests under the policy `weighted`.
    pub weight: u32,
    /// Whether it is a server of ours, which adds a hop.
    pub hop: bool,
    /// Energy of a token in joules where the candidate does not tell, overheads of the building included.
    pub joules_per_token: Option<f64>,
    /// Carbon of a kilowatt-hour in grams where the candidate does not tell.
    pub grams_per_kwh: Option<f64>,
}

impl Facts {
    /// A candidate of which nothing but its names is known: not experimental, for every purpose, next door.
    #[must_use]
    pub fn new(upstream: &str, site: &str, node: &str, model: &str) -> Self {
        Self {
            upstream: upstream.into(),
            site: site.into(),
            node: node.into(),
            model: model.into(),
            country: None,
            experimental: false,
            purposes: Vec::new(),
            rtt: Duration::ZERO,
            weight: 1,
            hop: false,
            joules_per_token: None,
            grams_per_kwh: None,
        }
    }
}

/// What a candidate told of itself at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// Whether it takes requests.
    pub ready: bool,
    /// Grows with every report; a report that is not newer changes nothing.
    pub sequence: u64,
    /// Time since the figures were true.
    pub age: Duration,
    /// Whether it says nothing any more, though it had promised to.
    pub silent: bool,
    /// Sequences being served.
    pub running: u32,
    /// Sequences in line.
    pub waiting: u32,
    /// Prompt tokens still to compute.
    pub queued_tokens: u64,
    /// Tokens that the KV cache holds, 0 where it is not known.
    pub kv_tokens_total: u64,
    /// Of these, free.
    pub kv_tokens_free: u64,
    /// Prompt tokens computed in a second, 0 where it is not known.
    pub prefill_tokens_per_s: f64,
    /// Tokens produced in a second over all sequences, 0 where it is not known.
    pub decode_tokens_per_s: f64,
    /// Measured round trip.
    pub rtt: Option<Duration>,
    /// Time until it ends; `None` where it does not.
    pub walltime_left: Option<Duration>,
    /// Digests under which its streams can be continued elsewhere to the token.
    pub numerics: Vec<String>,
    /// Energy of a token in joules.
    pub joules_per_token: Option<f64>,
    /// Carbon of a kilowatt-hour in grams.
    pub grams_per_kwh: Option<f64>,
    /// Whether only requests that opt in may go there.
    pub experimental: bool,
    /// Whether it is not ready for no other reason than that nothing is heard of it.
    pub unheard: bool,
    /// Whether all that it reaches is reached by others on a shorter way.
    pub detour: bool,
}

impl Default for Figures {
    /// Of a candidate that has told nothing yet: not ready.
    fn default() -> Self {
        Self {
            ready: false,
            sequence: 0,
            age: Duration::ZERO,
            silent: false,
            running: 0,
            waiting: 0,
            queued_tokens: 0,
            kv_tokens_total: 0,
            kv_tokens_free: 0,
            prefill_tokens_per_s: 0.0,
            decode_tokens_per_s: 0.0,
            rtt: None,
            walltime_left: None,
            numerics: Vec::new(),
            joules_per_token: None,
            grams_per_kwh: None,
            experimental: false,
            unheard: false,
            detour: false,
        }
    }
}

impl Figures {
    /// The one digest of all that it serves, where there is one: only then is it known what a stream from there was.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        match self.numerics.as_slice() {
            [digest] => Some(digest),
            _ => None,
        }
    }
}
