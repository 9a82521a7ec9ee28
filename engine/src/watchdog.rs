//! Notices from outside that the engine's thread hangs in a step, since nobody can ask it: a thread that looks at a
//! timestamp now and then. It ends with the engine it watches.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use crate::api::{Clock, EngineState};
use crate::limits::WATCH_PERIOD_MAX;
use crate::shared::Shared;

/// Watches `shared`'s engine: a step that takes longer than `stall_after` makes it stalled, its end makes it ready again.
/// Without a thread to do it nobody watches, and the log says so.
pub(crate) fn start(shared: &Arc<Shared>, clock: Clock, stall_after: Duration) {
    let watched = Arc::downgrade(shared);
    let thread = thread::Builder::new().name("hansa-watchdog".to_owned());
    let spawned = thread.spawn(move || watch(&watched, &clock, stall_after));
    if let Err(error) = spawned {
        tracing::warn!(%error, "no thread for the watchdog: a hanging step will not be noticed");
    }
}

fn watch(watched: &Weak<Shared>, clock: &Clock, stall_after: Duration) {
    let period = (stall_after / 4).min(WATCH_PERIOD_MAX);
    while let Some(shared) = watched.upgrade() {
        if shared.has_ended() {
            return;
        }
        let hangs = |began| clock().saturating_sub(began) >= stall_after;
        let (hangs, state) = (shared.step_began().is_some_and(hangs), shared.state());
        let was_stalled = *state.borrow() == EngineState::Stalled;
        if hangs != was_stalled {
            shared.set_stalled(hangs);
        }
        drop((shared, state));
        thread::sleep(period);
    }
}
