//! How many prompt tokens a step may take, so that those who decode in it do not wait long for their next token.
//!
//! The time of a step is taken to be `a + b x decodes`, to which each prompt token and each guessed token adds its own. The
//! first two are fitted to steps that decode and do nothing else, the others to what a step takes beyond that: fitted all
//! together, a prompt that grows dear with its context would make the decodes beside it look dear, since they hardly change
//! while it comes, and the steps would grow without end. So once in a while a step takes no prompt.
//! It must not know sequences; times come in, a number of tokens goes out.

use std::time::Duration;

use crate::limits::{
    DECODE_STRETCH_MAX, PREFILL_CHUNK_MIN, STEP_WITHOUT_DECODES, STEPS_WITH_PROMPTS_MAX,
};
use crate::scheduler::step::Step;

/// Decodes, prompt tokens and guessed tokens that a step is taken to have, so that the numbers of a fit are of one size.
const DECODES_SCALE: f64 = 8.0;
const PREFILL_SCALE: f64 = 64.0;
const DRAFTS_SCALE: f64 = 8.0;
/// A step that took longer than this many times what was expected counts as that long: a hiccup of the machine.
const HICCUP: f64 = 4.0;

/// The time of steps, as far as it is known, and the target.
#[derive(Debug)]
pub(crate) struct Pace {
    target_s: f64,
    /// Seconds of a step that only decodes: of the step itself, and of a decode.
    alone: Fit,
    /// Seconds of a prompt token and of a guessed token.
    beside: Fit,
    /// Prompt tokens of the largest step so far: no step goes far beyond what is known.
    prefill_seen: u32,
    /// Whether a step had guessed tokens.
    drafts_seen: bool,
    /// Steps with decodes since the last one that had nothing else.
    mixed_steps: u32,
}

impl Pace {
    /// Nothing is known yet; tokens of one sequence should be no more than `target` apart.
    pub(crate) fn new(target: Duration) -> Self {
        Self {
            target_s: target.as_secs_f64(),
            alone: Fit::new([1.0, DECODES_SCALE]),
            beside: Fit::new([PREFILL_SCALE, DRAFTS_SCALE]),
            prefill_seen: 0,
            drafts_seen: false,
            mixed_steps: 0,
        }
    }

    /// Prompt tokens that fit into a step with `decodes` decodes. Where nobody waits for the step it may be longer, but
    /// newcomers and aborts wait for its end. None once in a while, to see what the decodes take alone.
    pub(crate) fn prefill_tokens_max(&self, decodes: u32) -> u32 {
        if decodes > 0 && self.mixed_steps >= STEPS_WITH_PROMPTS_MAX {
            return 0;
        }
        let (target_s, largest) = if decodes == 0 {
            (
                self.target_s.max(STEP_WITHOUT_DECODES.as_secs_f64()),
                u32::MAX,
            )
        } else {
            (self.target_s, self.prefill_seen.saturating_mul(2))
        };
        let alone_s = self.alone_s(decodes);
        // Where a step takes the target and more without any prompt, prompts still get a share of the time.
        let allowed_s = target_s.max(alone_s * DECODE_STRETCH_MAX);
        // Where a token seems to cost nothing the quotient is infinite, and saturates.
        let tokens = ((allowed_s - alone_s) / self.prefill_s()) as u32;
        tokens.min(largest).max(PREFILL_CHUNK_MIN)
    }

    /// The likelihood from which a guessed token is worth its time in a step with `decodes` decodes: what it costs, in units
    /// of what a token costs there without guesses. The wider a step, the cheaper are its tokens already.
    pub(crate) fn draft_price(&self, decodes: u32) -> f64 {
        let alone_s = self.alone_s(decodes);
        if alone_s <= 0.0 {
            return 0.0;
        }
        self.draft_s() * f64::from(decodes) / alone_s
    }

    /// Guessed tokens for which there is time in `step`, so that streams stay as even as beside prompts.
    pub(crate) fn draft_tokens_max(&self, step: Step) -> u32 {
        let alone_s = self.alone_s(step.decodes);
        let allowed_s = self.target_s.max(alone_s * DECODE_STRETCH_MAX);
        let left_s = allowed_s - self.expected_s(step);
        // Where they seem to cost nothing the quotient is infinite, and saturates.
        (left_s.max(0.0) / self.draft_s()) as u32
    }

    /// Takes note of a step and how long it took.
    pub(crate) fn observe(&mut self, step: Step, took: Duration) {
        let (prefill_tokens, drafted_tokens) = (prefill_tokens(step), step.drafted_tokens);
        let expected_s = self.expected_s(step);
        let known = self.alone.knows() && prefill_tokens <= self.prefill_seen;
        let mut took_s = took.as_secs_f64();
        if known && expected_s > 0.0 {
            took_s = took_s.min(HICCUP * expected_s);
        }
        if prefill_tokens + drafted_tokens == 0 {
            let x = [1.0, f64::from(step.decodes)];
            self.alone.observe(x, took_s);
        } else {
            let x = [f64::from(prefill_tokens), f64::from(drafted_tokens)];
            let rest_s = took_s - self.alone_s(step.decodes);
            self.beside.observe(x, rest_s);
        }
        self.prefill_seen = self.prefill_seen.max(prefill_tokens);
        self.drafts_seen |= drafted_tokens > 0;
        if step.decodes > 0 {
            let alone = prefill_tokens == 0;
            self.mixed_steps = if alone { 0 } else { self.mixed_steps + 1 };
        }
    }

