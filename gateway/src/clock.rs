//! The only file that reads a clock (I7): everything else is handed a [`Clock`] or a moment.
//!
//! Durations are monotonic. Wall time serves what people and templates read (`created`, dates in a prompt), never a
//! decision.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What time it is, for everyone in one server. Clones share it.
#[derive(Clone)]
pub struct Clock {
    source: Arc<Source>,
}

enum Source {
    System {
        start: Instant,
    },
    Manual {
        now_ns: AtomicU64,
        epoch_s: AtomicI64,
    },
    #[cfg(test)]
    Runtime {
        start: tokio::time::Instant,
    },
}

impl Clock {
    /// The machine's clock, counting from this call.
    #[must_use]
    pub fn system() -> Self {
        let start = read_monotonic();
        let source = Arc::new(Source::System { start });
        Self { source }
    }

    /// A clock that stands at `epoch_s` seconds since the epoch until [`Clock::advance`] moves it: for tests and
    /// simulation.
    #[must_use]
    pub fn manual(epoch_s: i64) -> Self {
        let (now_ns, epoch_s) = (AtomicU64::new(0), AtomicI64::new(epoch_s));
        let source = Arc::new(Source::Manual { now_ns, epoch_s });
        Self { source }
    }

    /// The clock of the test's runtime, which is that of its timers and may be paused.
    #[cfg(test)]
    pub(crate) fn of_runtime() -> Self {
        let start = paused_now();
        let source = Arc::new(Source::Runtime { start });
        Self { source }
    }

    /// Monotonic time since the clock was made.
    #[must_use]
    pub fn now(&self) -> Duration {
        match &*self.source {
            Source::System { start } => read_monotonic().saturating_duration_since(*start),
            Source::Manual { now_ns, .. } => Duration::from_nanos(now_ns.load(Ordering::Acquire)),
            #[cfg(test)]
            Source::Runtime { start } => paused_now().saturating_duration_since(*start),
        }
    }

    /// Wall time in seconds since the epoch.
    #[must_use]
    pub fn unix_s(&self) -> i64 {
        match &*self.source {
            Source::System { .. } => read_wall_s(),
            #[cfg(test)]
            Source::Runtime { .. } => read_wall_s(),
            Source::Manual { epoch_s, .. } => {
                let epoch_s = epoch_s.load(Ordering::Acquire);
                epoch_s.saturating_add_unsigned(self.now().as_secs())
            }
        }
    }

    /// Moves a manual clock on; the machine's clock moves by itself and ignores this.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual { now_ns, .. } = &*self.source {
            let by_ns = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
            now_ns.fetch_add(by_ns, Ordering::AcqRel);
        }
    }

    /// Steps the wall time of a manual clock, forwards or back, as an operator or a time server may; durations stay.
    pub fn step(&self, by_s: i64) {
        if let Source::Manual { epoch_s, .. } = &*self.source {
            epoch_s.fetch_add(by_s, Ordering::AcqRel);
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the monotonic clock"
)]
fn read_monotonic() -> Instant {
    Instant::now()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the wall clock"
)]
fn read_wall_s() -> i64 {
    // A machine whose clock stands before 1970 gets the epoch itself: wall time decides nothing.
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX)
}

/// Moment of tokio's clock, which a test can pause.
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's virtual time")]
pub(crate) fn paused_now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told_and_all_clones_see_it() {
        let clock = Clock::manual(1_700_000_000);
        let seen_elsewhere = clock.clone();
        assert_eq!(seen_elsewhere.now(), Duration::ZERO);
        clock.advance(Duration::from_millis(2_500));
        assert_eq!(seen_elsewhere.now(), Duration::from_millis(2_500));
        assert_eq!(seen_elsewhere.unix_s(), 1_700_000_002);
    }

    #[test]
    fn the_system_clock_never_goes_back() {
        let clock = Clock::system();
        let first = clock.now();
        assert!(clock.now() >= first);
        assert!(clock.unix_s() > 1_600_000_000);
    }
}
