//! One simulated node: continuous batching over a KV cache, jumping from one change of the batch to the next.
//!
//! A step takes `c0 + c1 x prefill tokens + c2 x context + c3 x sequences that decode`. While the batch does not change, the
//! times of its steps are an arithmetic series, so a run of steps is one event however long it is. Decodes come first, then
//! prompts in order of arrival within the token budget and the time that decodes may be kept waiting, as in the engine.
//! It is told how long an answer is, as a model would know it; nobody who routes may ask it.

mod batch;
mod engine;
mod run;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

pub use self::engine::{Engine, Means};
use self::run::{Rate, Run};
use super::cache::Cache;
use crate::clock::Nanos;

/// Tokens of a prefix block: the router's blocks of 1,024 bytes at four bytes a token.
pub(super) const BLOCK_TOKENS: u64 = 256;

/// Who a sequence belongs to: which dispatch it is, and the place of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Leg {
    /// Grows from dispatch to dispatch.
    pub(super) number: u32,
    pub(super) slot: u32,
}

/// A sequence that is to be computed.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) leg: Leg,
    /// Tokens to compute before the next one comes.
    pub(super) prompt: u64,
    /// Tokens to produce, at least 1.
    pub(super) output: u64,
    /// Hashes of the prompt's beginnings.
    pub(super) blocks: Arc<[u64]>,
    /// Of the prompt, still to compute; all of it before it is admitted.
    left: u64,
}

impl Job {
    pub(super) fn new(leg: Leg, prompt: u64, output: u64, blocks: Arc<[u64]>) -> Self {
        let left = prompt;
        Self {
            leg,
            prompt,
            output,
            blocks,
            left,
        }
    }
}

/// What a run of steps brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Its prompt is computed and its next token is there; so many tokens of it were in the cache.
    Token { leg: Leg, cached: u64 },
    /// All of it is there.
    Done(Leg),
}

/// A sequence that decodes, by the step at which it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Decode {
    ends_at: u64,
    leg: Leg,
    /// KV tokens that it holds at its end.
    kv_end: u64,
}

/// A node and all that it has to do.
#[derive(Debug)]
pub(super) struct Node {
    engine: Engine,
    waiting: VecDeque<Job>,
    prefilling: VecDeque<(Job, u64)>,
    decoding: BinaryHeap<Reverse<Decode>>,
    cache: Cache,
    /// Steps so far.
    steps: u64,
    /// KV tokens of all that decode.
    context: u64,
    kv_used: u64,
    /// Prompt tokens still to compute.
    queued: u64,
    run: Option<Run>,
    /// Counts runs: an event of an earlier one means nothing.
    version: u32,
    prefill_rate: Rate,
    decode_rate: Rate,
    /// Time in steps.
    pub(super) busy: Nanos,
    pub(super) preemptions: u64,
}

/// How a node stands.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Stand {
    pub(super) running: u32,
    pub(super) waiting: u32,
    pub(super) queued_tokens: u64,
    pub(super) kv_free: u64,
    pub(super) prefill_per_s: f64,
    pub(super) decode_per_s: f64,
}

impl Node {
    pub(super) fn new(engine: Engine) -> Self {
        Self {
            engine,
            waiting: VecDeque::new(),
            prefilling: VecDeque::new(),
            decoding: BinaryHeap::new(),
            cache: Cache::default(),
            steps: 0,
            context: 0,
            kv_used: 0,
            queued: 0,
            run: None,
            version: 0,
            prefill_rate: Rate::default(),
            decode_rate: Rate::default(),
            busy: 0,
            preemptions: 0,
        }
    }

    pub(super) fn stand(&self) -> Stand {
        Stand {
            running: (self.prefilling.len() + self.decoding.len()) as u32,
            waiting: self.waiting.len() as u32,
            queued_tokens: self.queued,
            kv_free: self.engine.kv_tokens - self.kv_used,
            prefill_per_s: self.prefill_rate.per_s(),
            decode_per_s: self.decode_rate.per_s(),
        }
    }

