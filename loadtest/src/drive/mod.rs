//! Drives load: starts every request when it is due, collects what came of it, and ends by itself or when told to.
//!
//! What becomes of the records is the caller's business: each is handed out once, when its request is over.
//!
//! One loop starts and collects. An open loop is fed by the [`dispatch`] thread, whose times nothing can move; a closed
//! loop starts a user's next request when that user's last one is over.

pub mod answer;
pub mod arrival;
pub mod chunk;
pub mod client;
pub mod dispatch;
pub mod link;
pub mod meters;
pub mod prompt;
pub mod record;
pub mod sim_tokens;
pub mod sse;
pub mod target;
pub mod verdict;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use self::arrival::{Schedule, ScheduleError, Until};
use self::client::{Client, Finished, Job, not_sent};
use self::dispatch::Dispatcher;
use self::link::Link;
use self::prompt::Message;
use self::record::{Labels, Record};
use self::verdict::{Class, Verdict};
use crate::clock::{Nanos, nanos};
use crate::limits::{MAX_IN_FLIGHT, WARMUP_USERS};
use crate::rng::{SplitMix64, mix};
use crate::spread::Spread;
use crate::workload::Place;

/// Sessions of warm-up requests are numbered from here on, so that they repeat none of the run's prompts.
const WARMUP_SESSION: u64 = 1 << 62;

/// Added to the seed for users' pauses, so that they are drawn apart from everything else.
const THINK_DRAW: u64 = 0x7419;

/// How load is made.
#[derive(Debug, Clone)]
pub enum Load {
    /// Requests are due at fixed times, whatever the server does.
    Open(Arc<Schedule>),
    /// Each of `users` sends its next request when its last one is over.
    Closed {
        /// Users at work at the same time.
        users: usize,
        /// When no further request is begun.
        until: Until,
        /// Seconds between a user's last answer and the next request; at once, if there are none.
        think: Option<Spread>,
    },
}

/// How a run went as a whole.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// The clock at the start of the run; due times count from here.
    pub began: Nanos,
    /// The clock when the last request was over.
    pub ended: Nanos,
    /// It was stopped before its end.
    pub interrupted: bool,
    /// Requests in flight when it was stopped: neither good nor failed.
    pub cut_off: u64,
    /// Arrivals of the schedule that were not due yet when it was stopped.
    pub not_reached: u64,
    /// Turns that were never asked, since an earlier one of their session did not end well.
    pub abandoned: u64,
}

/// Is handed every finished request.
pub type Sink<'a> = &'a mut dyn FnMut(&Record);

/// Runs a load to its end, or until `stop` turns true.
///
/// # Errors
/// A closed loop without an end, or a thread that the system refuses.
pub async fn run(
    client: Arc<Client>,
    load: &Load,
    stop: watch::Receiver<bool>,
    sink: Sink<'_>,
) -> Result<Outcome, RunError> {
    let mut driver = Driver::new(client, stop, sink);
    match load {
        Load::Open(schedule) => driver.open(schedule).await,
        Load::Closed {
            users,
            until,
            think,
        } => {
            let users = Users::new(*users, *until, *think, 0);
            driver.closed(users).await
        }
    }
}

/// Sends `requests` before a run, with prompts of their own, and returns how many were good. Opens no connection that
/// the run uses: its first requests are like any user's first.
///
/// # Errors
/// As [`run`].
pub async fn warm_up(
    client: Arc<Client>,
    load: &Load,
    requests: u64,
    stop: watch::Receiver<bool>,
) -> Result<u64, RunError> {
    let users = match load {
        Load::Open(_) => WARMUP_USERS,
        Load::Closed { users, .. } => *users,
    };
    let until = Until {
        duration: None,
        requests: Some(requests),
    };
    let mut good = 0;
    let mut count = |record: &Record| good += u64::from(record.verdict == Verdict::Good);
    let users = Users::new(users, until, None, WARMUP_SESSION);
    Driver::new(client, stop, &mut count).closed(users).await?;
    Ok(good)
}

/// Why a run could not begin.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The load has no end or no schedule.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// No thread for the dispatcher.
    #[error("cannot start the thread that keeps the schedule: {0}")]
    Thread(#[from] std::io::Error),
}

struct Driver<'a> {
    client: Arc<Client>,
    stop: watch::Receiver<bool>,
    tasks: JoinSet<Finished>,
    /// Connections that no request uses; the last one used is the first one taken.
    idle: Vec<Link>,
    sink: Sink<'a>,
    began: Nanos,
    abandoned: u64,
}

/// The users of a closed loop and what they have yet to do.
#[derive(Debug)]
struct Users {
    count: usize,
    until: Until,
    think: Option<Spread>,
    /// Number of the session that the next free user takes.
    next_session: u64,
    /// Requests begun.
    started: u64,
}

/// What a user does next.
struct Turn {
    place: Place,
    intended: Nanos,
    history: Vec<Message>,
}

/// A finished request, as far as its user goes on from it.
struct Over {
    place: Place,
    at: Nanos,
    good: bool,
    chat: Vec<Message>,
}

impl Users {
    fn new(count: usize, until: Until, think: Option<Spread>, first_session: u64) -> Self {
        Self {
            count,
            until,
            think,
            next_session: first_session,
            started: 0,
        }
    }
}

