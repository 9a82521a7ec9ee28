//! What the engine counts, and the snapshot that others see.

use std::time::Duration;

use crate::api::Stats;
use crate::scheduler::Scheduler;
use crate::scheduler::step::Step;

/// Counters since the start.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    steps: u64,
    prefill_tokens: u64,
    decode_tokens: u64,
    preemptions: u64,
    last_step: Duration,
    steps_rate: Rate,
    prefill_rate: Rate,
    decode_rate: Rate,
    produced_before: u64,
}

/// A quantity by time, over the recent steps.
#[derive(Debug, Default)]
struct Rate {
    amount: f64,
    seconds: f64,
}

/// Weight that a step keeps in the rates when the next one comes: some 50 steps count.
const MEMORY: f64 = 0.98;

impl Rate {
    fn note(&mut self, amount: u64, took: Duration) {
        self.amount = self.amount * MEMORY + amount as f64;
        self.seconds = self.seconds * MEMORY + took.as_secs_f64();
    }

    /// By second; 0 where nothing is known.
    fn per_s(&self) -> f64 {
        if self.seconds > 0.0 {
            self.amount / self.seconds
        } else {
            0.0
        }
    }
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
    pub(crate) fn took(&mut self, step: Step, took: Duration) {
        self.last_step = took;
        self.steps_rate.note(1, took);
        if step.prefill_tokens > 0 {
            self.prefill_rate.note(u64::from(step.prefill_tokens), took);
        }
        let produced =
            self.decode_tokens - std::mem::replace(&mut self.produced_before, self.decode_tokens);
        if step.decodes > 0 {
            self.decode_rate.note(produced, took);
        }
    }

    fn mean_step(&self) -> Duration {
        let per_s = self.steps_rate.per_s();
        if per_s > 0.0 {
            Duration::from_secs_f64(1.0 / per_s)
        } else {
            Duration::ZERO
        }
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
            blocks_cached: scheduler.blocks().cache().idle(),
            steps: self.steps,
            prefill_tokens: self.prefill_tokens,
            decode_tokens: self.decode_tokens,
            drafted_tokens: scheduler.counts().drafted,
            accepted_tokens: scheduler.counts().accepted,
            preemptions: self.preemptions,
            last_step: self.last_step,
            mean_step: self.mean_step(),
            prefill_tokens_per_s: self.prefill_rate.per_s(),
            decode_tokens_per_s: self.decode_rate.per_s(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_steps_that_did_the_work() {
        let mut meter = Meter::default();
        for turn in 0..200 {
            let prefill_tokens = if turn % 2 == 0 { 100 } else { 0 };
            let step = Step {
                prefill_tokens,
                decodes: 4,
                ..Step::default()
            };
            meter.scheduled(step);
            (0..4).for_each(|_| meter.produced());
            let ms = if turn % 2 == 0 { 60 } else { 20 };
            meter.took(step, Duration::from_millis(ms));
        }
        let near = |value: f64, expected: f64| (value / expected - 1.0).abs() < 0.05;
        assert!(near(meter.prefill_rate.per_s(), 100.0 / 0.060));
        assert!(near(meter.decode_rate.per_s(), 4.0 / 0.040));
        assert!(near(meter.mean_step().as_secs_f64(), 0.040));
    }
}