    /// Expected time of a step.
    fn expected_s(&self, step: Step) -> f64 {
        self.alone_s(step.decodes)
            + f64::from(prefill_tokens(step)) * self.prefill_s()
            + f64::from(step.drafted_tokens) * self.draft_s()
    }

    /// Expected time of a step with nothing but `decodes` decodes.
    fn alone_s(&self, decodes: u32) -> f64 {
        let [step_s, decode_s] = self.alone.estimate();
        (step_s + f64::from(decodes) * decode_s).max(0.0)
    }

    /// Seconds of a prompt token.
    fn prefill_s(&self) -> f64 {
        self.beside.estimate()[0].max(0.0)
    }

    /// Seconds of a guessed token; before one was seen, those of a prompt's.
    fn draft_s(&self) -> f64 {
        let known = usize::from(self.drafts_seen);
        self.beside.estimate()[known].max(0.0)
    }
}

/// Prompt tokens of a step. What a grammar forces is computed as a prompt is.
fn prefill_tokens(step: Step) -> u32 {
    step.prefill_tokens + step.forced_tokens
}

/// Least squares of a time over two counts, online: an observation weighs a little less with every later one, and a direction
/// that the recent ones do not show keeps its last estimate.
#[derive(Debug)]
struct Fit {
    /// What the counts are divided by.
    scale: [f64; 2],
    /// Sums of products of the scaled counts: first with itself, first with second, second with itself.
    xx: [f64; 3],
    /// Sums of products of the scaled counts and the time.
    xy: [f64; 2],
    /// Seconds by count, scaled.
    scaled: [f64; 2],
    observed: u32,
}

impl Fit {
    /// Weight that an observation keeps when the next one comes: some 12 count.
    const MEMORY: f64 = 0.92;
    /// How strongly an estimate stays where it is for want of evidence, in observations.
    const INERTIA: f64 = 0.02;

    fn new(scale: [f64; 2]) -> Self {
        Self {
            scale,
            xx: [0.0; 3],
            xy: [0.0; 2],
            scaled: [0.0; 2],
            observed: 0,
        }
    }

    /// Whether there is an estimate at all.
    fn knows(&self) -> bool {
        self.observed > 0
    }

    /// Seconds by count.
    fn estimate(&self) -> [f64; 2] {
        [
            self.scaled[0] / self.scale[0],
            self.scaled[1] / self.scale[1],
        ]
    }

