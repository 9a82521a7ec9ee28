//! What users felt of each fault of a plan: how long until they were served again, who failed, and the longest wait.
//! Takes in requests in any order and keeps a few numbers a fault.

use std::io::{self, Write};

use serde::Serialize;

use super::plan::FaultPlan;
use crate::clock::{Nanos, nanos};
use crate::drive::record::{Record, View};
use crate::drive::verdict::Verdict;

/// The faults of a run, as its requests saw them.
#[derive(Debug, Clone, Default)]
pub struct Failover {
    windows: Vec<Window>,
}

/// A fault and the time until the next one.
#[derive(Debug, Clone)]
struct Window {
    words: String,
    at_s: f64,
    from: Nanos,
    to: Nanos,
    touched: u64,
    failed: u64,
    last_failed: Nanos,
    first_good: Option<Nanos>,
    slowest_ttft_us: u64,
    longest_gap_us: u64,
}

/// What was felt of one fault, from its beginning to the next fault's or the end of the run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Felt {
    /// The fault, its place and its time in words.
    pub fault: String,
    /// When it began, in seconds from the start of the run.
    pub at_s: f64,
    /// Requests in flight at its beginning, or due after it.
    pub requests: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Failover time: from its beginning to the first content of a good request that was due after it; none where there
    /// was no such request.
    pub served_again_ms: Option<f64>,
    /// From its beginning to the end of the last request that failed; zero where none did.
    pub last_failed_ms: f64,
    /// The longest time to first token, from the due time, of good requests whose first token came after its beginning.
    pub slowest_ttft_ms: f64,
    /// The longest gap between two content events of good requests that were in flight at its beginning or began later.
    pub longest_gap_ms: f64,
}

impl Failover {
    /// Nothing felt yet of a plan whose times count from `began`.
    pub fn new(plan: &FaultPlan, began: Nanos) -> Self {
        let mut windows: Vec<Window> = plan
            .faults
            .iter()
            .map(|fault| Window {
                words: fault.words(),
                at_s: fault.at.as_secs_f64(),
                from: began.saturating_add(nanos(fault.at)),
                to: Nanos::MAX,
                touched: 0,
                failed: 0,
                last_failed: 0,
                first_good: None,
                slowest_ttft_us: 0,
                longest_gap_us: 0,
            })
            .collect();
        windows.sort_by_key(|window| window.from);
        for at in 1..windows.len() {
            // Faults of one moment share their time.
            let next = windows[at].from;
            let earlier = windows[..at].iter_mut().filter(|window| window.from < next);
            earlier.for_each(|window| window.to = window.to.min(next));
        }
        Self { windows }
    }

    /// Adds a finished request.
    pub fn fold(&mut self, record: &Record) {
        let touched = self
            .windows
            .iter_mut()
            .filter(|window| window.touches(record));
        touched.for_each(|window| window.fold(record));
    }

    /// What was felt, in the order of the faults.
    pub fn report(&self) -> Vec<Felt> {
        self.windows.iter().map(Window::felt).collect()
    }
}

impl Window {
    fn touches(&self, record: &Record) -> bool {
        record.stamps.intended < self.to && record.stamps.end >= self.from
    }

    fn fold(&mut self, record: &Record) {
        self.touched += 1;
        match record.verdict {
            Verdict::Good => self.fold_good(record),
            Verdict::Failed(_) => {
                self.failed += 1;
                self.last_failed = self.last_failed.max(record.stamps.end);
            }
            Verdict::Aborted => {}
        }
    }

    fn fold_good(&mut self, record: &Record) {
        let first = record.stamps.first_content.unwrap_or(record.stamps.end);
        if record.stamps.intended >= self.from {
            self.first_good = Some(self.first_good.map_or(first, |good| good.min(first)));
        }
        if first >= self.from {
            let ttft = record.ttft_us(View::Response).unwrap_or(0);
            self.slowest_ttft_us = self.slowest_ttft_us.max(ttft);
        }
        let gap = record.gaps_us.iter().copied().max().unwrap_or(0);
        self.longest_gap_us = self.longest_gap_us.max(gap.into());
    }

