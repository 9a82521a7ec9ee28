//! A node's side: calls its gateway as soon as it can serve, and serves what comes back, for as long as it is there.

use std::sync::Arc;
use std::time::Duration;

use hansa_config::Config;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::turn::{Dialler, DiallerError};
use super::{JobId, Who};
use crate::clock::Clock;
use crate::drain::{DrainWatch, Phase};
use crate::layers::peer::Caller;
use crate::limits;
use crate::listener::Listener;
use crate::walltime::JOB_ID;

/// Whom a node calls, and who it is there.
#[derive(Debug, Clone)]
pub struct Keeper {
    dialler: Dialler,
    who: Who,
    /// Whether what comes back is believed as a peer's because of whom we called.
    certified: bool,
    clock: Clock,
}

impl Keeper {
    /// Who calls the gateway of `[dial]`; `None` where the config has none.
    ///
    /// # Errors
    /// [`DiallerError`] names what is missing.
    pub fn of(config: &Config, clock: &Clock) -> Result<Option<Self>, DiallerError> {
        let (Some(gateway), Some(node)) = (&config.dial.gateway, &config.dial.node) else {
            return Ok(None);
        };
        let dialler = Dialler::new(gateway, &config.peer)?;
        let certified = dialler.knows_whom_it_calls(&config.peer);
        let job = std::env::var(JOB_ID).ok();
        let job = job.and_then(|job| job.trim().parse().ok());
        let who = (node.as_str(), job);
        Ok(Some(Self::new(dialler, certified, who, clock.clone())))
    }

    /// Calls by `dialler` as one server of `node`, which runs in `job` where it runs in one.
    #[must_use]
    fn new(
        dialler: Dialler,
        certified: bool,
        (node, job): (&str, Option<JobId>),
        clock: Clock,
    ) -> Self {
        let instance = Uuid::new_v4().to_string();
        let who = Who {
            node: node.into(),
            instance: instance.into(),
            job,
        };
        Self {
            dialler,
            who,
            certified,
            clock,
        }
    }

    /// Keeps `connections` until the server drains, each served by `listener` in a task of `tasks`.
    pub fn start(
        self,
        connections: u32,
        listener: Listener,
        drain: &DrainWatch,
        tasks: &TaskTracker,
    ) {
        let (keeper, listener) = (Arc::new(self), Arc::new(listener.for_links()));
        for number in 0..connections {
            let (keeper, listener) = (Arc::clone(&keeper), Arc::clone(&listener));
            let drain = drain.clone();
            tasks.spawn(async move { keeper.keep(number, &listener, &drain).await });
        }
    }

    /// No new call is made once the server leaves; what a connection carries ends with the drain, as on any other.
    async fn keep(&self, number: u32, listener: &Listener, drain: &DrainWatch) {
        let mut backoff = Backoff::new(&self.who.instance, number);
        while drain.phase() == Phase::Serving {
            let dialled = tokio::select! {
                dialled = self.dialler.dial(&self.who) => dialled,
                () = drain.reached(Phase::Leaving) => return,
            };
            match dialled {
                Ok(io) => {
                    tracing::info!(connection = number, "called the gateway");
                    let began = self.clock.now();
                    let caller = Caller {
                        address: None,
                        certified: self.certified,
                    };
                    listener.serve(io, caller).await;
                    backoff.lasted(self.clock.now().saturating_sub(began));
                }
                Err(error) => {
                    tracing::warn!(connection = number, %error, "the gateway cannot be called; trying again");
                }
            }
            tokio::select! {
                () = sleep(backoff.next()) => {}
                () = drain.reached(Phase::Leaving) => return,
            }
        }
    }
}

/// Waits between calls: longer and longer, and not all callers' at once.
#[derive(Debug)]
struct Backoff {
    wait: Duration,
    /// Of 256.
    jitter: u32,
}

impl Backoff {
    fn new(instance: &str, number: u32) -> Self {
        let mixed = instance.bytes().fold(number, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(u32::from(byte))
        });
        Self {
            wait: limits::DIAL_RETRY.0,
            jitter: mixed % 256,
        }
    }

    /// A connection that lasted was no failure.
    fn lasted(&mut self, time: Duration) {
        if time >= limits::DIAL_RETRY.1 {
            self.wait = limits::DIAL_RETRY.0;
        }
    }

    /// The next wait, between half of the present one and all of it.
    fn next(&mut self) -> Duration {
        let wait = self.wait / 2 + self.wait * self.jitter / 512;
        self.wait = limits::DIAL_RETRY.1.min(self.wait * 2);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_differ() {
        let mut one = Backoff::new("one", 0);
        let mut other = Backoff::new("other", 1);
        assert_ne!(one.next(), other.next());
        let waits: Vec<Duration> = (0..20).map(|_| one.next()).collect();
        assert!(waits.is_sorted());
        assert!(waits.iter().all(|wait| *wait <= limits::DIAL_RETRY.1));
        one.lasted(limits::DIAL_RETRY.1);
        assert!(one.next() <= limits::DIAL_RETRY.0);
    }
}
