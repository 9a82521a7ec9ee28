//! The closed loop: users who send their next request when the last one is over and thought about, go on with their
//! session while it goes well, and come and go as the crowd says.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep_until;

use super::arrival::Until;
use super::crowd::Crowd;
use super::prompt::Message;
use super::{Driver, Outcome, RunError, Turn, stopped};
use crate::clock::{Nanos, nanos};
use crate::rng::{SplitMix64, mix};
use crate::spread::Spread;
use crate::workload::Place;

/// Added to the seed for users' pauses, so that they are drawn apart from everything else.
const THINK_DRAW: u64 = 0x7419;

/// The users of a closed loop and what they have yet to do.
#[derive(Debug)]
pub(super) struct Users {
    crowd: Arc<Crowd>,
    /// Users that have come and not gone.
    here: usize,
    until: Until,
    think: Option<Spread>,
    /// Number of the session that the next free user takes.
    next_session: u64,
    /// Requests begun.
    started: u64,
}

/// A finished request, as far as its user goes on from it.
pub(super) struct Over {
    pub(super) place: Place,
    pub(super) at: Nanos,
    pub(super) good: bool,
    pub(super) chat: Vec<Message>,
}

impl Users {
    pub(super) fn new(
        crowd: Arc<Crowd>,
        until: Until,
        think: Option<Spread>,
        first_session: u64,
    ) -> Self {
        Self {
            crowd,
            here: 0,
            until,
            think,
            next_session: first_session,
            started: 0,
        }
    }
}

impl Driver<'_> {
    /// Runs users to the end of the load.
    pub(super) async fn closed(&mut self, mut users: Users) -> Result<Outcome, RunError> {
        let (duration, requests) = users.until.bounds()?;
        let end = self.began.saturating_add(duration);
        let mut interrupted = false;
        let mut comes = self.next_comer(&users, self.began, end, requests);
        while comes.is_some() || !self.tasks.is_empty() {
            tokio::select! {
                biased;
                () = stopped(&mut self.stop) => {
                    interrupted = true;
                    break;
                }
                () = sleep_until(self.client.clock.instant_at(comes.unwrap_or(0))), if comes.is_some() => {
                    users.here += 1;
                    let first = self.next_turn(&mut users, comes.unwrap_or(self.began), None);
                    self.start_turn(&mut users, first, requests);
                }
                Some(done) = self.tasks.join_next() => {
                    let over = self.collect(done);
                    self.go_on(&mut users, over, end, requests);
                }
            }
            let now = self.client.clock.now();
            comes = self.next_comer(&users, now, end, requests);
        }
        Ok(self.end(interrupted, 0))
    }

    /// When the next user comes, if there is still anything to do for one; not before `now`.
    fn next_comer(&self, users: &Users, now: Nanos, end: Nanos, requests: u64) -> Option<Nanos> {
        if users.started >= requests {
            return None;
        }
        let after = now.saturating_sub(self.began);
        let comes = users.crowd.more_than(users.here, after)?;
        Some(self.began.saturating_add(comes)).filter(|comes| *comes < end)
    }

    /// What a user does whose request is over: goes, where there are too many, else asks again when the answer has been
    /// thought about.
    fn go_on(&mut self, users: &mut Users, over: Over, end: Nanos, requests: u64) {
        let after = over.at.saturating_sub(self.began);
        if users.here > users.crowd.users_at(after) {
            users.here -= 1;
            self.abandoned += self.turns_left(over.place);
            return;
        }
        let due = over.at.saturating_add(self.pause(users));
        if due < end {
            let next = self.next_turn(users, due, Some(over));
            self.start_turn(users, next, requests);
        }
    }

    fn turns_left(&self, place: Place) -> u64 {
        let turns = self.client.workload.turns(place.session);
        turns.saturating_sub(place.turn + 1).into()
    }

    /// The next turn of a session that went well, else the first of another one; None when there are no more.
    fn next_turn(
        &mut self,
        users: &mut Users,
        intended: Nanos,
        last: Option<Over>,
    ) -> Option<Turn> {
        let workload = &self.client.workload;
        if let Some(last) = last {
            let Place { session, turn } = last.place;
            let left = self.turns_left(last.place);
            if left > 0 && last.good {
                let turn = turn + 1;
                return Some(Turn {
                    place: Place { session, turn },
                    intended,
                    history: last.chat,
                });
            }
            self.abandoned += left;
        }
        let session = users.next_session;
        users.next_session += 1;
        let exists = workload
            .sessions()
            .is_none_or(|sessions| session < sessions);
        exists.then(|| Turn {
            place: Place { session, turn: 0 },
            intended,
            history: workload.begin(session),
        })
    }

    fn start_turn(&mut self, users: &mut Users, turn: Option<Turn>, requests: u64) {
        if let Some(turn) = turn
            && users.started < requests
        {
            let after = turn.intended.saturating_sub(self.began);
            let stage = users.crowd.stage_at(after).cloned();
            self.start(users.started, stage, turn);
            users.started += 1;
        }
    }

    /// How long a user thinks, in nanoseconds.
    fn pause(&self, users: &Users) -> Nanos {
        let Some(think) = users.think else {
            return 0;
        };
        let seed = mix(self.client.workload.seed.wrapping_add(THINK_DRAW));
        let seconds = think.sample(&mut SplitMix64::for_item(seed, users.started));
        Duration::try_from_secs_f64(seconds).map_or(0, nanos)
    }
}
