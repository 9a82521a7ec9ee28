//! What the next steps of a node hold: who enters, who must leave, how many prompt tokens beside those that decode, and for
//! how long nothing changes.

use std::cmp::Reverse;
use std::sync::Arc;

use super::run::Run;
use super::{BLOCK_TOKENS, Job, Node};
use crate::clock::Nanos;

/// Steps with decodes are stretched by prompts to at most so many times what they would take (as the engine does).
const STRETCH_MAX: f64 = 1.5;
/// Longest step of prompts alone where `step_target` is shorter, in nanoseconds (as in the engine).
const STEP_ALONE_NS: f64 = 500e6;
/// Prompt tokens of a step at least (as in the engine).
const CHUNK_MIN: u64 = 8;

impl Node {
    /// Plans the next run.
    pub(super) fn begin(&mut self, now: Nanos) -> Option<(Nanos, u32)> {
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
    pub(super) fn has_room(&self, job: &Job) -> bool {
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
    pub(super) fn budget(&self) -> u64 {
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
}
