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

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use self::arrival::{Schedule, ScheduleError, Until};
use self::client::{Client, Finished, Job, not_sent};
use self::dispatch::Dispatcher;
use self::link::Link;
use self::record::Record;
use self::verdict::{Class, Verdict};
use crate::clock::Nanos;
use crate::limits::{MAX_IN_FLIGHT, WARMUP_USERS};

/// Prompts of warm-up requests are numbered from here on, so that they repeat none of the run's.
const WARMUP_INDEX: u64 = 1 << 62;

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
        Load::Closed { users, until } => driver.closed(*users, *until, 0).await,
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
    Driver::new(client, stop, &mut count)
        .closed(users, until, WARMUP_INDEX)
        .await?;
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
                        self.start_or_refuse(index, began + after);
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
        for after in &schedule.due()[started as usize..] {
            self.refuse(began + after, "fault of this client");
        }
        Ok(self.end(false, 0))
    }

    async fn closed(
        &mut self,
        users: usize,
        until: Until,
        first: u64,
    ) -> Result<Outcome, RunError> {
        let (duration, requests) = until.bounds()?;
        let end = self.began.saturating_add(duration);
        let mut started = 0;
        while started < requests.min(users as u64) {
            self.start(first + started, self.began);
            started += 1;
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
                    // The user's next request is due when the last one is over.
                    let over = self.collect(done);
                    if started < requests && over < end {
                        self.start(first + started, over);
                        started += 1;
                    }
                }
            }
        }
        Ok(self.end(interrupted, 0))
    }

    fn start_or_refuse(&mut self, index: u64, intended: Nanos) {
        if self.tasks.len() < MAX_IN_FLIGHT {
            self.start(index, intended);
        } else {
            self.refuse(intended, "too many requests in flight");
        }
    }

    fn refuse(&mut self, intended: Nanos, reason: &'static str) {
        let failure = Class::NotSent.because(reason);
        self.hand_out(&not_sent(intended, self.client.clock.now(), failure));
    }

    fn start(&mut self, index: u64, intended: Nanos) {
        let job = Job {
            index,
            intended,
            link: self.idle.pop(),
        };
        let client = self.client.clone();
        self.tasks.spawn(async move { client.perform(job).await });
    }

    /// Takes in a finished request and says when it was over.
    fn collect(&mut self, done: Result<Finished, JoinError>) -> Nanos {
        let now = self.client.clock.now();
        let record = match done {
            Ok(finished) => {
                self.idle.extend(finished.link);
                finished.record
            }
            Err(_) => not_sent(now, now, Class::NotSent.because("fault of this client")),
        };
        self.hand_out(&record);
        record.stamps.end
    }

    fn hand_out(&mut self, record: &Record) {
        self.client.meters.judged(record.verdict == Verdict::Good);
        (self.sink)(record);
    }

    fn end(&mut self, interrupted: bool, not_reached: u64) -> Outcome {
        let cut_off = self.tasks.len() as u64;
        self.tasks.abort_all();
        Outcome {
            began: self.began,
            ended: self.client.clock.now(),
            interrupted,
            cut_off,
            not_reached,
        }
    }
}

/// Ready when told to stop; never if nobody can tell any more.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}