impl<'a> Driver<'a> {
    fn new(client: Arc<Client>, stop: watch::Receiver<bool>, sink: Sink<'a>) -> Self {
        let began = client.clock.now();
        let (tasks, idle) = (JoinSet::new(), Vec::new());
        Self {
            client,
            stop,
            tasks,
            idle,
            sink,
            began,
            abandoned: 0,
        }
    }

    async fn open(&mut self, schedule: &Arc<Schedule>) -> Result<Outcome, RunError> {
        let (clock, began) = (self.client.clock, self.began);
        let (dispatcher, mut due) = Dispatcher::start(schedule.clone(), clock, began)?;
        let mut started = 0;
        let mut interrupted = false;
        let mut more = true;
        while more || !self.tasks.is_empty() {
            tokio::select! {
                biased;
                () = stopped(&mut self.stop) => {
                    interrupted = true;
                    break;
                }
                next = due.recv(), if more => match next {
                    Some(index) => {
                        started = index + 1;
                        let after = schedule.due().get(index as usize).copied().unwrap_or(0);
                        self.start_or_refuse(index, began + after, schedule);
                    }
                    None => more = false,
                },
                Some(done) = self.tasks.join_next() => drop(self.collect(done)),
            }
        }
        drop(due);
        dispatcher.finish();
        let not_reached = schedule.due().len() as u64 - started;
        if interrupted {
            return Ok(self.end(true, not_reached));
        }
        // Only a dispatcher that broke down leaves arrivals behind; they must not vanish.
        for (index, after) in (started..).zip(&schedule.due()[started as usize..]) {
            self.refuse(index, began + after, schedule, "fault of this client");
        }
        Ok(self.end(false, 0))
    }

    async fn closed(&mut self, mut users: Users) -> Result<Outcome, RunError> {
        let (duration, requests) = users.until.bounds()?;
        let end = self.began.saturating_add(duration);
        for _ in 0..users.count {
            let first = self.next_turn(&mut users, self.began, None);
            self.start_turn(&mut users, first, requests);
        }
        let mut interrupted = false;
        while !self.tasks.is_empty() {
            tokio::select! {
                biased;
                () = stopped(&mut self.stop) => {
                    interrupted = true;
                    break;
                }
                Some(done) = self.tasks.join_next() => {
                    // The user's next request is due when the last one is over and thought about.
                    let over = self.collect(done);
                    let due = over.at.saturating_add(self.pause(&users));
                    if due < end {
                        let next = self.next_turn(&mut users, due, Some(over));
                        self.start_turn(&mut users, next, requests);
                    }
                }
            }
        }
        Ok(self.end(interrupted, 0))
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
            let left = workload.turns(session).saturating_sub(turn + 1);
            if left > 0 && last.good {
                let turn = turn + 1;
                return Some(Turn {
                    place: Place { session, turn },
                    intended,
                    history: last.chat,
                });
            }
            self.abandoned += u64::from(left);
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
            self.start(users.started, None, turn);
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

    fn start_or_refuse(&mut self, index: u64, intended: Nanos, schedule: &Schedule) {
        if self.tasks.len() >= MAX_IN_FLIGHT {
            self.refuse(index, intended, schedule, "too many requests in flight");
            return;
        }
        let workload = &self.client.workload;
        let place = workload.place(index);
        let history = workload.begin(place.session);
        let turn = Turn {
            place,
            intended,
            history,
        };
        self.start(index, schedule.stage(index).cloned(), turn);
    }

    fn refuse(&mut self, index: u64, intended: Nanos, schedule: &Schedule, reason: &'static str) {
        let failure = Class::NotSent.because(reason);
        let place = self.client.workload.place(index);
        let (model, tenant) = self.client.workload.who(place);
        let labels = Labels {
            index,
            place,
            model,
            tenant: tenant.map(|tenant| tenant.name),
            stage: schedule.stage(index).cloned(),
            site: None,
        };
        self.hand_out(&not_sent(
            labels,
            intended,
            self.client.clock.now(),
            failure,
        ));
    }

    fn start(&mut self, index: u64, stage: Option<Arc<str>>, turn: Turn) {
        let job = Job {
            index,
            place: turn.place,
            stage,
            intended: turn.intended,
            history: turn.history,
            link: self.idle.pop(),
        };
        let client = self.client.clone();
        self.tasks.spawn(async move { client.perform(job).await });
    }

    /// Takes in a finished request and says what its user can go on from.
    fn collect(&mut self, done: Result<Finished, JoinError>) -> Over {
        let now = self.client.clock.now();
        let (record, chat) = match done {
            Ok(finished) => {
                self.idle.extend(finished.link);
                (finished.record, finished.chat)
            }
            Err(_) => {
                let failure = Class::NotSent.because("fault of this client");
                (not_sent(Labels::default(), now, now, failure), Vec::new())
            }
        };
        self.hand_out(&record);
        Over {
            place: record.labels.place,
            at: record.stamps.end,
            good: record.verdict == Verdict::Good,
            chat,
        }
    }

    fn hand_out(&mut self, record: &Record) {
        self.client.meters.judged(&record.verdict);
        (self.sink)(record);
    }

    fn end(&mut self, interrupted: bool, not_reached: u64) -> Outcome {
        let thinking = self.client.meters.read().thinking;
        let cut_off = (self.tasks.len() as u64).saturating_sub(thinking);
        self.tasks.abort_all();
        Outcome {
            began: self.began,
            ended: self.client.clock.now(),
            interrupted,
            cut_off,
            not_reached,
            abandoned: self.abandoned,
        }
    }
}

/// Ready when told to stop; never if nobody can tell any more.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}
