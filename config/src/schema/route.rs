//! `[route]`: where requests go.

use super::Choice;

/// `[route]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// How an upstream is picked.
    pub policy: Policy,
    /// The site that this server belongs to.
    pub home_site: Option<String>,
    /// The country of models of this process, as two letters of ISO 3166.
    pub home_country: Option<String>,
    /// Countries that requests may go to; empty for any.
    pub allow_countries: Vec<String>,
    /// Sites that requests may go to; empty for any.
    pub allow_sites: Vec<String>,
    /// Percent above the lowest cost within which upstreams share requests.
    pub band_percent: u32,
    /// What home may cost more.
    pub hysteresis_ms: u64,
    /// What a gram of CO2 is worth.
    pub carbon_ms_per_gram: u64,
    /// Bytes of the prefix index.
    pub prefix_index_bytes: u64,
    /// Upstreams that one request may be sent to before its answer begins.
    pub attempts_max: u32,
    /// Retries for an upstream, in percent of its other requests.
    pub retry_percent: u32,
    /// Retries for an upstream a second beyond that.
    pub retry_per_s: u32,
    /// Requests on their way to another upstream at once.
    pub moves_in_flight_max: u32,
    /// Requests of one model that wait at this server while all upstreams have a line.
    pub queue_max: u32,
    /// Times that a stream is continued elsewhere.
    pub resumes_max: u32,
    /// Silence before a second upstream is asked; never where unset.
    pub hedge_after_ms: Option<u32>,
    /// Bytes of a prompt for which that is done.
    pub hedge_prompt_bytes_max: u64,
    /// Failures in a row that eject.
    pub eject_failures: u32,
    /// Time of the first ejection.
    pub eject_ms: u64,
    /// Percent of a model's upstreams that may be ejected at once.
    pub eject_percent_max: u32,
    /// Time in which an upstream comes back.
    pub slow_start_ms: u64,
}

/// How an upstream is picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// By the expected time until the answer is complete.
    Cost,
    /// In turn.
    RoundRobin,
    /// By the sequences there.
    LeastLoad,
    /// Where the beginning of the prompt was served before.
    Prefix,
    /// By chance and weight.
    Weighted,
}

impl Policy {
    /// Its name in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cost => "cost",
            Self::RoundRobin => "round_robin",
            Self::LeastLoad => "least_load",
            Self::Prefix => "prefix",
            Self::Weighted => "weighted",
        }
    }
}

impl Choice for Policy {
    const ALL: &'static [Self] = &[
        Self::Cost,
        Self::RoundRobin,
        Self::LeastLoad,
        Self::Prefix,
        Self::Weighted,
    ];

    fn name(self) -> &'static str {
        Self::name(self)
    }
}

impl Default for Route {
    fn default() -> Self {
        Self {
            policy: Policy::Cost,
            home_site: None,
            home_country: None,
            allow_countries: Vec::new(),
            allow_sites: Vec::new(),
            band_percent: 10,
            hysteresis_ms: 100,
            carbon_ms_per_gram: 0,
            prefix_index_bytes: 8 << 20,
            attempts_max: 4,
            retry_percent: 20,
            retry_per_s: 10,
            moves_in_flight_max: 256,
            queue_max: 4_096,
            resumes_max: 2,
            hedge_after_ms: None,
            hedge_prompt_bytes_max: 4 << 10,
            eject_failures: 5,
            eject_ms: 5_000,
            eject_percent_max: 50,
            slow_start_ms: 10_000,
        }
    }
}
