//! What a run says in the end: one value that the table is printed from and that `--json` writes. Its shape is stable;
//! a change of a name or a meaning changes [`SCHEMA`]. Times are in milliseconds unless the name says otherwise.

pub mod charts;
pub mod html;
pub mod progress;
pub mod table;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::drive::Outcome;
use crate::drive::prompt::Endpoint;
use crate::faults::failover::Felt;
use crate::groups::{Fairness, GroupReport};
use crate::self_check::SelfCheck;
use crate::slo::{self, Finding, Objective};
use crate::stats::{Latencies, Stats, Summary};

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
    /// The client's own part.
    pub client: SelfCheck,
    /// What each figure means, and what other tools call it.
    pub definitions: BTreeMap<&'static str, &'static str>,
    /// Our names, and those of other tools for the same figure, where they have it.
    pub aliases: Vec<Alias>,
}

/// Names of one figure.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Alias {
    /// Here.
    pub hansa: &'static str,
    /// In `vllm bench serve`.
    pub vllm: &'static str,
    /// In aiperf and genai-perf.
    pub aiperf: &'static str,
    /// In guidellm.
    pub guidellm: &'static str,
}

/// Requests that kept all limits.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Goodput {
    /// How many.
    pub requests: u64,
    /// Of all requests, failed ones included, from 0 to 1.
    pub fraction: f64,
    /// Per second.
    pub per_s: f64,
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

/// How requests ended.
#[derive(Debug, Clone, Serialize)]
pub struct Requests {
    /// Good and failed.
    pub total: u64,
    /// Requests that were begun.
    pub sent: u64,
    /// Good ones.
    pub good: u64,
    /// Failed ones, those not sent included.
    pub failed: u64,
    /// Given up by the client, as it was told to; neither good nor failed, and in no latency.
    pub aborted: u64,
    /// Turns never asked, since an earlier one of their session did not end well; in no other count.
    pub abandoned: u64,
    /// Good share of good and failed ones, from 0 to 1.
    pub good_fraction: f64,
    /// The run was stopped early.
    pub interrupted: bool,
    /// In flight when the run was stopped; in no other count.
    pub cut_off: u64,
    /// Not yet due when the run was stopped; in no other count.
    pub not_reached: u64,
    /// Failures, counted.
    pub failures: Vec<FailureCount>,
}

/// Failures of one class and reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailureCount {
    /// The class.
    pub class: &'static str,
    /// The reason.
    pub reason: String,
    /// How many.
    pub count: u64,
}

/// Amounts and rates of good requests.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Throughput {
    /// Length of the run in seconds.
    pub wall_s: f64,
    /// Good requests per second.
    pub requests_per_s: f64,
    /// Output tokens per second.
    pub output_tok_s: f64,
    /// Prompt tokens per second.
    pub prompt_tok_s: f64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Prompt tokens.
    pub prompt_tokens: u64,
    /// Output tokens per good request.
    pub output_tokens_mean: f64,
    /// Prompt tokens per good request.
    pub prompt_tokens_mean: f64,
    /// Content events; fewer than tokens where the server puts several into one.
    pub content_events: u64,
}

/// Latencies counted from one moment.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct View {
    /// Time to first byte.
    pub ttfb_ms: Summary,
    /// Time to first token.
    pub ttft_ms: Summary,
    /// End to end.
    pub e2e_ms: Summary,
    /// End to end per output token.
    pub ntpot_ms: Summary,
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

impl Requests {
    fn of(outcome: &Outcome, stats: &Stats) -> Self {
        let failures = stats.failures.iter().flat_map(|(class, reasons)| {
            reasons.iter().map(|(reason, &count)| FailureCount {
                class: class.name(),
                reason: reason.clone(),
                count,
            })
        });
        Self {
            total: stats.judged(),
            sent: stats.sent,
            good: stats.good,
            failed: stats.failed(),
            aborted: stats.aborted,
            abandoned: outcome.abandoned,
            good_fraction: share(stats.good as f64, stats.judged() as f64),
            interrupted: outcome.interrupted,
            cut_off: outcome.cut_off,
            not_reached: outcome.not_reached,
            failures: failures.collect(),
        }
    }
}

