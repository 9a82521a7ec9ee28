//! The one reader of the clock. Everything else is given a [`Clock`] or a stamp, so that times come from one
//! monotonic origin and nobody mixes it with the wall clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds since the origin of the process's [`Clock`].
pub type Nanos = u64;

/// A monotonic clock with a fixed origin. Copies share the origin.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock whose origin is now.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn start() -> Self {
        Self {
            origin: Instant::now(),
        }
    }

    /// Nanoseconds since the origin.
    pub fn now(&self) -> Nanos {
        nanos(self.origin.elapsed())
    }

    /// The runtime's instant for a stamp of this clock, for its timers.
    pub fn instant_at(&self, at: Nanos) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.origin + Duration::from_nanos(at))
    }
}

/// Milliseconds since the Unix epoch: only to say when a run took place, never to measure.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

/// A duration in nanoseconds, saturating after 584 years.
pub fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
