//! From one row of logits to one token.
//!
//! The order is vLLM's: log-probabilities are of the row as the model gave it; then bias, the tokens that may not come yet,
//! penalties, the grammar, temperature, min-p, top-k and top-p, each over what the one before left. Nothing is sorted where a selection
//! does, and nothing depends on other rows: sums run in a fixed order, ties go to the lowest id, and chance is a function of
//! `(seed, choice, index)`. The exponential is our own, so that a draw does not depend on the platform's.

mod line;
mod nucleus;
mod passes;
mod scoring;

use crate::grammar::GuideFault;
use crate::random::draw_unit;
use crate::runner::{RowOutcome, SampleRow};
use nucleus::Nucleus;
use passes::{Best, Weights, arg_max};
use scoring::Scoring;

/// Temperatures below this are greedy: they would divide the logits into infinities.
const TEMPERATURE_GREEDY: f32 = 1e-5;

/// Draws tokens in memory that it keeps from row to row.
#[derive(Debug, Default)]
pub struct Sampler {
    /// Tokens that end a generation.
    end_of_generation: Vec<u32>,
    weights: Weights,
    nucleus: Nucleus,
    scoring: Scoring,
}

impl Sampler {
    /// A sampler for a model whose generations end with one of `end_of_generation`.
    #[must_use]
    pub fn new(end_of_generation: &[u32]) -> Self {
        Self {
            end_of_generation: end_of_generation.to_vec(),
            ..Self::default()
        }
    }

    /// The next token of `row`, below `logits.len()`. The logits are used up. [`RowOutcome::InvalidLogits`] where one is
    /// NaN, or none is finite.
    pub fn sample(&mut self, logits: &mut [f32], row: &SampleRow<'_>) -> RowOutcome {
        let Some(raw) = arg_max(logits) else {
            return RowOutcome::InvalidLogits;
        };
        if row.sampling.logprobs.is_some() {
            self.scoring.read(logits, raw);
        }
        if let Some(token) = row.given {
            let top = row.sampling.logprobs.unwrap_or(0);
            return RowOutcome::Scored(token, Box::new(self.scoring.of(token, top)));
        }
        let best = match self.adjust(logits, row) {
            Ok(false) => Some(raw),
            Ok(true) => arg_max(logits),
            Err(fault) => return RowOutcome::OffGrammar(fault),
        };
        let Some(best) = best else {
            return RowOutcome::InvalidLogits;
        };
        let token = self.draw(logits, best, row);
        match row.sampling.logprobs {
            None => RowOutcome::Token(token),
            Some(top) => RowOutcome::Scored(token, Box::new(self.scoring.of(token, top))),
        }
    }

    /// Bends the logits as the request asks. False where nothing was to do.
    fn adjust(&self, logits: &mut [f32], row: &SampleRow<'_>) -> Result<bool, GuideFault> {
        let too_early = row.index < row.stop.min_tokens;
        let bias = &row.sampling.logit_bias;
        for &(token, bias) in bias.iter() {
            change(logits, token, |logit| logit + bias);
        }
        if too_early {
            for &token in self.end_of_generation.iter().chain(&*row.stop.token_ids) {
                change(logits, token, |_| f32::NEG_INFINITY);
            }
        }
        penalise(logits, row);
        if let Some(guide) = row.guide {
            guide.mask_after(row.drafted, logits)?;
        }
        let has_state = row.history.is_some() || row.guide.is_some();
        Ok(too_early || !bias.is_empty() || has_state)
    }

    /// A token of logits whose best one is known.
    fn draw(&mut self, logits: &mut [f32], best: Best, row: &SampleRow<'_>) -> u32 {
        let sampling = row.sampling;
        if sampling.temperature < TEMPERATURE_GREEDY || sampling.top_k == 1 {
            return best.token;
        }
        let chance = draw_unit(row.seed, row.choice, row.index);
        self.weights.read(logits, best.logit, sampling.temperature);
        let drawn = if sampling.top_p >= 1.0 && sampling.top_k == 0 && sampling.min_p <= 0.0 {
            self.weights.draw(logits, chance)
        } else {
            self.nucleus.draw(logits, &self.weights, sampling, chance)
        };
        drawn.unwrap_or(best.token)
    }
}

/// Penalties of what the sequence holds. Repetition comes first and looks at the prompt too; frequency and presence look at
/// the completion alone.
fn penalise(logits: &mut [f32], row: &SampleRow<'_>) {
    let Some(history) = row.history else { return };
    let sampling = row.sampling;
    for counted in history.tokens_with(row.drafted) {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a context has fewer than 2^24 tokens"
        )]
        let produced = counted.produced as f32;
        let present = if counted.produced > 0 { 1.0 } else { 0.0 };
        change(logits, counted.token, |logit| {
            let repeated = if logit > 0.0 {
                logit / sampling.repetition_penalty
            } else {
                logit * sampling.repetition_penalty
            };
            repeated - sampling.frequency_penalty * produced - sampling.presence_penalty * present
        });
    }
}

/// Changes the logit of a token; one outside of the row, which nothing should name, has none.
fn change(logits: &mut [f32], token: u32, f: impl FnOnce(f32) -> f32) {
    if let Some(logit) = logits.get_mut(token as usize) {
        *logit = f(*logit);
    }
}

#[cfg(test)]
mod tests;
