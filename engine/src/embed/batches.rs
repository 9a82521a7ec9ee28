//! An embedder on the thread of its device: one pass over a bounded batch a turn, taken from all requests in turn.
//!
//! A request of two thousand texts and one of a single text are served side by side: each pass takes a text of each
//! request, then the next one, until its tokens are full.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::queue::{Job, Queue};
use super::{EmbedOptions, Embedder};
use crate::api::{EngineError, EngineState, Stats};
use crate::device::{After, Heard, Resident};
use crate::limits::FAILED_STEPS_MAX;
use crate::runner::RunnerError;
use crate::shared::Shared;

/// What the device's thread holds of an embedder.
pub(super) struct Batches {
    shared: Arc<Shared>,
    options: EmbedOptions,
    queue: Arc<Queue>,
    embedder: Arc<dyn Embedder>,
    jobs: VecDeque<Job>,
    stats: Stats,
    /// Seconds of a pass for each of its tokens, padding counted, over the recent passes; 0 before the first.
    token_s: f64,
    failed_passes: u32,
}

/// Texts of one pass: the place of each one's job, in the order of the jobs' inputs.
#[derive(Debug, Default, PartialEq, Eq)]
struct Batch {
    jobs: Vec<usize>,
    rows: Vec<Arc<[u32]>>,
}

impl Batches {
    /// Warms a loaded embedder up.
    pub(super) fn open(
        shared: Arc<Shared>,
        options: EmbedOptions,
        queue: Arc<Queue>,
        embedder: Arc<dyn Embedder>,
    ) -> Result<Self, RunnerError> {
        shared.set_state(EngineState::Warming);
        shared.begin_step((options.clock)());
        let warm = embedder.embed(&harmless());
        shared.end_step();
        warm?;
        Ok(Self {
            shared,
            options,
            queue,
            embedder,
            jobs: VecDeque::new(),
            stats: Stats::default(),
            token_s: 0.0,
            failed_passes: 0,
        })
    }

    /// It may be asked.
    pub(super) fn ready(&self) {
        let profile = self.embedder.profile();
        tracing::info!(
            width = profile.width,
            tokens_max = profile.tokens_max,
            "the embedder is ready"
        );
        self.shared.set_state(EngineState::Ready);
    }

    /// Ends those whose time is over, that were stopped, or for whom nobody waits.
    fn expire(&mut self, now: Duration) {
        for job in std::mem::take(&mut self.jobs) {
            if job.is_given_up() {
                continue;
            }
            if job.is_stopped() {
                job.fail(EngineError::Aborted);
                continue;
            }
            match job.deadline {
                Some(at) if at <= now => job.fail(EngineError::DeadlineExceeded),
                _ => self.jobs.push_back(job),
            }
        }
    }

    /// A text of each job in turn, then the next one of each, while the padded tokens fit.
    fn gather(&self) -> Batch {
        let mut batch = Batch::default();
        let tokens_max = pass_tokens(&self.options, self.token_s);
        let mut longest = 0;
        let mut round = 0;
        loop {
            let before = batch.rows.len();
            for (place, job) in self.jobs.iter().enumerate() {
                let Some(row) = job.inputs.get(job.vectors.len() + round) else {
                    continue;
                };
                longest = longest.max(row.len());
                let padded = longest * (batch.rows.len() + 1);
                if !batch.rows.is_empty() && padded > tokens_max {
                    return batch;
                }
                batch.jobs.push(place);
                batch.rows.push(Arc::clone(row));
            }
            if batch.rows.len() == before {
                return batch;
            }
            round += 1;
        }
    }

    /// Shares the time of a pass out over its requests, by their tokens.
    fn share_out(&self, batch: &Batch, took: Duration) {
        let tokens: usize = batch.rows.iter().map(|row| row.len()).sum();
        for (&place, row) in batch.jobs.iter().zip(&batch.rows) {
            let share = row.len() as f64 / tokens.max(1) as f64;
            self.jobs[place].count(took.mul_f64(share));
        }
    }

