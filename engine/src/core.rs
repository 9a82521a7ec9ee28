//! The engine without its thread: requests, scheduler and runner, one turn at a time.
//!
//! Time comes in as `now` and nothing here waits, so that tests drive the very code that serves, step by step. What can
//! break in a step is fenced here: a step that fails or panics is run again in halves until it is clear which sequences
//! made it fail, a row that is no number or a token that cannot become text ends its own submission, and the others go on.
//! Only an engine on which not even a harmless step succeeds gives up.

use std::collections::HashMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use hansa_models::Batch;

use crate::api::{EngineError, Stats};
use crate::batch::BatchBuilder;
use crate::invariants;
use crate::limits::FAILED_STEPS_MAX;
use crate::request::Request;
use crate::runner::{RowOutcome, Runner, RunnerError, SampleRow, Scores};
use crate::scheduler::step::Step;
use crate::scheduler::{Fate, Scheduler, Word};
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
    /// Whose the step is, and how many of its tokens.
    shares: Vec<(RequestId, u32)>,
    last_step: Step,
    failed_steps: u32,
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
    /// Steps fail whatever they hold.
    Broken,
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
            shares: Vec::new(),
            last_step: Step::default(),
            failed_steps: 0,
            meter: Meter::default(),
        }
    }

    /// Takes a submission in and puts its choices in line.
    pub(crate) fn accept(&mut self, request: Request, now: Duration) {
        let id = self.arrivals;
        self.arrivals += 1;
        let submission = &request.submission;
        for choice in 0..submission.n {
            let sequence = SequenceId {
                request: id,
                choice,
            };
            self.scheduler
                .enqueue(Sequence::new(sequence, submission.clone(), now));
        }
        self.next_deadline = earliest(self.next_deadline, submission.deadline);
        self.requests.insert(id, request);
    }

    /// One turn: ends what is over time, then runs a step, which `clock` times from `now` on.
    pub(crate) fn turn(&mut self, now: Duration, clock: &dyn Fn() -> Duration) -> Turn {
        if self.next_deadline.is_some_and(|deadline| deadline <= now) {
            self.expire(now);
        }
        let step = self.scheduler.schedule(now);
        self.meter.scheduled(step);
        self.last_step = step;
        if step.is_empty() {
            return if self.requests.is_empty() {
                Turn::Idle
            } else {
                Turn::Paused
            };
        }
        let held = self.scheduler.scheduled().count();
        let guilty = self.run();
        self.share_out(clock().saturating_sub(now));
        for &id in &guilty {
            self.scheduler.unschedule(id);
        }
        self.deliver(now);
        for id in &guilty {
            self.fail(id.request, EngineError::StepFailed);
        }
        if guilty.len() < held {
            self.failed_steps = 0;
        } else if self.is_broken() {
            return Turn::Broken;
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

    /// Notes how long the last step took, from its schedule to its last event.
    pub(crate) fn took(&mut self, took: Duration) {
        tracing::trace!(step = ?self.last_step, ms = took.as_secs_f64() * 1e3, "a step ended");
        self.scheduler.observe(self.last_step, took);
        self.meter.took(self.last_step, took);
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

    /// Runs the step in hand; outcomes are then in `self.outcomes`. Returns those who made it fail.
    ///
    /// A step that fails is cut in halves, each of which is run on its own: the keys and values of a step are written
    /// again as they were, and what is drawn does not depend on the company.
    fn run(&mut self) -> Vec<SequenceId> {
        self.outcomes.clear();
        let mut guilty = Vec::new();
        let whole = 0..self.scheduler.scheduled().count();
        let mut parts = vec![whole];
        while let Some(part) = parts.pop() {
            let Err(error) = self.run_part(part.clone()) else {
                continue;
            };
            if part.len() > 1 {
                tracing::warn!(%error, sequences = part.len(), "a step failed; it is run in halves");
                let middle = part.start + part.len() / 2;
                parts.push(middle..part.end);
                parts.push(part.start..middle);
            } else if let Some(sequence) = self.scheduler.scheduled().nth(part.start) {
                tracing::error!(%error, id = %sequence.submission.id, "a sequence made its step fail; it ends");
                guilty.push(sequence.id);
            }
        }
        guilty
    }

    /// Gives each request its part of the time of the step in hand, by its tokens there.
    fn share_out(&mut self, took: Duration) {
        let shares = self.scheduler.scheduled();
        let shares = shares.map(|sequence| (sequence.id.request, sequence.scheduled));
        self.shares.clear();
        self.shares.extend(shares);
        let all: u32 = self.shares.iter().map(|(_, tokens)| tokens).sum();
        for (id, tokens) in &self.shares {
            if let Some(request) = self.requests.get_mut(id) {
                request.takes(took.saturating_mul(*tokens) / all.max(1));
            }
        }
    }

    /// Runs a part of the step in hand and appends its outcomes, or nothing.
    fn run_part(&mut self, part: Range<usize>) -> Result<(), RunnerError> {
        let block_size = self.scheduler.blocks().block_size();
        let sequences = self.scheduler.scheduled().skip(part.start).take(part.len());
        let (batch, rows) = self.batch.build(sequences, block_size);
        let before = self.outcomes.len();
        let mut result = fenced(&mut *self.runner, batch, &rows, &mut self.outcomes);
        if result.is_ok() && self.outcomes.len() != before + rows.len() {
            result = Err(RunnerError::Step("it has not one outcome a row".to_owned()));
        }
        if result.is_err() {
            self.outcomes.truncate(before);
        }
        result
    }

    /// After a step that failed wholly: whether a harmless one fails too, and has for some time. One bad request alone in
    /// its step is no reason to give up.
    fn is_broken(&mut self) -> bool {
        let block_size = self.scheduler.blocks().block_size();
        let runner = &mut *self.runner;
        let probe = |block: u32| {
            let batch = Batch {
                tokens: vec![0],
                positions: vec![0],
                slots: vec![block * block_size],
                q_lens: vec![1],
                kv_lens: vec![1],
                block_tables: vec![vec![block]],
                ..Batch::default()
            };
            fenced(runner, &batch, &[], &mut Vec::new())
        };
        match self.scheduler.with_spare_block(probe) {
            Some(Err(_)) => self.failed_steps += 1,
            Some(Ok(())) | None => self.failed_steps = 0,
        }
        self.failed_steps >= FAILED_STEPS_MAX
    }

    /// Hands tokens to their requests, then tidies up after those that ended or fell behind.
    fn deliver(&mut self, now: Duration) {
        let mut after = Aftermath::default();
        let (requests, meter) = (&mut self.requests, &mut self.meter);
        let end = self.end_of_generation;
        let settle = |sequence: &Sequence, word: Word<'_>| {
            let id = sequence.id;
            let Some(request) = requests.get_mut(&id.request) else {
                return Fate::Ends;
            };
            let (Word::Prompt(outcome) | Word::Next(outcome)) = word;
            let Some(token) = outcome.token() else {
                after.failed.push((id.request, fault_of(outcome)));
                return Fate::Ends;
            };
            if let (Word::Prompt(_), Some(scores)) = (word, outcome.scores()) {
                request.weigh(token, scores);
                return Fate::GoesOn;
            }
            meter.produced();
            if id.choice == 0 {
                request.note_cached(sequence.cached());
            }
            after.note(id, request, token, outcome.scores())
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

/// Runs a batch behind a fence. What the runner leaves behind by unwinding are the slots of the batch, and those are
/// written again or belong to nobody.
fn fenced(
    runner: &mut dyn Runner,
    batch: &Batch,
    rows: &[SampleRow<'_>],
    outcomes: &mut Vec<RowOutcome>,
) -> Result<(), RunnerError> {
    let step = catch_unwind(AssertUnwindSafe(|| runner.step(batch, rows, outcomes)));
    step.unwrap_or_else(|_| Err(RunnerError::Step("it panicked".to_owned())))
}

fn earliest(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    a.into_iter().chain(b).min()
}
