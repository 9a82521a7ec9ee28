//! When this server's machine is taken away, and when it must begin to leave.
//!
//! Everything is a moment on the server's monotonic clock; the wall clock is read once, at the start.

use std::time::Duration;

use hansa_config::schema::Server;

use crate::agent::slurm::Slurm;
use crate::clock::Clock;
use crate::drain::DrainTimes;
use crate::limits::FINAL_EVENTS;

/// Unix seconds of the end of the Slurm job, as Slurm or a job's script tells it.
pub const JOB_END: &str = "SLURM_JOB_END_TIME";
/// Number of the Slurm job.
pub const JOB_ID: &str = "SLURM_JOB_ID";

/// Share of a short life that may go into leaving.
const LEAVING_SHARE: u32 = 4;

/// The end of this server's machine: by the config, by the environment of the Slurm job that it runs in, or by Slurm
/// itself, whose older versions do not tell a job its end.
pub async fn find(server: &Server, clock: &Clock) -> Option<Duration> {
    let variable = |name: &str| std::env::var(name).ok();
    let told = end(server, clock, variable);
    let job = || variable(JOB_ID)?.trim().parse().ok();
    let Some(job) = job().filter(|_| told.is_none()) else {
        return told;
    };
    match Slurm::new(None).left(job).await {
        Ok(left) => left.map(|left| clock.now() + left),
        Err(error) => {
            tracing::warn!(job, %error, "the end of this job is not known; set {JOB_END} or server.ends_at");
            None
        }
    }
}

/// The earliest end that the config names, or else the one of the Slurm job by `variable` of the environment.
#[must_use]
pub fn end(
    server: &Server,
    clock: &Clock,
    variable: impl Fn(&str) -> Option<String>,
) -> Option<Duration> {
    let at = |unix_s: i64| moment(unix_s, clock);
    let after = |seconds| clock.now() + Duration::from_secs(seconds);
    let told = [server.ends_at_s.map(at), server.ends_in_s.map(after)];
    let job = || variable(JOB_END)?.trim().parse().ok().map(at);
    told.into_iter().flatten().min().or_else(job)
}

/// The moment `unix_s` on the clock; now where it is past.
#[must_use]
pub fn moment(unix_s: i64, clock: &Clock) -> Duration {
    let left = unix_s.saturating_sub(clock.unix_s());
    clock.now() + Duration::from_secs(u64::try_from(left).unwrap_or(0))
}

/// The moment from which a server that ends at `end` lets nothing more in, seen from `now`: its streams get the time of a
/// drain.
#[must_use]
pub fn leave_at(end: Duration, times: DrainTimes, now: Duration) -> Duration {
    let needed = times.delay + times.grace + FINAL_EVENTS;
    let life = end.saturating_sub(now);
    end.saturating_sub(needed.min(life / LEAVING_SHARE))
}

/// The times of a drain that begins at `now` and must be over by `end`.
#[must_use]
pub fn within(times: DrainTimes, end: Option<Duration>, now: Duration) -> DrainTimes {
    let Some(left) = end.map(|end| end.saturating_sub(now)) else {
        return times;
    };
    let delay = times.delay.min(left / LEAVING_SHARE);
    let grace = left.saturating_sub(delay + FINAL_EVENTS);
    DrainTimes {
        delay,
        grace: times.grace.min(grace),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_config_goes_before_the_job_and_the_earlier_end_before_the_later() {
        let clock = Clock::manual(1_000);
        let job = |name: &str| (name == JOB_END).then(|| "1050\n".to_owned());
        let mut server = Server::default();
        assert_eq!(end(&server, &clock, |_| None), None);
        assert_eq!(end(&server, &clock, |_| Some("soon".to_owned())), None);
        assert_eq!(end(&server, &clock, job), Some(s(50)));
        server.ends_in_s = Some(70);
        assert_eq!(end(&server, &clock, job), Some(s(70)));
        server.ends_at_s = Some(1_060);
        assert_eq!(end(&server, &clock, job), Some(s(60)));
        server.ends_at_s = Some(10);
        assert_eq!(end(&server, &clock, job), Some(s(0)), "it is past");
    }

    #[test]
    fn a_server_leaves_in_time_and_not_at_once() {
        let times = DrainTimes {
            delay: s(5),
            grace: s(30),
        };
        assert!(leave_at(s(3_600), times, s(0)) <= s(3_600) - s(35));
        assert_eq!(leave_at(s(40), times, s(0)), s(30));
        assert_eq!(leave_at(s(40), times, s(50)), s(40));
        let cut = within(times, Some(s(100)), s(90));
        assert!(cut.delay + cut.grace + FINAL_EVENTS <= s(10), "{cut:?}");
        assert_eq!(within(times, None, s(90)).grace, s(30));
        assert_eq!(within(times, Some(s(90)), s(100)).grace, s(0));
    }
}
