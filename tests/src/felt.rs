//! What users felt of a fault: times to first token before it, in the seconds after it, and later.

use std::fmt;

use hansa_loadtest::drive::record::View;
use hansa_loadtest::raw::{Request, Run};

/// Seconds after a fault that count as its own.
const MEANWHILE_S: u64 = 10;

/// The requests of one run by when they began, and what became of them.
#[derive(Debug)]
pub struct Felt {
    requests: usize,
    failed: usize,
    /// Milliseconds from the due time to the first token of good requests, sorted: of those whose first token came before
    /// the fault, of the others that were due until ten seconds after it, and of all later ones.
    before: Vec<f64>,
    meanwhile: Vec<f64>,
    after: Vec<f64>,
}

impl Felt {
    /// Of a run in which the fault came when `arrived` requests had: its moment is taken from the next one's due time,
    /// since the clocks of two processes have nothing in common.
    #[must_use]
    pub fn of(run: &Run, arrived: u64) -> Self {
        let due = |request: &Request| request.record.stamps.intended;
        let next = usize::try_from(arrived).unwrap_or(usize::MAX);
        let fault = run
            .requests
            .get(next)
            .or(run.requests.last())
            .map_or(0, due);
        let mut felt = Self {
            requests: run.requests.len(),
            failed: run.requests.iter().filter(|one| !one.good).count(),
            before: Vec::new(),
            meanwhile: Vec::new(),
            after: Vec::new(),
        };
        for request in run.requests.iter().filter(|request| request.good) {
            let Some(ttft_us) = request.record.ttft_us(View::Response) else {
                continue;
            };
            let first = request.record.stamps.first_content.unwrap_or(0);
            let times = if first < fault {
                &mut felt.before
            } else if due(request) < fault + MEANWHILE_S * 1_000_000_000 {
                &mut felt.meanwhile
            } else {
                &mut felt.after
            };
            times.push(ttft_us as f64 / 1e3);
        }
        for times in [&mut felt.before, &mut felt.meanwhile, &mut felt.after] {
            times.sort_by(f64::total_cmp);
        }
        felt
    }
}

impl fmt::Display for Felt {
    /// One line: `2000 requests, 0 failed; p99 TTFT before 90 ms, within 10 s 700 ms (added 610 ms), after 120 ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, meanwhile) = (p99(&self.before), p99(&self.meanwhile));
        write!(
            f,
            "{} requests, {} failed; p99 TTFT before {before:.0} ms ({}), within {MEANWHILE_S} s {meanwhile:.0} ms ({}; added \
             {:.0} ms), after {:.0} ms ({})",
            self.requests,
            self.failed,
            self.before.len(),
            self.meanwhile.len(),
            meanwhile - before,
            p99(&self.after),
            self.after.len(),
        )
    }
}

/// The 99th percentile by nearest rank of sorted times; NaN of none.
fn p99(times: &[f64]) -> f64 {
    let rank = (times.len() * 99).div_ceil(100);
    times
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use hansa_loadtest::drive::record::{Labels, Record, Stamps};
    use hansa_loadtest::drive::verdict::Verdict;
    use hansa_loadtest::extras::Extras;

    use super::*;

    fn request(due_s: u64, ttft_ms: u64) -> Request {
        let intended = due_s * 1_000_000_000;
        let first = intended + ttft_ms * 1_000_000;
        let record = Record {
            labels: Labels::default(),
            stamps: Stamps {
                intended,
                first_content: Some(first),
                end: first,
                ..Stamps::default()
            },
            verdict: Verdict::Good,
            usage: None,
            gaps_us: Vec::new(),
            extras: Extras::default(),
        };
        Request { record, good: true }
    }

    #[test]
    fn who_waited_at_the_fault_belongs_to_it() {
        // The fault comes at 3 s, when three requests are there, one of which still waits.
        let mut run = Run {
            requests: vec![
                request(0, 10),
                request(1, 20),
                request(2, 1_500),
                request(3, 700),
                request(12, 600),
                request(13, 30),
            ],
            ..Run::default()
        };
        run.requests[5].good = false;
        let felt = Felt::of(&run, 3);
        let expected = "6 requests, 1 failed; p99 TTFT before 20 ms (2), within 10 s 1500 ms (3; added 1480 ms), after NaN ms (0)";
        assert_eq!(felt.to_string(), expected);
    }
}
