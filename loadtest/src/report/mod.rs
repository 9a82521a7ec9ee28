//! What a run says in the end: one value that the table is printed from and that `--json` writes. Its shape is stable;
//! a change of a name or a meaning changes [`SCHEMA`]. Times are in milliseconds unless the name says otherwise.

pub mod charts;
pub mod html;
mod live;
pub(crate) mod markup;
pub mod names;
pub mod parts;
pub mod progress;
pub mod table;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use self::names::{ALIASES, Alias, DEFINITIONS};
use self::parts::share;
pub use self::parts::{FailureCount, Goodput, Requests, Throughput, View};
use crate::drive::Outcome;
use crate::drive::prompt::Endpoint;
use crate::extras::ExtrasReport;
use crate::faults::failover::Felt;
use crate::groups::{Fairness, GroupReport};
use crate::probes::ProbeReport;
use crate::scrape::Scraped;
use crate::self_check::SelfCheck;
use crate::slo::{self, Finding, Objective};
use crate::stats::{Stats, Summary};

/// Name and version of the JSON shape.
pub const SCHEMA: &str = "hansa-loadtest/drive/2";

/// A whole report.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Version of this program.
    pub version: &'static str,
    /// When the run began, in milliseconds since the Unix epoch.
    pub started_unix_ms: u64,
    /// What was asked for.
    pub run: Run,
    /// How requests ended.
    pub requests: Requests,
    /// Amounts and rates, over the whole run from its first due time to its last end.
    pub throughput: Throughput,
    /// Latencies of good requests counted from the actual send.
    pub service: View,
    /// The same counted from the due time; none in a closed loop, which has no due times of its own.
    pub response: Option<View>,
    /// Time per output token, one value a request.
    pub tpot_ms: Summary,
    /// Gaps between content events, pooled.
    pub itl_ms: Summary,
    /// Time to get a connection, of all requests sent; near zero where an idle one was reused.
    pub connect_ms: Summary,
    /// Requests that kept all limits of single requests, of all; none where no limit was set.
    pub goodput: Option<Goodput>,
    /// The objectives and what came of them.
    pub objectives: Vec<Finding>,
    /// The same by site, model, tenant and stage, as far as requests tell.
    pub groups: Vec<GroupReport>,
    /// How evenly tenants were served; none for fewer than two.
    pub fairness: Option<Fairness>,
    /// What was felt of each fault of the plan.
    pub faults: Vec<Felt>,
    /// Cache hits, energy, carbon and retries, as far as the server tells them.
    pub extras: Option<ExtrasReport>,
    /// What the load did to short requests beside it; none where none were sent.
    pub probe_requests: Option<ProbeReport>,
    /// The server's own metrics over the run; none where they were not asked for.
    pub server: Option<Scraped>,
    /// The client's own part.
    pub client: SelfCheck,
    /// What each figure means, and what other tools call it.
    pub definitions: BTreeMap<&'static str, &'static str>,
    /// Our names, and those of other tools for the same figure, where they have it.
    pub aliases: Vec<Alias>,
}

/// What was asked for.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// URL of the endpoint.
    pub url: String,
    /// The model.
    pub model: String,
    /// The endpoint.
    pub endpoint: Endpoint,
    /// How load was made.
    pub load: Load,
    /// What was asked, in words; one word is about one token, and the measured means are in the throughput.
    pub workload: String,
    /// Time limit of the run in seconds, if it had one.
    pub duration_s: Option<f64>,
    /// Limit of requests, if there was one.
    pub requests: Option<u64>,
    /// The seed.
    pub seed: u64,
    /// Time limit of a request in seconds.
    pub timeout_s: f64,
    /// Texts were compared with the formula of a simulated model.
    pub check_sim_tokens: bool,
    /// Requests before the run.
    pub warmup_requests: u64,
    /// Those of them that were good.
    pub warmup_good: u64,
}

/// How load was made.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Load {
    /// By a schedule.
    Open {
        /// Requests per second on average.
        rate: f64,
        /// The schedule in words.
        words: String,
    },
    /// By users that wait for their answers.
    Closed {
        /// How many.
        users: usize,
        /// In words.
        words: String,
    },
}