    /// Hands the vectors out; those without one ended their jobs.
    fn deliver(&mut self, batch: &Batch, vectors: Vec<Option<Vec<f32>>>) {
        let mut guilty = vec![false; self.jobs.len()];
        for (&place, vector) in batch.jobs.iter().zip(vectors) {
            match vector {
                Some(vector) => self.jobs[place].take(vector),
                None => guilty[place] = true,
            }
        }
        for (job, guilty) in std::mem::take(&mut self.jobs).into_iter().zip(guilty) {
            if guilty {
                job.fail(EngineError::StepFailed);
            } else if job.vectors.len() == job.inputs.len() {
                job.finish();
            } else {
                self.jobs.push_back(job);
            }
        }
        // Who was first goes last, since the last ones may have found no room.
        if !self.jobs.is_empty() {
            self.jobs.rotate_left(1);
        }
    }

    /// Runs a pass; where it fails, each text on its own.
    fn run(&mut self, rows: &[Arc<[u32]>]) -> Vec<Option<Vec<f32>>> {
        match self.pass(rows) {
            Ok(vectors) => vectors.into_iter().map(sound).collect(),
            Err(error) if rows.len() > 1 => {
                tracing::warn!(%error, texts = rows.len(), "a pass failed; its texts are run one by one");
                let alone = rows.chunks(1).map(|row| self.pass(row));
                alone.map(|made| made.ok()?.pop().and_then(sound)).collect()
            }
            Err(error) => {
                tracing::error!(%error, "a text made its pass fail; its request ends");
                vec![None]
            }
        }
    }

    fn pass(&self, rows: &[Arc<[u32]>]) -> Result<Vec<Vec<f32>>, RunnerError> {
        let embedder = &*self.embedder;
        let made = catch_unwind(AssertUnwindSafe(|| embedder.embed(rows)));
        let made = made.unwrap_or_else(|_| Err(RunnerError::Step("it panicked".to_owned())))?;
        if made.len() == rows.len() {
            Ok(made)
        } else {
            Err(RunnerError::Step("it has not one vector a text".to_owned()))
        }
    }

    /// After a pass without a single vector: whether harmless ones fail too, and have for some time.
    fn is_broken(&mut self) -> bool {
        match self.pass(&harmless()) {
            Ok(_) => self.failed_passes = 0,
            Err(_) => self.failed_passes += 1,
        }
        self.failed_passes >= FAILED_STEPS_MAX
    }

    fn count(&mut self, batch: &Batch, took: Duration) {
        let lengths = || batch.rows.iter().map(|row| row.len());
        let tokens: usize = lengths().sum();
        let padded = lengths().max().unwrap_or(0) * batch.rows.len();
        let seconds = took.as_secs_f64();
        self.token_s = blend(self.token_s, seconds / padded.max(1) as f64);
        self.stats.steps += 1;
        self.stats.prefill_tokens += tokens as u64;
        self.stats.last_step = took;
        let mean_s = blend(self.stats.mean_step.as_secs_f64(), seconds);
        self.stats.mean_step = Duration::from_secs_f64(mean_s);
        if seconds > 0.0 {
            let per_s = tokens as f64 / seconds;
            self.stats.prefill_tokens_per_s = blend(self.stats.prefill_tokens_per_s, per_s);
        }
    }

    fn publish(&mut self) {
        self.stats.running = u32::try_from(self.jobs.len()).unwrap_or(u32::MAX);
        let left = |job: &Job| {
            job.inputs[job.vectors.len()..]
                .iter()
                .map(|row| row.len() as u64)
                .sum::<u64>()
        };
        self.stats.waiting_prefill_tokens = self.jobs.iter().map(left).sum();
        self.shared.publish(self.stats);
    }

