//! How late the event loop is: a timer in it that is due every few milliseconds, and how long each wake-up took. A loop
//! that is busy, or a machine that gives it no time, stamps everything late; that is the client's fault and is told.

use std::convert::Infallible;

use tokio::time::sleep_until;

use crate::clock::{Clock, nanos};
use crate::limits::STALL_PERIOD;
use crate::stats::Distribution;

/// Watches until dropped. Due times are never moved: a stall of a second is felt by every look that was due in it.
pub async fn watch(clock: Clock, stalls: &mut Distribution) -> Infallible {
    let mut due = clock.now();
    loop {
        due = due.saturating_add(nanos(STALL_PERIOD));
        sleep_until(clock.instant_at(due)).await;
        stalls.record(clock.now().saturating_sub(due) / 1_000);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_blocked_loop_is_felt_by_every_look_that_was_due_meanwhile() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut stalls = Distribution::default();
        let clock = Clock::start();
        runtime.block_on(async {
            let block = async {
                tokio::task::yield_now().await;
                std::thread::sleep(Duration::from_millis(200));
                // As many turns as there were looks, so that each can be told.
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                () = block => {}
                never = watch(clock, &mut stalls) => match never {},
            }
        });
        assert!(stalls.count_above(100_000) >= 9, "{:?}", stalls.summary());
    }
}
