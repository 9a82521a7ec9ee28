//! The engine without its thread: requests, scheduler and runner, one turn at a time.
//!
//! Time comes in as `now` and nothing here waits, so that tests drive the very code that serves, step by step. What can
//! break in a step is fenced here: a step that fails or panics ends the submissions it held, a row that is no number or a
//! token that cannot become text ends its own, and the engine goes on.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::api::{EngineError, Stats};
use crate::batch::BatchBuilder;
use crate::invariants;
use crate::request::Request;
use crate::runner::{RowOutcome, Runner, RunnerError, Scores};
use crate::scheduler::{Fate, Scheduler, Step};
use crate::sequence::{RequestId, Sequence, SequenceId};
use crate::stats::Meter;

/// Everything that the engine's thread owns.
pub(crate) struct Core {
    runner: Box<dyn Runner>,
    /// Ends the choices whose grammar is over.
    end_of_generation: Option<u32>,
    scheduler: Scheduler,
    requests: HashMap<RequestId, Request>,
    arrivals: RequestId,
    /// Those whose sequences are paused.
    behind: Vec<RequestId>,
    /// No deadline passes before this moment.
    next_deadline: Option<Duration>,
    batch: BatchBuilder,
    outcomes: Vec<RowOutcome>,
    meter: Meter,
}

/// How a turn went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// A step ran; there may be another one.
    Stepped,
    /// There are sequences, but all of them wait for their readers.
    Paused,
    /// There is nothing to do.
    Idle,
}

/// Submissions that a step ended, and why; or that it made wait for their readers.
#[derive(Debug, Default)]
struct Aftermath {
    done: Vec<RequestId>,
    failed: Vec<(RequestId, EngineError)>,
    behind: Vec<RequestId>,
}

impl Core {
    /// An engine that holds nothing yet.
    pub(crate) fn new(runner: Box<dyn Runner>, scheduler: Scheduler) -> Self {
        Self {
            end_of_generation: runner.text().end_of_generation().first().copied(),
            runner,
            scheduler,
            requests: HashMap::new(),
            arrivals: 0,
            behind: Vec::new(),
            next_deadline: None,
            batch: BatchBuilder::default(),
            outcomes: Vec::new(),
            meter: Meter::default(),
        }
    }

    /// Takes a submission in and puts its choices in line.
    pub(crate) fn accept(&mut self, request: Request) {
        let id = self.arrivals;
        self.arrivals += 1;
        let submission = &request.submission;
        for choice in 0..submission.n {
            let sequence = SequenceId {
                request: id,
                choice,
            };
            self.scheduler
                .enqueue(Sequence::new(sequence, submission.clone()));
        }
        self.next_deadline = earliest(self.next_deadline, submission.deadline);
        self.requests.insert(id, request);
    }

    /// One turn: ends what is over time, then runs a step.
    pub(crate) fn turn(&mut self, now: Duration) -> Turn {
        if self.next_deadline.is_some_and(|deadline| deadline <= now) {
            self.expire(now);
        }
        let step = self.scheduler.schedule(now);
        self.meter.scheduled(step);
        if step.is_empty() {
            return if self.requests.is_empty() {
                Turn::Idle
            } else {
                Turn::Paused
            };
        }
        match self.run(step) {
            Ok(()) => self.deliver(now),
            Err(error) => self.fail_step(&error),
        }
        Turn::Stepped
    }

    /// Looks at what others did: ends what was cancelled, and resumes whose readers caught up.
    pub(crate) fn look_around(&mut self) {
        let cancelled = self.ids_where(|request| request.is_cancelled());
        for id in cancelled {
            self.fail(id, EngineError::Aborted);
        }
        self.behind.retain(|&id| {
            let is_behind = self.requests.get_mut(&id).is_some_and(Request::is_behind);
            if !is_behind {
                self.scheduler.resume(id);
            }
            is_behind
        });
    }

    /// Ends everything.
    pub(crate) fn fail_all(&mut self, error: &EngineError) {
        for id in self.ids_where(|_| true) {
            self.fail(id, error.clone());
        }
    }

    /// Notes how long the last turn took.
    pub(crate) fn took(&mut self, step: Duration) {
        self.meter.took(step);
    }

    /// Figures of this moment.
    pub(crate) fn stats(&self) -> Stats {
        self.meter.snapshot(&self.scheduler)
    }