/// Exit codes of the program.
pub mod exit {
    /// All objectives were met; where none is set, all requests were good.
    pub const GOOD: u8 = 0;
    /// An objective was missed; where none is set, some requests failed.
    pub const MISSED: u8 = 1;
    /// The arguments are wrong; nothing was sent.
    pub const BAD_ARGUMENTS: u8 = 2;
    /// The client was the bottleneck: no verdict on the server.
    pub const CLIENT_BOUND: u8 = 3;
    /// Not one request was good.
    pub const ALL_FAILED: u8 = 4;
}

impl Report {
    /// Makes the report of a run.
    pub fn new(
        run: Run,
        started_unix_ms: u64,
        outcome: &Outcome,
        stats: &Stats,
        client: SelfCheck,
    ) -> Self {
        let open = matches!(run.load, Load::Open { .. });
        let wall = Duration::from_nanos(outcome.ended.saturating_sub(outcome.began));
        Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            started_unix_ms,
            run,
            requests: Requests::of(outcome, stats),
            throughput: Throughput::of(stats, wall),
            service: View::of(&stats.service),
            response: open.then(|| View::of(&stats.response)),
            tpot_ms: stats.tpot.summary(),
            itl_ms: stats.itl.summary(),
            connect_ms: stats.connect.summary(),
            goodput: None,
            objectives: Vec::new(),
            groups: stats.groups.report(),
            fairness: None,
            faults: Vec::new(),
            extras: stats.extras.report(),
            probe_requests: None,
            server: None,
            client,
            definitions: DEFINITIONS.into(),
            aliases: ALIASES.into(),
        }
    }

    /// Holds the run against what it must meet.
    pub fn judge(&mut self, objectives: &[Objective], stats: &Stats) {
        let wall_s = self.throughput.wall_s;
        self.objectives = slo::findings(objectives, stats, wall_s);
        self.goodput = (!stats.limits.is_empty()).then(|| Goodput {
            requests: stats.within,
            fraction: share(stats.within as f64, stats.judged() as f64),
            per_s: share(stats.within as f64, wall_s),
        });
    }

    /// The exit code that says how the run went, the gravest finding first.
    pub fn exit_code(&self) -> u8 {
        if self.requests.good == 0 {
            exit::ALL_FAILED
        } else if self.client.client_bound {
            exit::CLIENT_BOUND
        } else if self.is_met() {
            exit::GOOD
        } else {
            exit::MISSED
        }
    }

    fn is_met(&self) -> bool {
        if self.objectives.is_empty() {
            return self.requests.failed == 0;
        }
        self.objectives.iter().all(|finding| finding.met)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::verdict::Class;

    #[test]
    fn exit_codes_name_the_gravest_finding() {
        let code = |good, failed, client_bound| {
            let mut report = super::table::tests::report();
            report.objectives.clear();
            report.requests.good = good;
            report.requests.failed = failed;
            report.client.client_bound = client_bound;
            report.exit_code()
        };
        let with_objectives = |met: bool| {
            let mut report = super::table::tests::report();
            report.client.client_bound = false;
            report.objectives[0].met = met;
            report.exit_code()
        };
        assert_eq!(
            (with_objectives(true), with_objectives(false)),
            (exit::GOOD, exit::MISSED)
        );
        assert_eq!(code(5, 0, false), exit::GOOD);
        assert_eq!(code(5, 1, false), exit::MISSED);
        assert_eq!(code(5, 1, true), exit::CLIENT_BOUND);
        assert_eq!(code(0, 5, true), exit::ALL_FAILED);
        assert_eq!(
            code(0, 0, false),
            exit::ALL_FAILED,
            "nothing measured proves nothing"
        );
    }

    #[test]
    fn the_json_shape_holds_what_it_promises() {
        let json = serde_json::to_value(super::table::tests::report()).unwrap();
        assert_eq!(json["schema"], SCHEMA);
        assert_eq!(json["run"]["load"]["kind"], "open");
        for key in ["count", "mean", "p50", "p90", "p95", "p99", "max"] {
            assert!(json["service"]["ttft_ms"][key].is_number(), "{key}");
            assert!(json["response"]["e2e_ms"][key].is_number(), "{key}");
        }
        assert_eq!(
            json["requests"]["failures"][0]["class"],
            Class::Truncated.name()
        );
        assert!(json["definitions"]["tpot"].is_string());
    }
}
