//! One simulated node: continuous batching over a KV cache, jumping from one change of the batch to the next.
//!
//! A step takes `c0 + c1 x prefill tokens + c2 x context + c3 x sequences that decode`. While the batch does not change, the
//! times of its steps are an arithmetic series, so a run of steps is one event however long it is. Decodes come first, then
//! prompts in order of arrival within the token budget and the time that decodes may be kept waiting, as in the engine.
//! It is told how long an answer is, as a model would know it; nobody who routes may ask it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use super::cache::Cache;
use crate::clock::Nanos;

/// Tokens of a prefix block: the router's blocks of 1,024 bytes at four bytes a token.
pub(super) const BLOCK_TOKENS: u64 = 256;
/// Steps with decodes are stretched by prompts to at most so many times what they would take (as the engine does).
const STRETCH_MAX: f64 = 1.5;
/// Longest step of prompts alone where `step_target` is shorter, in nanoseconds (as in the engine).
const STEP_ALONE_NS: f64 = 500e6;
/// Prompt tokens of a step at least (as in the engine).
const CHUNK_MIN: u64 = 8;
/// What a rate keeps of its past when one more step comes.
const RATE_KEEP: f64 = 0.98;

/// What a step costs on a machine, and what it holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Engine {
    /// Nanoseconds of a step however small: c0.
    pub step_ns: f64,
    /// Of each prompt token: c1.
    pub prefill_token_ns: f64,
    /// Of each token in the context of a sequence that decodes: c2.
    pub context_token_ns: f64,
    /// Of each sequence that decodes: c3.
    pub sequence_ns: f64,
    /// Tokens that the KV cache holds.
    pub kv_tokens: u64,
    /// Sequences at once.
    pub sequences_max: u32,
    /// Tokens of a step.
    pub step_tokens_max: u32,
    /// Step time up to which prompts may join decodes, in nanoseconds.
    pub step_target_ns: f64,
    /// Requests in line before further ones are refused.
    pub queue_max: u32,
    /// Joules of an output token, those of its prompt and of the building included.
    pub joules_per_token: f64,
}

impl Engine {
    /// Requests a second that it can serve for ever, where requests have these mean figures: each pays for its prompt, for
    /// its tokens' share of the steps in the largest batch that fits, and for its own part of them.
    #[must_use]
    pub fn capacity(&self, of: &Means) -> f64 {
        let held = of.prompt + of.output / 2.0;
        let fits = (self.kv_tokens as f64 / held.max(1.0)).max(1.0);
        let batch = fits.min(f64::from(self.sequences_max)).max(1.0);
        let decode = of.output * (self.step_ns / batch + self.sequence_ns)
            + of.output_context * self.context_token_ns;
        1e9 / (of.uncached * self.prefill_token_ns + decode).max(1e-3)
    }
}

/// Mean figures of requests, in tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Means {
    /// Of a prompt.
    pub prompt: f64,
    /// Of a prompt, without what is shared.
    pub uncached: f64,
    /// Of an answer.
    pub output: f64,
    /// Of an answer times its context.
    pub output_context: f64,
}

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

/// Equal steps, one after the other.
#[derive(Debug, Clone, Copy)]
struct Run {
    began: Nanos,
    steps: u64,
    prefill: u64,
    /// Nanoseconds of the first step, and how much longer each is than the one before.
    first_ns: f64,
    growth_ns: f64,
}

impl Run {
    /// Nanoseconds of its first `steps` steps.
    fn lasts(&self, steps: u64) -> f64 {
        let n = steps as f64;
        n * self.first_ns + self.growth_ns * n * (n - 1.0) / 2.0
    }

    fn ends(&self) -> Nanos {
        self.began + (self.lasts(self.steps).round() as Nanos).max(1)
    }
}

/// Tokens over time, the recent ones for the most part.
#[derive(Debug, Default, Clone, Copy)]
struct Rate {
    tokens: f64,
    seconds: f64,
}

impl Rate {
    fn note(&mut self, tokens: u64, seconds: f64, steps: u64) {
        let keep = RATE_KEEP.powi(i32::try_from(steps).unwrap_or(i32::MAX));
        self.tokens = self.tokens * keep + tokens as f64;
        self.seconds = self.seconds * keep + seconds;
    }

    fn per_s(&self) -> f64 {
        if self.seconds > 0.0 {
            self.tokens / self.seconds
        } else {
            0.0
        }
    }
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
            let done = Self::steps_within(&run, now, false);
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

    /// Plans the next run.
    fn begin(&mut self, now: Nanos) -> Option<(Nanos, u32)> {
        self.make_room();
        let budget = self.budget();
        self.admit(budget);
        let pending: u64 = self.prefilling.iter().map(|(job, _)| job.left).sum();
        let prefill = pending.min(budget);
        let sequences = self.decoding.len() as u64;
        if prefill == 0 && sequences == 0 {
            return None;
        }
        let run = Run {
            began: now,
            steps: self.run_length(prefill, budget),
            prefill,
            first_ns: self.alone_ns() + self.engine.prefill_token_ns * prefill as f64,
            growth_ns: self.engine.context_token_ns * sequences as f64,
        };
        self.version += 1;
        self.run = Some(run);
        Some((run.ends(), self.version))
    }

