//! Requests on their way to an embedder: bounded in number and in tokens, and woken for.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::Answer;
use crate::api::{EngineError, SubmitError};
use crate::doorbell::Alarm;

/// The line before one embedder.
#[derive(Debug)]
pub(super) struct Queue {
    requests_max: u32,
    tokens_max: u64,
    line: Mutex<Line>,
    waker: Alarm,
}

#[derive(Debug, Default)]
struct Line {
    /// Not yet taken by the embedder.
    arrived: VecDeque<Job>,
    /// Requests and tokens in line or at work.
    requests: u32,
    tokens: u64,
    rung: bool,
    closed: bool,
}

/// A request of several texts, each a row of token ids.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) inputs: Vec<Arc<[u32]>>,
    /// Of the first inputs, as far as they are done.
    pub(super) vectors: Vec<Vec<f32>>,
    pub(super) deadline: Option<Duration>,
    progress: Arc<Progress>,
    reply: Option<oneshot::Sender<Answer>>,
    /// Its place in line, given back with it.
    queue: Arc<Queue>,
}

/// What a request and whoever waits for it know of each other.
#[derive(Debug, Default)]
struct Progress {
    /// Nobody wants its vectors any more.
    stopped: AtomicBool,
    /// Of texts whose vectors were made.
    tokens: AtomicU64,
    /// Nanoseconds of the device, its share of each pass.
    device_ns: AtomicU64,
}

/// Stops a request while somebody waits for its end, and tells what it took.
#[derive(Debug, Clone)]
pub struct Stopper {
    progress: Arc<Progress>,
    queue: Arc<Queue>,
}

/// What came since the last look.
#[derive(Debug)]
pub(super) struct Arrivals {
    pub(super) jobs: VecDeque<Job>,
    /// Somebody rang.
    pub(super) rung: bool,
    /// Nobody can send any more.
    pub(super) closed: bool,
}

/// Held by those who may send: the queue closes with the last of them.
#[derive(Debug)]
pub(super) struct Seat(Arc<Queue>);

impl Queue {
    /// A line for `requests_max` requests with `tokens_max` tokens.
    pub(super) fn new(requests_max: u32, tokens_max: u64, waker: Alarm) -> Arc<Self> {
        Arc::new(Self {
            requests_max,
            tokens_max,
            line: Mutex::default(),
            waker,
        })
    }

    /// Puts a request in line.
    pub(super) fn push(
        self: &Arc<Self>,
        inputs: Vec<Arc<[u32]>>,
        deadline: Option<Duration>,
    ) -> Result<(oneshot::Receiver<Answer>, Stopper), SubmitError> {
        let (reply, answer) = oneshot::channel();
        let progress = Arc::<Progress>::default();
        let tokens = tokens_of(&inputs);
        {
            let mut line = self.line();
            let overfull =
                line.requests > 0 && line.tokens.saturating_add(tokens) > self.tokens_max;
            if line.requests >= self.requests_max || overfull {
                return Err(SubmitError::QueueFull);
            }
            if line.closed {
                return Err(SubmitError::Draining);
            }
            line.requests += 1;
            line.tokens += tokens;
            line.arrived.push_back(Job {
                inputs,
                vectors: Vec::new(),
                deadline,
                progress: Arc::clone(&progress),
                reply: Some(reply),
                queue: Arc::clone(self),
            });
        }
        self.waker.wake();
        let queue = Arc::clone(self);
        Ok((answer, Stopper { progress, queue }))
    }

    /// Makes the embedder look around.
    pub(super) fn ring(&self) {
        self.line().rung = true;
        self.waker.wake();
    }

    /// Takes what came.
    pub(super) fn take(&self) -> Arrivals {
        let mut line = self.line();
        Arrivals {
            jobs: std::mem::take(&mut line.arrived),
            rung: std::mem::take(&mut line.rung),
            closed: line.closed,
        }
    }

    /// Nobody takes requests any more: those in line end with `error`.
    pub(super) fn close(&self, error: &EngineError) {
        let left = {
            let mut line = self.line();
            line.closed = true;
            std::mem::take(&mut line.arrived)
        };
        left.into_iter().for_each(|job| job.fail(error.clone()));
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Job {
    /// Ends it with all its vectors.
    pub(super) fn finish(mut self) {
        let vectors = std::mem::take(&mut self.vectors);
        self.answer(Ok(vectors));
    }

    /// Ends it without.
    pub(super) fn fail(mut self, error: EngineError) {
        self.answer(Err(error));
    }

    /// Takes the vector of its next text.
    pub(super) fn take(&mut self, vector: Vec<f32>) {
        let text = self.inputs.get(self.vectors.len());
        let tokens = text.map_or(0, |ids| ids.len() as u64);
        self.progress.tokens.fetch_add(tokens, Ordering::AcqRel);
        self.vectors.push(vector);
    }

    /// Counts `time` of the device as spent on it.
    pub(super) fn count(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.progress.device_ns.fetch_add(ns, Ordering::AcqRel);
    }

    /// Whether it is to end without its vectors.
    pub(super) fn is_stopped(&self) -> bool {
        self.progress.stopped.load(Ordering::Acquire)
    }

    /// Whether nobody waits for it any more.
    pub(super) fn is_given_up(&self) -> bool {
        self.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn answer(&mut self, answer: Answer) {
        if let Some(reply) = self.reply.take() {
            // Who left does not need it.
            let _ = reply.send(answer);
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let mut line = self.queue.line();
        line.requests -= 1;
        line.tokens -= tokens_of(&self.inputs);
    }
}

impl Stopper {
    /// Ends the request before its next pass, with [`EngineError::Aborted`]; one that is over has ended already.
    pub fn stop(&self) {
        self.progress.stopped.store(true, Ordering::Release);
        self.queue.ring();
    }

    /// Tokens of the texts whose vectors were made: the last word once the request has ended.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.progress.tokens.load(Ordering::Acquire)
    }

    /// Time of the device that it took, by its tokens in each pass; the last word once the request has ended.
    #[must_use]
    pub fn device_time(&self) -> Duration {
        Duration::from_nanos(self.progress.device_ns.load(Ordering::Acquire))
    }
}

fn tokens_of(inputs: &[Arc<[u32]>]) -> u64 {
    inputs.iter().map(|ids| ids.len() as u64).sum()
}

impl Seat {
    pub(super) fn of(queue: &Arc<Queue>) -> Arc<Self> {
        Arc::new(Self(Arc::clone(queue)))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.line().closed = true;
        self.0.waker.wake();
    }
}