    /// Whether no submission is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Checks the invariants; cheap where nothing runs.
    pub(crate) fn audit(&self) -> Result<(), invariants::Violation> {
        invariants::check(&self.scheduler)
    }

    fn expire(&mut self, now: Duration) {
        let is_over = |request: &Request| request.submission.deadline.is_some_and(|at| at <= now);
        for id in self.ids_where(is_over) {
            self.fail(id, EngineError::DeadlineExceeded);
        }
        let deadlines = self.requests.values().map(|r| r.submission.deadline);
        self.next_deadline = deadlines.fold(None, earliest);
    }

    /// Runs a step behind the fence; outcomes are then in `self.outcomes`.
    fn run(&mut self, step: Step) -> Result<(), RunnerError> {
        let block_size = self.scheduler.blocks().block_size();
        let (batch, rows) = self.batch.build(self.scheduler.scheduled(), block_size);
        debug_assert_eq!(batch.token_count(), step.tokens() as usize);
        self.outcomes.clear();
        // What the runner leaves behind by unwinding is the cache of this step's sequences, and they end with it.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            self.runner.step(batch, &rows, &mut self.outcomes)
        }));
        outcome.unwrap_or_else(|_| Err(RunnerError::Step("it panicked".to_owned())))?;
        if self.outcomes.len() == rows.len() {
            Ok(())
        } else {
            Err(RunnerError::Step("it has not one outcome a row".to_owned()))
        }
    }

    /// Hands tokens to their requests, then tidies up after those that ended or fell behind.
    fn deliver(&mut self, now: Duration) {
        let mut after = Aftermath::default();
        let (requests, meter) = (&mut self.requests, &mut self.meter);
        let end = self.end_of_generation;
        let settle = |sequence: SequenceId, outcome: &RowOutcome| {
            let Some(request) = requests.get_mut(&sequence.request) else {
                return Fate::Ends;
            };
            let Some(token) = outcome.token() else {
                after.failed.push((sequence.request, fault_of(outcome)));
                return Fate::Ends;
            };
            meter.produced();
            after.note(sequence, request, token, outcome.scores())
        };
        self.scheduler.advance(&self.outcomes, end, settle);
        for id in after.done {
            self.requests.remove(&id);
        }
        for (id, error) in after.failed {
            self.fail(id, error);
        }
        for id in after.behind {
            if self.requests.contains_key(&id) && !self.behind.contains(&id) {
                self.scheduler.pause(id, now);
                self.behind.push(id);
            }
        }
    }

    /// Ends the submissions of a step whose results, and whose cache, are worth nothing.
    fn fail_step(&mut self, error: &RunnerError) {
        tracing::error!(%error, "a step failed; its sequences end, the engine goes on");
        let mut held: Vec<_> = self.scheduler.scheduled().map(|s| s.id.request).collect();
        held.dedup();
        for id in held {
            self.fail(id, EngineError::StepFailed);
        }
    }

    fn fail(&mut self, id: RequestId, error: EngineError) {
        self.scheduler.remove(id);
        self.behind.retain(|&behind| behind != id);
        if let Some(request) = self.requests.remove(&id) {
            request.fail(error);
        }
    }

    fn ids_where(&self, wanted: impl Fn(&Request) -> bool) -> Vec<RequestId> {
        let matching = self.requests.iter().filter(|(_, request)| wanted(request));
        matching.map(|(&id, _)| id).collect()
    }
}

impl Aftermath {
    /// Hands a token to its request behind a fence: text is made of what a model says and a file defines.
    fn note(
        &mut self,
        sequence: SequenceId,
        request: &mut Request,
        token: u32,
        scores: Option<&Scores>,
    ) -> Fate {
        let id = sequence.request;
        let push = || request.push(sequence.choice, token, scores);
        let pushed = catch_unwind(AssertUnwindSafe(push));
        let Ok(fate) = pushed else {
            self.failed.push((id, EngineError::StepFailed));
            return Fate::Ends;
        };
        if request.is_done() {
            self.done.push(id);
        } else if request.is_behind() {
            self.behind.push(id);
        }
        fate
    }
}

/// Why a row without a token has none.
fn fault_of(outcome: &RowOutcome) -> EngineError {
    match outcome {
        RowOutcome::OffGrammar(fault) => EngineError::Grammar(*fault),
        _ => EngineError::InvalidLogits,
    }
}

fn earliest(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    a.into_iter().chain(b).min()
}
