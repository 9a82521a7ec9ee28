//! What the engine counts, and the snapshot that others see.

use std::time::Duration;

use crate::api::Stats;
use crate::scheduler::{Scheduler, Step};

/// Counters since the start.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    steps: u64,
    prefill_tokens: u64,
    decode_tokens: u64,
    preemptions: u64,
    last_step: Duration,
}

impl Meter {
    /// Counts a scheduled step.
    pub(crate) fn scheduled(&mut self, step: Step) {
        self.preemptions += u64::from(step.preemptions);
        if !step.is_empty() {
            self.steps += 1;
            self.prefill_tokens += u64::from(step.prefill_tokens);
        }
    }

    /// Counts a token that was produced.
    pub(crate) fn produced(&mut self) {
        self.decode_tokens += 1;
    }

    /// Notes how long a step took, from its schedule to its last event.
    pub(crate) fn took(&mut self, step: Duration) {
        self.last_step = step;
    }

    /// Figures of this moment.
    pub(crate) fn snapshot(&self, scheduler: &Scheduler) -> Stats {
        Stats {
            running: scheduler.running().len() as u32,
            waiting: scheduler.waiting().len() as u32,
            waiting_prefill_tokens: scheduler.waiting_prefill_tokens(),
            prefix_tokens: scheduler.counts().looked_up,
            prefix_hit_tokens: scheduler.counts().found,
            blocks_total: scheduler.blocks().total(),
            blocks_free: scheduler.blocks().free(),
            steps: self.steps,
            prefill_tokens: self.prefill_tokens,
            decode_tokens: self.decode_tokens,
            preemptions: self.preemptions,
            last_step: self.last_step,
        }
    }
}