    fn felt(&self) -> Felt {
        let since = |at: Nanos| at.saturating_sub(self.from) as f64 / 1e6;
        Felt {
            fault: self.words.clone(),
            at_s: self.at_s,
            requests: self.touched,
            failed: self.failed,
            served_again_ms: self.first_good.map(since),
            last_failed_ms: since(self.last_failed),
            slowest_ttft_ms: self.slowest_ttft_us as f64 / 1e3,
            longest_gap_ms: self.longest_gap_us as f64 / 1e3,
        }
    }
}

/// Writes the faults of a report for people; nothing where there were none.
///
/// # Errors
/// Those of `out`.
pub fn write(felt: &[Felt], out: &mut impl Write) -> io::Result<()> {
    for one in felt {
        writeln!(out, "fault     {}", one.fault)?;
        let again = one
            .served_again_ms
            .map_or("not at all".to_owned(), |ms| format!("after {ms:.1} ms"));
        writeln!(
            out,
            "          served again {again}; {} of {} requests failed, the last after {:.1} ms; longest ttft {:.1} ms, gap {:.1} ms",
            one.failed, one.requests, one.last_failed_ms, one.slowest_ttft_ms, one.longest_gap_ms
        )?;
    }
    if felt.is_empty() {
        Ok(())
    } else {
        writeln!(out)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::drive::record::tests::record;
    use crate::drive::verdict::Class;
    use crate::faults::fault::{Fault, FaultKind};
    use crate::faults::plan::Planned;

    /// A request that was due at so many milliseconds and ended 153 later; its first token came after 60.
    fn due_at(ms: u64) -> Record {
        let mut record = record();
        let stamps = &mut record.stamps;
        let moved = |at: Nanos| at - 100_000_000 + ms * 1_000_000;
        stamps.intended = moved(stamps.intended);
        stamps.end = moved(stamps.end);
        for at in [
            &mut stamps.sent,
            &mut stamps.first_content,
            &mut stamps.last_content,
            &mut stamps.terminal,
        ] {
            *at = at.map(moved);
        }
        record
    }

    fn plan(at_ms: &[u64]) -> FaultPlan {
        let fault = |&at: &u64| Planned {
            fault: Fault::of(FaultKind::Kill),
            target: None,
            at: Duration::from_millis(at),
            lasts: None,
        };
        FaultPlan {
            faults: at_ms.iter().map(fault).collect(),
            ..FaultPlan::default()
        }
    }

    #[test]
    fn a_fault_is_felt_by_who_was_there_and_who_came_after() {
        let mut failover = Failover::new(&plan(&[1_000]), 0);
        failover.fold(&due_at(500));
        failover.fold(&due_at(900));
        let mut failed = due_at(1_100);
        failed.verdict = Verdict::Failed(Class::NoAnswer.because("lost"));
        failover.fold(&failed);
        failover.fold(&due_at(1_300));
        let felt = failover.report();
        assert_eq!((felt[0].requests, felt[0].failed), (3, 1));
        assert_eq!(felt[0].served_again_ms, Some(360.0));
        assert_eq!(
            (
                felt[0].last_failed_ms,
                felt[0].slowest_ttft_ms,
                felt[0].longest_gap_ms
            ),
            (253.0, 60.0, 45.0)
        );
        let mut text = Vec::new();
        write(&felt, &mut text).unwrap();
        assert!(
            String::from_utf8(text)
                .unwrap()
                .contains("served again after 360.0 ms; 1 of 3")
        );
    }

    #[test]
    fn each_fault_has_the_time_until_the_next() {
        let mut failover = Failover::new(&plan(&[5_000, 1_000]), 0);
        failover.fold(&due_at(2_000));
        failover.fold(&due_at(4_900));
        failover.fold(&due_at(6_000));
        let counts: Vec<u64> = failover.report().iter().map(|felt| felt.requests).collect();
        assert_eq!(counts, [2, 2], "one was there when the second began");
    }
}
