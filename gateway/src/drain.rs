//! Shutting down in order: who is told what, when.
//!
//! hyper's own graceful shutdown waits for open streams, and a stream of tokens may stay open for ever. So the streams
//! are ended from their source: the upstreams fail what still runs after the grace period, which reaches the client as
//! a last error event, and then every connection has nothing left to wait for.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use crate::limits::FINAL_EVENTS;
use crate::upstream::registry::Models;

/// Where the server is in its life. Phases only go forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Takes requests.
    Serving,
    /// Says "not ready" so that balancers look away, and still takes requests.
    Leaving,
    /// Takes nothing new; what runs goes on.
    Draining,
    /// Everything is cut.
    Closed,
}

/// Moves the phase on; held by the server alone.
#[derive(Debug)]
pub struct Drain {
    phase: watch::Sender<Phase>,
}

/// Sees the phase; held by listeners, connections, the gate and the health answers.
#[derive(Debug, Clone)]
pub struct DrainWatch {
    phase: watch::Receiver<Phase>,
}

/// How long the steps of a drain take.
#[derive(Debug, Clone, Copy)]
pub struct DrainTimes {
    /// Between "not ready" and closing the listeners.
    pub delay: Duration,
    /// For running streams.
    pub grace: Duration,
}

impl DrainTimes {
    /// Everything ends now.
    pub const NONE: Self = Self {
        delay: Duration::ZERO,
        grace: Duration::ZERO,
    };
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every connection ended by itself.
    InOrder,
    /// Some were cut after the grace period.
    Cut,
    /// A second signal cut everything.
    Forced,
}

impl Drain {
    /// A server that takes requests.
    #[must_use]
    pub fn new() -> Self {
        Self {
            phase: watch::channel(Phase::Serving).0,
        }
    }

    /// A view of the phase.
    #[must_use]
    pub fn watch(&self) -> DrainWatch {
        DrainWatch {
            phase: self.phase.subscribe(),
        }
    }

    /// Runs the whole drain. `connections` holds every connection's task; `force` resolves on the second signal.
    pub async fn run(
        &self,
        times: DrainTimes,
        models: &Arc<Models>,
        connections: &TaskTracker,
        force: impl Future<Output = ()>,
    ) -> Drained {
        let drained = tokio::select! {
            drained = self.in_order(times, models, connections) => drained,
            () = force => Drained::Forced,
        };
        self.phase.send_replace(Phase::Closed);
        drained
    }

    async fn in_order(
        &self,
        times: DrainTimes,
        models: &Arc<Models>,
        connections: &TaskTracker,
    ) -> Drained {
        self.phase.send_replace(Phase::Leaving);
        sleep(times.delay).await;
        self.phase.send_replace(Phase::Draining);
        models.drain(times.grace);
        connections.close();
        match timeout(times.grace + FINAL_EVENTS, connections.wait()).await {
            Ok(()) => Drained::InOrder,
            Err(_) => Drained::Cut,
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl DrainWatch {
    /// The phase of this moment.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Resolves once the server is at `phase` or beyond. A server that is gone is beyond everything.
    pub async fn reached(&self, phase: Phase) {
        let mut seen = self.phase.clone();
        // An error says that the server itself was dropped.
        let _ = seen.wait_for(|now| *now >= phase).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::paused_now;

    const TIMES: DrainTimes = DrainTimes {
        delay: Duration::from_secs(5),
        grace: Duration::from_secs(30),
    };

    #[tokio::test(start_paused = true)]
    async fn an_idle_server_leaves_right_after_the_delay() {
        let drain = Drain::new();
        let (models, tasks) = (Arc::new(Models::default()), TaskTracker::new());
        let before = paused_now();
        let drained = drain
            .run(TIMES, &models, &tasks, std::future::pending())
            .await;
        assert_eq!(drained, Drained::InOrder);
        assert_eq!(before.elapsed(), TIMES.delay);
    }

    #[tokio::test(start_paused = true)]
    async fn what_outlives_the_grace_period_is_cut_within_a_second() {
        let drain = Drain::new();
        let (models, tasks) = (Arc::new(Models::default()), TaskTracker::new());
        let watch = drain.watch();
        tasks.spawn(async move { watch.reached(Phase::Closed).await });
        let before = paused_now();
        let drained = drain
            .run(TIMES, &models, &tasks, std::future::pending())
            .await;
        assert_eq!(drained, Drained::Cut);
        assert!(before.elapsed() < TIMES.delay + TIMES.grace + Duration::from_secs(1));
        tasks.wait().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_waits_for_nothing() {
        let drain = Drain::new();
        let (models, tasks) = (Arc::new(Models::default()), TaskTracker::new());
        let drained = drain
            .run(TIMES, &models, &tasks, std::future::ready(()))
            .await;
        assert_eq!(drained, Drained::Forced);
        assert_eq!(drain.watch().phase(), Phase::Closed);
    }
}