    /// Whether its line is as long as it may be.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= self.engine.queue_max as usize
    }

    /// Sequences that it has.
    pub(super) fn sequences(&self) -> usize {
        self.waiting.len() + self.prefilling.len() + self.decoding.len()
    }

    /// Takes a job in. Says when the run that it begins or cuts short ends, with its number.
    pub(super) fn take(&mut self, job: Job, now: Nanos) -> Option<(Nanos, u32)> {
        self.queued += job.left;
        let alone = self.waiting.is_empty();
        self.waiting.push_back(job);
        match self.run {
            None => self.begin(now),
            // Prompts that are under way use all of the budget, and whoever found a line before him waits for that.
            Some(run) if alone && run.prefill == 0 && run.steps > 1 && self.budget() > 0 => {
                let fits = self.waiting.front().is_some_and(|job| self.has_room(job));
                if fits { self.cut(now) } else { None }
            }
            Some(_) => None,
        }
    }

    /// The end of run `version`: what it brought goes into `effects`. Says when the next one ends.
    pub(super) fn end(
        &mut self,
        version: u32,
        now: Nanos,
        effects: &mut Vec<Effect>,
    ) -> Option<(Nanos, u32)> {
        if version != self.version {
            return None;
        }
        let run = self.run.take()?;
        self.apply(run, run.steps, effects);
        self.begin(now)
    }

    /// It is gone at once. All that it had, with what is left to do of it; what was computed is lost, what was produced not.
    pub(super) fn stop(&mut self, now: Nanos, effects: &mut Vec<Effect>) -> Vec<(Leg, u64)> {
        if let Some(run) = self.run.take() {
            let done = run.within(now, false);
            self.apply(run, done, effects);
        }
        let steps = self.steps;
        let decoding = self.decoding.drain();
        let mut lost: Vec<(Leg, u64)> = decoding
            .map(|Reverse(d)| (d.leg, d.ends_at - steps))
            .collect();
        let prefilling = self.prefilling.drain(..).map(|(job, _)| job);
        let jobs = prefilling.chain(self.waiting.drain(..));
        lost.extend(jobs.map(|job| (job.leg, job.output)));
        lost.sort_unstable();
        self.cache.clear();
        (self.context, self.kv_used, self.queued) = (0, 0, 0);
        self.version += 1;
        lost
    }

    /// Whether what it counts is what it has (I1 of the engine: free and used make the total).
    pub(super) fn is_consistent(&self) -> bool {
        let steps = self.steps;
        let now = |d: &Decode| d.kv_end - (d.ends_at - steps);
        let context: u64 = self.decoding.iter().map(|Reverse(d)| now(d)).sum();
        let admitted: u64 = self.prefilling.iter().map(|(job, _)| job.prompt).sum();
        let left: u64 = self.prefilling.iter().map(|(job, _)| job.left).sum();
        let line: u64 = self.waiting.iter().map(|job| job.left).sum();
        context == self.context
            && context + admitted == self.kv_used
            && self.kv_used <= self.engine.kv_tokens
            && left + line == self.queued
            && (self.run.is_some() || self.sequences() == 0)
    }

    /// The present run ends with the step that is under way.
    fn cut(&mut self, now: Nanos) -> Option<(Nanos, u32)> {
        let run = self.run.as_mut()?;
        let steps = run.within(now, true);
        if steps >= run.steps {
            return None;
        }
        run.steps = steps;
        let ends = run.ends();
        self.version += 1;
        Some((ends, self.version))
    }

    /// Books the first `steps` steps of a run.
    fn apply(&mut self, run: Run, steps: u64, effects: &mut Vec<Effect>) {
        if steps == 0 {
            return;
        }
        let (sequences, took) = (self.decoding.len() as u64, run.lasts(steps));
        self.steps += steps;
        self.context += sequences * steps;
        self.kv_used += sequences * steps;
        self.busy += took.round() as Nanos;
        let seconds = took / 1e9;
        if run.prefill > 0 {
            self.prefill_rate.note(run.prefill * steps, seconds, steps);
        }
        if sequences > 0 {
            self.decode_rate.note(sequences * steps, seconds, steps);
        }
        while let Some(Reverse(first)) = self.decoding.peek().copied()
            && first.ends_at <= self.steps
        {
            self.decoding.pop();
            self.context -= first.kv_end;
            self.kv_used -= first.kv_end;
            effects.push(Effect::Done(first.leg));
        }
        self.prefill(run.prefill * steps, effects);
    }

    /// Books prompt tokens; whoever has no more of them has its first token.
    fn prefill(&mut self, mut tokens: u64, effects: &mut Vec<Effect>) {
        while tokens > 0
            && let Some((job, _)) = self.prefilling.front_mut()
        {
            let part = job.left.min(tokens);
            job.left -= part;
            self.queued -= part;
            tokens -= part;
            if job.left > 0 {
                return;
            }
            let Some((job, cached)) = self.prefilling.pop_front() else {
                return;
            };
            self.cache.note(&job.blocks);
            let leg = job.leg;
            effects.push(Effect::Token { leg, cached });
            if job.output <= 1 {
                self.kv_used -= job.prompt;
                effects.push(Effect::Done(leg));
                continue;
            }
            self.context += job.prompt;
            self.decoding.push(Reverse(Decode {
                ends_at: self.steps + job.output - 1,
                leg,
                kv_end: job.prompt + job.output - 1,
            }));
        }
    }
}

#[cfg(test)]
mod tests;
