//! What `squeue` prints, read: jobs with their states and how long they have left.
//!
//! Times are read as they are left and used, never as dates: those are printed in the time zone of whoever asks.

use std::time::Duration;

use super::JobId;
use crate::limits::JOBS_SEEN_MAX;

/// The format that is asked for: number, name, state, time left, time used.
pub const FORMAT: &str = "%A|%j|%T|%L|%M";

/// A job as Slurm sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its number.
    pub id: JobId,
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: State,
    /// Time until its limit; `None` where there is none, or none yet.
    pub left: Option<Duration>,
    /// Time since its start.
    pub used: Duration,
}

/// What a job is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// In line.
    Waiting,
    /// On its nodes, or held there.
    Running,
    /// Its processes are ending.
    Ending,
    /// It has ended, whichever way.
    Over,
}

/// The jobs in `text`. A line that is none is left out: some versions print warnings between.
#[must_use]
pub fn read(text: &str) -> Vec<Seen> {
    let lines = text.lines().filter_map(line);
    lines.take(JOBS_SEEN_MAX).collect()
}

fn line(line: &str) -> Option<Seen> {
    let mut fields = line.trim().split('|');
    let mut next = || fields.next();
    let seen = Seen {
        id: next()?.parse().ok()?,
        name: next()?.to_owned(),
        state: state(next()?),
        left: time(next()?),
        used: time(next()?).unwrap_or_default(),
    };
    fields.next().is_none().then_some(seen)
}

/// States by their names in squeue(1). One of a later version is taken for running: only what is known to be over is.
fn state(name: &str) -> State {
    match name {
        "PENDING" | "CONFIGURING" | "REQUEUED" | "REQUEUE_FED" | "REQUEUE_HOLD"
        | "RESV_DEL_HOLD" => State::Waiting,
        "COMPLETING" | "STAGE_OUT" => State::Ending,
        "BOOT_FAIL" | "CANCELLED" | "COMPLETED" | "DEADLINE" | "FAILED" | "NODE_FAIL"
        | "OUT_OF_MEMORY" | "PREEMPTED" | "REVOKED" | "TIMEOUT" | "LAUNCH_FAILED"
        | "RECONFIG_FAIL" => State::Over,
        _ => State::Running,
    }
}

/// `days-hours:minutes:seconds`, of which the front may be missing; `None` for words such as `UNLIMITED`.
fn time(text: &str) -> Option<Duration> {
    let (days, clock) = match text.split_once('-') {
        Some((days, clock)) => (days.parse::<u64>().ok()?, clock),
        None => (0, text),
    };
    let mut seconds = 0_u64;
    for part in clock.split(':') {
        seconds = seconds.checked_mul(60)?.checked_add(part.parse().ok()?)?;
    }
    let days = days.checked_mul(86_400)?;
    Some(Duration::from_secs(days.checked_add(seconds)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_read_in_all_their_lengths() {
        for (text, seconds) in [
            ("0:07", 7),
            ("12:30", 750),
            ("1:02:03", 3_723),
            ("2-00:00:01", 172_801),
            ("45", 45),
        ] {
            assert_eq!(time(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for none in ["UNLIMITED", "NOT_SET", "INVALID", "N/A", "", "1-", "-5"] {
            assert_eq!(time(none), None, "{none}");
        }
    }

    #[test]
    fn a_picture_with_noise_in_it_is_read() {
        let text = "slurm_load_jobs warning: something\n\
                    12|hansa-gpu.0|RUNNING|59:30|0:30\n\
                    13|hansa-gpu.0|PENDING|1:00:00|0:00\n\
                    14|other|CANCELLED|INVALID|1-00:00:00\n\
                    15|hansa-gpu.1|SOMETHING_NEW|UNLIMITED|5:00\n\
                    16|too|many|0:01|0:02|0:03\n";
        let seen = read(text);
        let states: Vec<_> = seen.iter().map(|job| (job.id, job.state)).collect();
        let expected = [
            (12, State::Running),
            (13, State::Waiting),
            (14, State::Over),
            (15, State::Running),
        ];
        assert_eq!(states, expected);
        assert_eq!(seen[0].left, Some(Duration::from_secs(3_570)));
        assert_eq!(seen[0].used, Duration::from_secs(30));
        assert_eq!(seen[3].left, None);
    }

    proptest! {
        #[test]
        fn nothing_that_is_printed_breaks_it(text in "[0-9A-Z|:\\-\n ]{0,200}") {
            let _ = read(&text);
        }
    }
}
