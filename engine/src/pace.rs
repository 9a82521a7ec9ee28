//! How many prompt tokens a step may take, so that those who decode in it do not wait long for their next token.
//!
//! The time of a step is fitted online as `a + b x prefill tokens + c x decodes + d x guessed tokens`: least squares over the recent steps,
//! each step weighing a little less with every later one. A direction that the recent steps do not show (no prefill for a
//! while) keeps its last estimate. While a long prompt comes in equal parts, no step would show what the decodes take alone,
//! and a prompt that grows dear with its context would seem to make them dear; so once in a while a step takes no prompt.
//! It must not know sequences; times come in, a number of tokens goes out.

use std::time::Duration;

use crate::limits::{
    DECODE_STRETCH_MAX, PREFILL_CHUNK_MIN, STEP_WITHOUT_DECODES, STEPS_WITH_PROMPTS_MAX,
};
use crate::scheduler::Step;

/// What the time of a step is made of: itself, prompt tokens, decodes, guessed tokens.
const FEATURES: usize = 4;
/// Weight that a step keeps when the next one comes: some 30 steps count.
const MEMORY: f64 = 0.97;
/// How strongly an estimate stays where it is for want of evidence, in steps.
const INERTIA: f64 = 0.05;
/// Tokens and sequences that a step is taken to have, so that the three numbers are of one size.
const SCALE: [f64; FEATURES] = [1.0, 64.0, 8.0, 8.0];
/// A step that took longer than this many times what was expected counts as that long: a hiccup of the machine.
const HICCUP: f64 = 4.0;

/// The time of steps, as far as it is known, and the target.
#[derive(Debug)]
pub(crate) struct Pace {
    target_s: f64,
    /// Sums of products of the scaled features.
    xx: [[f64; FEATURES]; FEATURES],
    /// Sums of products of the scaled features and the time.
    xy: [f64; FEATURES],
    /// Seconds by feature, scaled.
    estimate: [f64; FEATURES],
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
            xx: [[0.0; FEATURES]; FEATURES],
            xy: [0.0; FEATURES],
            estimate: [0.0; FEATURES],
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
        let token_s = self.estimate[1].max(0.0) / SCALE[1];
        let alone_s = self.step_s([0, decodes, 0]).max(0.0);
        // Where a step takes the target and more without any prompt, prompts still get a share of the time.
        let allowed_s = target_s.max(alone_s * DECODE_STRETCH_MAX);
        // Where a token seems to cost nothing the quotient is infinite, and saturates.
        let tokens = ((allowed_s - alone_s) / token_s) as u32;
        tokens.min(largest).max(PREFILL_CHUNK_MIN)
    }

    /// The likelihood from which a guessed token is worth its time in a step with `decodes` decodes: what it costs, in units
    /// of what a token costs there without guesses. The wider a step, the cheaper are its tokens already.
    pub(crate) fn draft_price(&self, decodes: u32) -> f64 {
        let alone_s = self.step_s([0, decodes, 0]);
        if alone_s <= 0.0 {
            return 0.0;
        }
        self.draft_s() * f64::from(decodes) / alone_s
    }

    /// Guessed tokens for which there is time in `step`, so that streams stay as even as beside prompts.
    pub(crate) fn draft_tokens_max(&self, step: Step) -> u32 {
        let alone_s = self.step_s([0, step.decodes, 0]).max(0.0);
        let allowed_s = self.target_s.max(alone_s * DECODE_STRETCH_MAX);
        let left_s = allowed_s - self.step_s(counted(step));
        // Where they seem to cost nothing the quotient is infinite, and saturates.
        (left_s.max(0.0) / self.draft_s()) as u32
    }

    /// Seconds of a guessed token; before one was seen, those of a prompt's.
    fn draft_s(&self) -> f64 {
        let of = |feature: usize| self.estimate[feature].max(0.0) / SCALE[feature];
        if self.drafts_seen { of(3) } else { of(1) }
    }

    /// Takes note of a step and how long it took.
    pub(crate) fn observe(&mut self, step: Step, took: Duration) {
        let counted = counted(step);
        let prefill_tokens = counted[0];
        let expected_s = self.step_s(counted);
        let mut took_s = took.as_secs_f64();
        if self.knows(prefill_tokens) && expected_s > 0.0 {
            took_s = took_s.min(HICCUP * expected_s);
        }
        let x = features(counted);
        for row in 0..FEATURES {
            for column in 0..FEATURES {
                self.xx[row][column] = MEMORY * self.xx[row][column] + x[row] * x[column];
            }
            self.xy[row] = MEMORY * self.xy[row] + x[row] * took_s;
        }
        self.prefill_seen = self.prefill_seen.max(prefill_tokens);
        self.drafts_seen |= step.drafted_tokens > 0;
        if step.decodes > 0 {
            let alone = prefill_tokens == 0;
            self.mixed_steps = if alone { 0 } else { self.mixed_steps + 1 };
        }
        self.fit();
    }

    /// Expected time of a step.
    fn step_s(&self, counted: [u32; 3]) -> f64 {
        let x = features(counted);
        x.iter().zip(self.estimate).map(|(x, e)| x * e).sum()
    }

    /// Whether steps like this one were seen before.
    fn knows(&self, prefill_tokens: u32) -> bool {
        self.xx[0][0] >= 1.0 && prefill_tokens <= self.prefill_seen
    }

    /// Solves `(xx + inertia) e = xy + inertia x previous e`.
    fn fit(&mut self) {
        let mut left = self.xx;
        let mut right = self.xy;
        for i in 0..FEATURES {
            left[i][i] += INERTIA;
            right[i] += INERTIA * self.estimate[i];
        }
        self.estimate = solve(left, right);
    }
}

/// Prompt tokens, decodes and guessed tokens of a step. What a grammar forces is computed as a prompt is.
fn counted(step: Step) -> [u32; 3] {
    let prefill_tokens = step.prefill_tokens + step.forced_tokens;
    [prefill_tokens, step.decodes, step.drafted_tokens]
}

fn features([prefill_tokens, decodes, drafted_tokens]: [u32; 3]) -> [f64; FEATURES] {
    let [base, prefill, decode, draft] = SCALE;
    [
        base.recip(),
        f64::from(prefill_tokens) / prefill,
        f64::from(decodes) / decode,
        f64::from(drafted_tokens) / draft,
    ]
}

/// Gaussian elimination; the matrix is symmetric and positive definite, so no pivot is 0.
fn solve(mut left: [[f64; FEATURES]; FEATURES], mut right: [f64; FEATURES]) -> [f64; FEATURES] {
    for pivot in 0..FEATURES {
        for row in pivot + 1..FEATURES {
            let factor = left[row][pivot] / left[pivot][pivot];
            let above = left[pivot];
            for (cell, above) in left[row].iter_mut().zip(above).skip(pivot) {
                *cell -= factor * above;
            }
            right[row] -= factor * right[pivot];
        }
    }
    for row in (0..FEATURES).rev() {
        let known: f64 = (row + 1..FEATURES).map(|i| left[row][i] * right[i]).sum();
        right[row] = (right[row] - known) / left[row][row];
    }
    right
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
        assert!(stretch < DECODE_STRETCH_MAX + 0.2, "{stretch}");
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
