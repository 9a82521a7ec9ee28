//! Whether the client itself was the bottleneck. A load generator that is late, out of CPU or wrong about what it has in
//! flight measures itself; then the run says so and refuses a verdict. Pure arithmetic on what a run left behind.

use std::time::Duration;

use serde::Serialize;

use crate::limits::{
    CPU_SHARE_LIMIT, LAG_P99_LIMIT_US, LITTLE_MIN_SAMPLES, LITTLE_TOLERANCE, STALL_P99_LIMIT_US,
};
use crate::stats::{Stats, Summary};
use crate::watch::Watched;

/// Shortest run, whose CPU share and number in flight say anything.
const SHORTEST_RUN: Duration = Duration::from_secs(1);

/// What is known of the client's own part in a run.
#[derive(Debug, Clone, Copy)]
pub struct Evidence {
    /// Length of the run.
    pub wall: Duration,
    /// CPU time of the process in the run.
    pub cpu: Duration,
    /// Worker threads of the event loop.
    pub threads: usize,
    /// The samples of the number in flight.
    pub watched: Watched,
    /// How late the event loop was.
    pub stall: Summary,
    /// There was a schedule to be late on.
    pub open_loop: bool,
    /// Requests were cut off, so that their time in flight is not known.
    pub interrupted: bool,
}

/// The result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SelfCheck {
    /// The figures of the server cannot be trusted: the client was a bottleneck.
    pub client_bound: bool,
    /// Why, in sentences.
    pub warnings: Vec<String>,
    /// How late requests were sent, in milliseconds.
    pub lag_ms: Summary,
    /// How late the event loop woke up from its timers, in milliseconds; up to 1 is the timers' own grain.
    pub stall_ms: Summary,
    /// Share of the CPU time that the event loop's threads could use.
    pub cpu_share: f64,
    /// Mean number of requests in flight, sampled.
    pub in_flight_sampled: f64,
    /// The same by Little's law: rate of requests times their mean time.
    pub in_flight_by_law: f64,
}

impl SelfCheck {
    /// Checks a run.
    pub fn of(stats: &Stats, evidence: Evidence) -> Self {
        let wall = evidence.wall.as_secs_f64().max(1e-9);
        let mut check = Self {
            client_bound: false,
            warnings: Vec::new(),
            lag_ms: stats.lag.summary(),
            stall_ms: evidence.stall,
            cpu_share: evidence.cpu.as_secs_f64() / wall / evidence.threads.max(1) as f64,
            in_flight_sampled: evidence.watched.mean_in_flight,
            in_flight_by_law: stats.time_in_flight_ns as f64 / 1e9 / wall,
        };
        if evidence.open_loop {
            check.lateness(stats);
        }
        if evidence.wall >= SHORTEST_RUN {
            check.stalls();
            check.processor();
        }
        if evidence.wall >= SHORTEST_RUN && !evidence.interrupted {
            check.littles_law(evidence.watched.samples);
        }
        check.client_bound = !check.warnings.is_empty();
        check
    }

    fn lateness(&mut self, stats: &Stats) {
        let p99 = stats.lag.percentile_us(99.0);
        if p99 > LAG_P99_LIMIT_US {
            let (p99, limit) = (p99 as f64 / 1e3, LAG_P99_LIMIT_US as f64 / 1e3);
            self.warnings.push(format!(
                "requests left late: p99 {p99:.1} ms, limit {limit:.0} ms"
            ));
        }
    }

    /// Whatever the load: an event loop that stalls stamps late what was there before.
    fn stalls(&mut self) {
        let (p99, limit) = (self.stall_ms.p99, STALL_P99_LIMIT_US as f64 / 1e3);
        if p99 > limit {
            self.warnings.push(format!(
                "the event loop stalled: p99 {p99:.1} ms, limit {limit:.0} ms"
            ));
        }
    }

