//! Drives load: starts every request when it is due, collects what came of it, and ends by itself or when told to.
//!
//! What becomes of the records is the caller's business: each is handed out once, when its request is over.
//!
//! One loop starts and collects. An open loop is fed by the [`dispatch`] thread, whose times nothing can move; a closed
//! loop starts a user's next request when that user's last one is over.

pub mod answer;
pub mod arrival;
pub mod calls;
pub mod chunk;
pub mod client;
mod closed;
pub mod crowd;
pub mod dispatch;
pub mod embeddings;
pub mod link;
pub mod meters;
pub mod prompt;
pub mod record;
pub mod sim_tokens;
pub mod sse;
pub mod target;
pub mod tls;
pub mod verdict;

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use self::arrival::{Schedule, ScheduleError, Until};
use self::client::{Client, Finished, Job, not_sent};
use self::closed::{Over, Users};
use self::crowd::Crowd;
use self::dispatch::Dispatcher;
use self::link::Link;
use self::prompt::Message;
use self::record::{Labels, Record};
use self::verdict::{Class, Verdict};
use crate::clock::Nanos;
use crate::limits::{MAX_IN_FLIGHT, WARMUP_USERS};
use crate::spread::Spread;
use crate::workload::Place;

/// Sessions of warm-up requests are numbered from here on, so that they repeat none of the run's prompts.
const WARMUP_SESSION: u64 = 1 << 62;

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
    /// The same with users that come and go; one who goes first waits for the answer.
    Staged {
        /// Users at work at each moment.
        crowd: Arc<Crowd>,
        /// When no further request is begun: with the last stage at the latest.
        until: Until,
        /// As in [`Load::Closed`].
        think: Option<Spread>,
    },
}

impl Load {
    /// Requests come by a schedule that knows nothing of answers.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    /// The most users of a closed loop; none of an open one.
    pub fn users(&self) -> Option<usize> {
        match self {
            Self::Open(_) => None,
            Self::Closed { users, .. } => Some(*users),
            Self::Staged { crowd, .. } => Some(crowd.most()),
        }
    }
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
    /// Turns that were never asked, since an earlier one of their session did not end well or its user went.
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
            let crowd = Arc::new(Crowd::steady(*users));
            driver.closed(Users::new(crowd, *until, *think, 0)).await
        }
        Load::Staged {
            crowd,
            until,
            think,
        } => {
            driver
                .closed(Users::new(crowd.clone(), *until, *think, 0))
                .await
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
    let crowd = Arc::new(Crowd::steady(load.users().unwrap_or(WARMUP_USERS)));
    let until = Until {
        duration: None,
        requests: Some(requests),
    };
    let mut good = 0;
    let mut count = |record: &Record| good += u64::from(record.verdict == Verdict::Good);
    let users = Users::new(crowd, until, None, WARMUP_SESSION);
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
    #[error("cannot start the thread that keeps the schedule")]
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

/// What a user does next.
struct Turn {
    place: Place,
    intended: Nanos,
    history: Vec<Message>,
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
            form: None,
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
        self.client.meters.judged(record);
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