    /// Solves `(xx + inertia) e = xy + inertia x previous e`: symmetric and positive definite, so the determinant is not 0.
    fn observe(&mut self, counts: [f64; 2], took_s: f64) {
        let x = [counts[0] / self.scale[0], counts[1] / self.scale[1]];
        let squares = [x[0] * x[0], x[0] * x[1], x[1] * x[1]];
        for (sum, square) in self.xx.iter_mut().zip(squares) {
            *sum = Self::MEMORY * *sum + square;
        }
        for (sum, x) in self.xy.iter_mut().zip(x) {
            *sum = Self::MEMORY * *sum + x * took_s;
        }
        let (a, b, c) = (
            self.xx[0] + Self::INERTIA,
            self.xx[1],
            self.xx[2] + Self::INERTIA,
        );
        let right = [
            self.xy[0] + Self::INERTIA * self.scaled[0],
            self.xy[1] + Self::INERTIA * self.scaled[1],
        ];
        let determinant = a * c - b * b;
        self.scaled = [
            (right[0] * c - right[1] * b) / determinant,
            (right[1] * a - right[0] * b) / determinant,
        ];
        self.observed = self.observed.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(prefill_tokens: u32, decodes: u32) -> Step {
        Step {
            prefill_tokens,
            decodes,
            ..Step::default()
        }
    }

    /// Milliseconds of a machine with 5 ms a step, 2 ms a prompt token and 1 ms a decode.
    fn took(step: Step) -> Duration {
        Duration::from_millis(u64::from(5 + 2 * step.prefill_tokens + step.decodes))
    }

    #[test]
    fn the_share_of_prompts_meets_the_target_after_a_few_steps() {
        let mut pace = Pace::new(Duration::from_millis(50));
        assert_eq!(
            pace.prefill_tokens_max(15),
            PREFILL_CHUNK_MIN,
            "nothing is known yet"
        );
        for prefill in [64, 512, 128, 300, 20, 0, 0, 40] {
            let step = step(prefill, prefill % 7);
            pace.observe(step, took(step));
        }
        for _ in 0..=2 * STEPS_WITH_PROMPTS_MAX {
            let step = step(pace.prefill_tokens_max(15), 15);
            pace.observe(step, took(step));
        }
        // 5 + 15 + 2 x 15 = 50.
        let tokens = pace.prefill_tokens_max(15);
        assert!((14..=16).contains(&tokens), "{tokens}");
        // Nobody waits: half a second for 5 ms and 2 ms a token.
        let tokens = pace.prefill_tokens_max(0);
        assert!((235..=260).contains(&tokens), "{tokens}");
        // 100 decodes take 105 ms alone: prompts may stretch the step, but not without end.
        let tokens = f64::from(pace.prefill_tokens_max(100));
        let allowed = 105.0 * (DECODE_STRETCH_MAX - 1.0) / 2.0;
        assert!((tokens - allowed).abs() < 3.0, "{tokens} for {allowed}");
    }

    #[test]
    fn after_a_small_prompt_a_large_one_does_not_take_a_step_of_its_own() {
        let mut pace = Pace::new(Duration::from_millis(50));
        pace.observe(step(10, 0), took(step(10, 0)));
        let mut worst = Duration::ZERO;
        for _ in 0..50 {
            let step = step(pace.prefill_tokens_max(4), 4);
            worst = worst.max(took(step));
            pace.observe(step, took(step));
        }
        assert!(worst <= Duration::from_millis(100), "{worst:?}");
    }

    #[test]
    fn a_guess_costs_what_it_took_in_units_of_a_token() {
        let mut pace = Pace::new(Duration::from_millis(50));
        // 2 ms a guessed token.
        for i in 0..200 {
            let step = Step {
                drafted_tokens: i % 5,
                ..step(i % 30, 1 + i % 11)
            };
            let drafts = Duration::from_millis(2) * step.drafted_tokens;
            pace.observe(step, took(step) + drafts);
        }
        // 6 ms for one token, 15 ms for ten.
        assert!((pace.draft_price(1) - 2.0 / 6.0).abs() < 0.02);
        assert!((pace.draft_price(10) - 2.0 / 1.5).abs() < 0.05);
        // 50 ms hold 5 + 1 + 2 x 22.
        let most = pace.draft_tokens_max(step(0, 1));
        assert!((21..=22).contains(&most), "{most}");
        let beside_a_prompt = pace.draft_tokens_max(step(22, 1));
        assert!(beside_a_prompt <= 1, "{beside_a_prompt}");
    }

    /// Attention makes each token of a prompt dearer than the one before. That must not be taken for dearer decodes, which
    /// would stretch the steps, and so on.
    #[test]
    fn a_prompt_that_grows_dear_does_not_stretch_the_steps_without_end() {
        let decodes = 40;
        let alone_ms = 5.0 + f64::from(decodes);
        let mut pace = Pace::new(Duration::from_millis(50));
        for prefill in [256, 0, 0, 0, 0] {
            let step = step(prefill, decodes);
            pace.observe(step, took(step));
        }
        let (mut done, mut worst_ms, mut steps) = (0, 0.0_f64, 0);
        while done < 1_500 {
            let prefill = pace.prefill_tokens_max(decodes);
            let token_ms = 1.0 + f64::from(done) / 1_500.0;
            let ms = alone_ms + f64::from(prefill) * token_ms;
            pace.observe(step(prefill, decodes), Duration::from_secs_f64(ms / 1e3));
            worst_ms = worst_ms.max(ms);
            (done, steps) = (done + prefill, steps + 1);
        }
        let stretch = worst_ms / alone_ms;
        assert!(stretch < DECODE_STRETCH_MAX + 0.05, "{stretch}");
        assert!(steps < 200, "{steps} steps");
    }

    #[test]
    fn it_follows_a_machine_that_changes_and_ignores_a_hiccup() {
        let mut pace = Pace::new(Duration::from_millis(50));
        let mut run = |factor: u32, steps: u32| {
            for i in 0..steps {
                let step = step(if i % 10 == 9 { 0 } else { 10 + i % 30 }, 8);
                pace.observe(step, took(step) * factor);
            }
            pace.prefill_tokens_max(8)
        };
        let before = run(1, 60);
        assert!((17..=20).contains(&before), "{before}");
        let after_hiccup = {
            run(100, 1);
            run(1, 10)
        };
        assert!(after_hiccup >= before / 2, "{after_hiccup}");
        let slow = run(2, 100);
        assert!(slow <= before / 2 + 2, "{slow}");
    }

    #[test]
    fn a_long_time_without_prompts_does_not_lose_what_they_cost() {
        let mut pace = Pace::new(Duration::from_millis(50));
        for i in 0..100 {
            let step = step(if i % 2 == 0 { 0 } else { 20 + i }, 4);
            pace.observe(step, took(step));
        }
        let before = pace.prefill_tokens_max(4);
        for i in 0..10_000 {
            let step = step(0, 1 + i % 8);
            pace.observe(step, took(step));
        }
        let after = pace.prefill_tokens_max(4);
        assert!(before.abs_diff(after) <= 2, "{before} became {after}");
    }
}