impl Throughput {
    fn of(stats: &Stats, wall: Duration) -> Self {
        let (wall_s, good) = (wall.as_secs_f64(), stats.good as f64);
        let (output, prompt) = (stats.output_tokens as f64, stats.prompt_tokens as f64);
        Self {
            wall_s,
            requests_per_s: share(good, wall_s),
            output_tok_s: share(output, wall_s),
            prompt_tok_s: share(prompt, wall_s),
            output_tokens: stats.output_tokens,
            prompt_tokens: stats.prompt_tokens,
            output_tokens_mean: share(output, good),
            prompt_tokens_mean: share(prompt, good),
            content_events: stats.content_events,
        }
    }
}

impl View {
    fn of(latencies: &Latencies) -> Self {
        Self {
            ttfb_ms: latencies.ttfb.summary(),
            ttft_ms: latencies.ttft.summary(),
            e2e_ms: latencies.e2e.summary(),
            ntpot_ms: latencies.ntpot.summary(),
        }
    }
}

/// A quotient that is zero where there is nothing to divide by.
fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

const DEFINITIONS: [(&str, &str); 19] = [
    (
        "good",
        "finish_reason and [DONE] seen, no error event, the model asked for, usage consistent with the stream, some \
         content; everything else failed",
    ),
    (
        "latencies",
        "of good requests only; percentiles within 0.1 %, mean and maximum exact",
    ),
    (
        "service",
        "counted from the actual send; opening a connection, where none was idle, is included",
    ),
    (
        "response",
        "counted from the due time of the schedule: what a user felt who came on time",
    ),
    ("ttfb", "to the first byte of the response body"),
    (
        "ttft",
        "to the first event with non-empty content, reasoning or tool call (vllm: first event with choices, may be \
         empty; aiperf, guidellm: the same as here)",
    ),
    (
        "e2e",
        "to the [DONE] event (vllm, aiperf: to the last content; guidellm: to the end of the stream)",
    ),
    (
        "tpot",
        "(last content - first content) / (n - 1), one value a request, n = usage.completion_tokens; none for n = 1 or \
         where all content came in one event (aiperf, guidellm: inter-token latency)",
    ),
    (
        "itl",
        "gap between successive content events, pooled over requests; an event may hold several tokens (aiperf: ICL)",
    ),
    (
        "ntpot",
        "e2e / n, one value a request (inference-perf: NTPOT; guidellm's time_per_output_token ends at the last token)",
    ),
    (
        "goodput",
        "good requests within every limit of a single request, of all requests, failed ones included (vllm: of the \
         successful ones only, and one token passes every tpot)",
    ),
    (
        "objectives",
        "percentiles over all requests, failed ones counted as answers that never came; response view unless said",
    ),
    (
        "fairness",
        "Jain's index over tenants, of output tokens per weight and of good fractions: 1 is even, 1/n is one takes all",
    ),
    (
        "faults",
        "served_again: from a fault's beginning to the first content of a good request due after it (failover time); all until \
         the next fault begins",
    ),
    (
        "output_tok_s",
        "usage.completion_tokens of good requests / wall_s",
    ),
    (
        "prompt_tok_s",
        "usage.prompt_tokens of good requests / wall_s, whether cached or not",
    ),
    (
        "wall_s",
        "from the start of the run to the end of its last request",
    ),
    (
        "lag",
        "actual send - due time, of all requests sent; in a closed loop a request is due when its user's last one is over",
    ),
    (
        "in_flight",
        "sampled by a thread of its own, and by Little's law: sum of all requests' times / wall_s",
    ),
];

const ALIASES: [Alias; 6] = [
    Alias {
        hansa: "ttft",
        vllm: "ttft (may be an empty first event)",
        aiperf: "time_to_first_token",
        guidellm: "time_to_first_token",
    },
    Alias {
        hansa: "tpot",
        vllm: "tpot",
        aiperf: "inter_token_latency",
        guidellm: "inter_token_latency",
    },
    Alias {
        hansa: "itl",
        vllm: "itl",
        aiperf: "inter_chunk_latency",
        guidellm: "-",
    },
    Alias {
        hansa: "e2e",
        vllm: "e2el (to the last choice)",
        aiperf: "request_latency (to the last content)",
        guidellm: "request_latency (to the end of the stream)",
    },
    Alias {
        hansa: "ntpot",
        vllm: "-",
        aiperf: "-",
        guidellm: "time_per_output_token (to the last token)",
    },
    Alias {
        hansa: "lag",
        vllm: "client_queue_time (closed loop only)",
        aiperf: "schedule lag (replay only)",
        guidellm: "request_dispatch_delay",
    },
];

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