    fn end(&mut self, error: &EngineError) {
        self.queue.close(error);
        for job in std::mem::take(&mut self.jobs) {
            job.fail(error.clone());
        }
        self.publish();
    }

    fn give_up(&mut self) -> After {
        let reason = "pass after pass failed; the log says why, restart the engine".to_owned();
        self.shared.set_state(EngineState::Failed(reason));
        self.end(&EngineError::StepFailed);
        After::Over
    }
}

impl Resident for Batches {
    fn listen(&mut self) -> Heard {
        let arrivals = self.queue.take();
        let some = arrivals.rung || !arrivals.jobs.is_empty();
        self.jobs.extend(arrivals.jobs);
        // Requests that still run keep their answers' receivers, and need no handle.
        if arrivals.closed && self.jobs.is_empty() {
            self.end(&EngineError::ShuttingDown);
            Heard::Farewell
        } else if some {
            Heard::Something
        } else {
            Heard::Nothing
        }
    }

    fn turn(&mut self) -> After {
        let now = (self.options.clock)();
        self.expire(now);
        let drain_at = self.shared.drain_at();
        if drain_at.is_some_and(|at| at <= now || self.jobs.is_empty()) {
            self.end(&EngineError::ShuttingDown);
            return After::Over;
        }
        let batch = self.gather();
        if batch.rows.is_empty() {
            self.publish();
            return After::Idle;
        }
        self.shared.begin_step(now);
        let vectors = self.run(&batch.rows);
        self.shared.end_step();
        let took = (self.options.clock)().saturating_sub(now);
        let none = vectors.iter().all(Option::is_none);
        // Whoever waits for an answer reads its time with it.
        self.share_out(&batch, took);
        self.deliver(&batch, vectors);
        self.count(&batch, took);
        self.publish();
        if none && self.is_broken() {
            return self.give_up();
        }
        After::Stepped(took)
    }
}

/// Tokens of the next pass, padding counted, so that it takes about the target time. What a pass costs whatever its size is
/// part of `token_s`, so the number settles where the time of a pass is the target.
fn pass_tokens(options: &EmbedOptions, token_s: f64) -> usize {
    let max = options.step_tokens_max as usize;
    if token_s > 0.0 {
        ((options.pass_target.as_secs_f64() / token_s) as usize).clamp(1, max)
    } else {
        max
    }
}

/// A mean over the recent values, of which 0 is none.
fn blend(mean: f64, value: f64) -> f64 {
    if mean > 0.0 {
        mean + (value - mean) / 4.0
    } else {
        value
    }
}

/// Two ids that every vocabulary has.
fn harmless() -> [Arc<[u32]>; 1] {
    [Arc::from([0, 1])]
}

/// Numbers that JSON can hold.
fn sound(vector: Vec<f32>) -> Option<Vec<f32>> {
    vector.iter().all(|x| x.is_finite()).then_some(vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_settles_at_its_target_time() {
        let options = EmbedOptions {
            clock: Arc::new(|| Duration::ZERO),
            step_tokens_max: 512,
            pass_target: Duration::from_millis(50),
            requests_max: 1,
            queue_tokens_max: 1,
            stall_after: Duration::from_secs(1),
        };
        assert_eq!(pass_tokens(&options, 0.0), 512);
        // 8 ms a pass and 0.4 ms a token: 105 tokens.
        let took_s = |tokens: usize| 0.008 + 0.0004 * tokens as f64;
        let mut token_s = 0.0;
        for _ in 0..60 {
            let tokens = pass_tokens(&options, token_s);
            token_s = blend(token_s, took_s(tokens) / tokens as f64);
        }
        let tokens = pass_tokens(&options, token_s);
        assert!((95..=115).contains(&tokens), "{tokens}");
        assert_eq!(pass_tokens(&options, 1e-9), 512);
        assert_eq!(pass_tokens(&options, 10.0), 1);
    }
}
