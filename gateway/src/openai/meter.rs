//! Carries what is held for one request, and sees to it that whoever pays learns what it used, however it ends.
//!
//! A stream says so with its last word. One that is aborted is cancelled and read to that word; where the word is lost with
//! a connection, whoever served is asked for it until it is there or too old. Until then all that was held stays held.

use std::sync::Arc;

use futures::StreamExt as _;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use super::metering::Metering;
use crate::federation::kept::Kept;
use crate::limits::{
    ACKNOWLEDGE_AFTER, CANCEL_AGAIN_AFTER, USAGE_ASK, USAGE_DRAIN_MAX, USAGE_KEPT,
};
use crate::quota::charge::Spent;
use crate::quota::ledger::Outcome;
use crate::quota::reservation::Reservation;
use crate::upstream::link::LinkTasks;
use crate::upstream::usage::{Wanted, most};
use crate::upstream::{Event, EventStream, GenerateRequest, Upstream, Usage};

/// The hold of one request, carried by its run.
pub(super) struct Meter {
    payer: Payer,
    upstream: Arc<dyn Upstream>,
    /// Of the parts, as the upstream knows them.
    ids: Vec<Arc<str>>,
    tasks: TaskTracker,
    links: LinkTasks,
    started: bool,
}

/// Who learns what the request used.
pub(super) enum Payer {
    /// Its tenant's account here.
    Tenant(Arc<Reservation>),
    /// The server before this one, which asks for it by `id` where the stream could not tell.
    Peer {
        kept: Kept,
        id: Arc<str>,
        charge: Arc<str>,
    },
}

impl Payer {
    /// Settles what was used, or keeps it for the peer; `told` is whether it hears of it from us in time.
    pub(super) fn finish(&self, used: Usage, outcome: Outcome, told: bool) {
        match self {
            Self::Tenant(reservation) if used.is_nothing() && outcome != Outcome::Finished => {
                reservation.void();
            }
            Self::Tenant(reservation) => {
                reservation.settle(Spent::from(used), outcome);
            }
            Self::Peer { kept, id, charge } => kept.keep(id, charge, used, told),
        }
    }
}

/// The parts of a request, by number, that have not said what they used.
#[derive(Default)]
pub(super) struct Rest {
    /// Their streams are still open.
    pub(super) open: Vec<(usize, EventStream)>,
    /// Their streams broke off.
    pub(super) lost: Vec<usize>,
}

impl Rest {
    /// Whether all is told.
    pub(super) fn is_nothing(&self) -> bool {
        self.open.is_empty() && self.lost.is_empty()
    }
}

impl Meter {
    /// Meters `requests`, the parts of one, on `upstream`.
    pub(super) fn new(
        metering: &Metering,
        payer: Payer,
        upstream: &Arc<dyn Upstream>,
        requests: &[Arc<GenerateRequest>],
    ) -> Self {
        Self {
            payer,
            upstream: Arc::clone(upstream),
            ids: requests.iter().map(|r| Arc::clone(&r.id)).collect(),
            tasks: metering.tasks.clone(),
            links: metering.links.clone(),
            started: false,
        }
    }

    /// The first content is there.
    pub(super) fn started(&mut self) {
        if !std::mem::replace(&mut self.started, true)
            && let Payer::Tenant(reservation) = &self.payer
        {
            reservation.started();
        }
    }

    /// Settles what is over, and what the `rest` comes to once it is stopped or found.
    pub(super) fn settle(self, used: Usage, rest: Rest, outcome: Outcome) {
        if rest.is_nothing() {
            // Its stream says so, and perhaps nobody hears it.
            self.payer
                .finish(used, outcome, outcome != Outcome::Aborted);
        } else if Handle::try_current().is_ok() {
            let tasks = self.tasks.clone();
            tasks.spawn(self.stop(used, rest, outcome));
        }
        // Without a runtime the process is ending: then the guard keeps its debit.
    }

    /// Cancels the streams that are open and reads each to its last word, which says what it used.
    async fn stop(self, mut used: Usage, rest: Rest, outcome: Outcome) {
        let Rest { open, mut lost } = rest;
        lost.extend(open.iter().map(|(part, _)| *part));
        // Again and again: a request that its upstream is only about to start is not yet there to be cancelled.
        let cancelling = async {
            loop {
                self.ids.iter().for_each(|id| self.upstream.cancel(id));
                sleep(CANCEL_AGAIN_AFTER).await;
            }
        };
        let draining = async {
            for (part, events) in open {
                if let Some(told) = last_word(events).await {
                    used.add(told);
                    lost.retain(|other| *other != part);
                }
            }
        };
        let told = async {
            tokio::select! {
                () = draining => {}
                () = cancelling => {}
            }
        };
        let _ = timeout(USAGE_DRAIN_MAX, told).await;
        if lost.is_empty() {
            self.payer.finish(used, outcome, false);
        } else if self.upstream.keeps_usage() {
            let links = self.links.clone();
            links.spawn(self.ask(used, lost, outcome));
        }
        // Where nobody can be asked, the guard is dropped open, and keeps its debit.
    }

    /// Asks whoever served what the `lost` parts used, until it is known.
    async fn ask(self, mut used: Usage, lost: Vec<usize>, outcome: Outcome) {
        let ids: Vec<_> = lost
            .iter()
            .filter_map(|part| self.ids.get(*part))
            .cloned()
            .collect();
        let asking = async {
            for id in &ids {
                used.add(self.found(id).await);
            }
        };
        if timeout(USAGE_KEPT, asking).await.is_err() {
            return;
        }
        self.payer.finish(used, outcome, false);
        if matches!(self.payer, Payer::Tenant(_)) {
            // Once it is safe in the ledger.
            sleep(ACKNOWLEDGE_AFTER).await;
            self.upstream.acknowledge(&ids);
        }
    }

    /// What the part `id` used, as soon as someone says so.
    async fn found(&self, id: &Arc<str>) -> Usage {
        let (mut wait, longest) = USAGE_ASK;
        loop {
            let found = self.upstream.finished(Wanted::request(id)).await;
            if let Some(usage) = most(found) {
                return usage;
            }
            sleep(wait).await;
            wait = longest.min(wait * 2);
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Payer::Tenant(reservation) = &self.payer {
            // Nothing where it was settled. Streams that still run may share the guard, so its own end can be far.
            reservation.abandon();
        }
    }
}

/// What a stream used, by the last thing that it says.
async fn last_word(mut events: EventStream) -> Option<Usage> {
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Done(usage)) => return Some(usage),
            Ok(_) => {}
            Err(error) => return error.usage,
        }
    }
    None
}