    fn processor(&mut self) {
        if self.cpu_share > CPU_SHARE_LIMIT {
            let (share, limit) = (self.cpu_share * 100.0, CPU_SHARE_LIMIT * 100.0);
            self.warnings.push(format!(
                "the client used {share:.0} % of its CPU time, limit {limit:.0} %; try --threads"
            ));
        }
    }

    /// The number in flight as sampled must be rate times time as stamped (L = lambda W). A sample of about L requests
    /// scatters by its square root, so few samples are allowed more.
    fn littles_law(&mut self, samples: u64) {
        let (sampled, by_law) = (self.in_flight_sampled, self.in_flight_by_law);
        let scatter = 4.0 * (by_law / samples.max(1) as f64).sqrt();
        let allowed = LITTLE_TOLERANCE * by_law + scatter;
        if samples >= LITTLE_MIN_SAMPLES && (sampled - by_law).abs() > allowed {
            self.warnings.push(format!(
                "{sampled:.2} requests were in flight, but their times add up to {by_law:.2}"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence() -> Evidence {
        Evidence {
            wall: Duration::from_secs(10),
            cpu: Duration::from_secs(2),
            threads: 1,
            watched: Watched {
                mean_in_flight: 4.0,
                samples: 2_000,
            },
            stall: Summary::default(),
            open_loop: true,
            interrupted: false,
        }
    }

    fn stats(lag_us: u64) -> Stats {
        let mut stats = Stats {
            time_in_flight_ns: 40_000_000_000,
            ..Stats::default()
        };
        (0..100).for_each(|_| stats.lag.record(lag_us));
        stats
    }

    #[test]
    fn an_idle_client_passes() {
        let check = SelfCheck::of(&stats(500), evidence());
        assert!(!check.client_bound, "{check:?}");
        assert_eq!((check.cpu_share, check.in_flight_by_law), (0.2, 4.0));
    }

    #[test]
    fn lateness_counts_where_there_is_a_schedule() {
        assert!(SelfCheck::of(&stats(11_000), evidence()).client_bound);
        let closed = Evidence {
            open_loop: false,
            ..evidence()
        };
        assert!(!SelfCheck::of(&stats(11_000), closed).client_bound);
    }

    #[test]
    fn a_stalled_loop_counts_whatever_the_load() {
        let stall = Summary {
            p99: 12.0,
            ..Summary::default()
        };
        let closed = Evidence {
            stall,
            open_loop: false,
            ..evidence()
        };
        let check = SelfCheck::of(&stats(0), closed);
        assert!(check.client_bound && check.warnings[0].contains("p99 12.0 ms"));
        let short = Evidence {
            wall: Duration::from_millis(300),
            ..closed
        };
        assert!(
            !SelfCheck::of(&stats(0), short).client_bound,
            "too short to tell"
        );
    }

    #[test]
    fn cpu_counts_per_thread() {
        let cpu = Duration::from_secs(9);
        assert!(SelfCheck::of(&stats(0), Evidence { cpu, ..evidence() }).client_bound);
        assert!(
            !SelfCheck::of(
                &stats(0),
                Evidence {
                    cpu,
                    threads: 2,
                    ..evidence()
                }
            )
            .client_bound
        );
    }

    #[test]
    fn times_that_do_not_add_up_are_found() {
        let watched = Watched {
            mean_in_flight: 5.0,
            samples: 2_000,
        };
        assert!(
            SelfCheck::of(
                &stats(0),
                Evidence {
                    watched,
                    ..evidence()
                }
            )
            .client_bound
        );
        let few = Watched {
            samples: 20,
            ..watched
        };
        assert!(
            !SelfCheck::of(
                &stats(0),
                Evidence {
                    watched: few,
                    ..evidence()
                }
            )
            .client_bound
        );
        let cut = Evidence {
            watched,
            interrupted: true,
            ..evidence()
        };
        assert!(!SelfCheck::of(&stats(0), cut).client_bound);
    }
}