    /// Steps until the batch changes: a prompt is computed, an answer ends, or the cache is full.
    fn run_length(&self, prefill: u64, budget: u64) -> u64 {
        let head = self.prefilling.front().map_or(0, |(job, _)| job.left);
        let mut steps = match head.saturating_sub(1).checked_div(prefill) {
            None => u64::MAX,
            Some(whole) if prefill == budget => whole.max(1),
            Some(_) => 1,
        };
        if let Some(Reverse(next)) = self.decoding.peek() {
            let room = (self.engine.kv_tokens - self.kv_used) / self.decoding.len() as u64;
            steps = steps.min(next.ends_at - self.steps).min(room.max(1));
        }
        steps
    }

    /// Takes prompts out of the line while there is budget for them in the next step.
    fn admit(&mut self, budget: u64) {
        let mut pending: u64 = self.prefilling.iter().map(|(job, _)| job.left).sum();
        while pending < budget
            && self.waiting.front().is_some_and(|job| self.has_room(job))
            && let Some(mut job) = self.waiting.pop_front()
        {
            // The last token of a prompt is always computed: the next one comes of it.
            let cached = (self.cache.depth(&job.blocks) * BLOCK_TOKENS).min(job.prompt - 1);
            job.left -= cached;
            self.queued -= cached;
            self.kv_used += job.prompt;
            pending += job.left;
            self.prefilling.push_back((job, cached));
        }
        let free = self.engine.kv_tokens - self.kv_used;
        self.cache.shrink(free / BLOCK_TOKENS);
    }

    /// Whether there is room for all of a prompt, and for a token of everyone beside it.
    fn has_room(&self, job: &Job) -> bool {
        let running = self.prefilling.len() + self.decoding.len();
        let needed = job.prompt + running as u64 + 1;
        running < self.engine.sequences_max as usize
            && self.kv_used + needed <= self.engine.kv_tokens
    }

    /// Before the cache overflows the last one of those that decode goes back into the line, all of it to be computed again.
    fn make_room(&mut self) {
        while self.decoding.len() + self.prefilling.len() > 1
            && self.engine.kv_tokens - self.kv_used < self.decoding.len() as u64
        {
            let last = self.decoding.iter().map(|Reverse(d)| d.leg).max();
            let mut victim = None;
            self.decoding.retain(|Reverse(decode)| {
                let stays = Some(decode.leg) != last;
                if !stays {
                    victim = Some(*decode);
                }
                stays
            });
            let Some(victim) = victim else { return };
            let rest = victim.ends_at - self.steps;
            let held = victim.kv_end - rest;
            self.kv_used -= held;
            self.context -= held;
            self.preemptions += 1;
            // Its last token was not computed yet, only drawn.
            let job = Job::new(victim.leg, held + 1, rest, Arc::default());
            self.queued += job.left;
            self.waiting.push_front(job);
        }
    }

    /// Prompt tokens that the next step may hold.
    fn budget(&self) -> u64 {
        let sequences = self.decoding.len() as u64;
        let alone = self.alone_ns();
        let target = if sequences == 0 {
            self.engine.step_target_ns.max(STEP_ALONE_NS)
        } else {
            self.engine.step_target_ns.max(STRETCH_MAX * alone)
        };
        // Where a prompt token costs nothing the quotient is infinite, and saturates.
        let timely = ((target - alone).max(0.0) / self.engine.prefill_token_ns) as u64;
        let step = u64::from(self.engine.step_tokens_max).saturating_sub(sequences);
        timely.max(CHUNK_MIN).min(step)
    }

    /// Nanoseconds of a step without prompts.
    fn alone_ns(&self) -> f64 {
        self.engine.step_ns
            + self.engine.sequence_ns * self.decoding.len() as f64
            + self.engine.context_token_ns * self.context as f64
    }

    /// The present run ends with the step that is under way.
    fn cut(&mut self, now: Nanos) -> Option<(Nanos, u32)> {
        let run = self.run.as_mut()?;
        let steps = Self::steps_within(run, now, true);
        if steps >= run.steps {
            return None;
        }
        run.steps = steps;
        let ends = run.ends();
        self.version += 1;
        Some((ends, self.version))
    }

    /// Steps of a run that are over at `now`, with the one under way or without.
    fn steps_within(run: &Run, now: Nanos, with_open: bool) -> u64 {
        let elapsed = now.saturating_sub(run.began) as f64;
        let (mut over, mut not) = (0, run.steps);
        while over < not {
            let middle = over + (not - over).div_ceil(2);
            if run.lasts(middle) <= elapsed {
                over = middle;
            } else {
                not = middle - 1;
            }
        }
        if with_open {
            (over + 1).min(run.steps)
        } else {
            over
        }
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
