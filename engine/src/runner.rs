//! What runs a step: forward pass and sampling behind one trait.
//!
//! Both are behind it so that a device may sample where its logits lie, and so that a simulated model needs no logits at
//! all. A runner knows batches, slots and rows; it must not know a sequence's life.

use std::sync::Arc;

use hansa_models::Batch;
use hansa_models::text::TextCodec;

use crate::api::{MemoryUse, SamplingParams, StopParams};
use crate::grammar::{Guide, GuideFault};
use crate::history::History;
use crate::limits::KV_SLOTS_MAX;
use crate::numerics::Numerics;
use crate::options::EngineOptions;

/// A model that runs ragged steps. It lives on the thread of its device, and may be made on another one.
pub trait Runner: Send {
    /// The model's bounds.
    fn profile(&self) -> RunnerProfile;

    /// Tokenizer and chat template.
    fn text(&self) -> Arc<dyn TextCodec>;

    /// What it holds in memory; nothing where it only simulates.
    fn resident(&self) -> MemoryUse {
        MemoryUse::default()
    }

    /// First passes before any sequence exists, so that no user pays for them. All KV blocks are free and may be written.
    ///
    /// # Errors
    /// [`RunnerError::Step`] where a pass failed: the engine does not become ready.
    fn warm_up(&mut self) -> Result<(), RunnerError> {
        Ok(())
    }

    /// Names what its tokens depend on, once it is warm. [`Numerics::unrepeatable`] where they depend on who else is in
    /// the batch.
    fn numerics(&self) -> Numerics {
        Numerics::unrepeatable()
    }

    /// Runs one step: computes keys and values of every token of `batch`, and draws the next token for each of `rows`,
    /// which stand for `batch.logit_rows` one by one; a sequence may have several, in order of position. Appends exactly one outcome a row to `outcomes`.
    ///
    /// # Errors
    /// [`RunnerError::Step`]: the cache's content is then undefined in the slots of the batch, and nowhere else. A panic
    /// means the same. The caller may run parts of the batch again.
    fn step(
        &mut self,
        batch: &Batch,
        rows: &[SampleRow<'_>],
        outcomes: &mut Vec<RowOutcome>,
    ) -> Result<(), RunnerError>;
}

/// Bounds of a loaded model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunnerProfile {
    /// Width of the logits: every token id in or out is below it.
    pub vocab_size: u32,
    /// Positions that the model was trained for, prompt and completion together.
    pub context_len: u32,
    /// KV blocks, each of the options' `block_size` tokens.
    pub kv_blocks: u32,
}

/// One token to draw, or to weigh. The draw depends on `(seed, choice, index)`, the parameters and the logits alone.
#[derive(Debug, Clone, Copy)]
pub struct SampleRow<'a> {
    /// How to draw.
    pub sampling: &'a SamplingParams,
    /// What may not be drawn yet.
    pub stop: &'a StopParams,
    /// What the sequence holds, where a penalty asks for it.
    pub history: Option<&'a History>,
    /// What its grammar allows, where it has one.
    pub guide: Option<&'a Guide>,
    /// Seed of the submission.
    pub seed: u64,
    /// Index of the choice.
    pub choice: u32,
    /// Index of the token in the completion.
    pub index: u32,
    /// Tokens that were guessed after those of `history` and `guide`, and that this one comes after.
    pub drafted: &'a [u32],
    /// The token, where it is known already and only its log-probability is wanted; then `sampling.logprobs` is given too.
    pub given: Option<u32>,
}

/// What came of one row.
#[derive(Debug, Clone, PartialEq)]
pub enum RowOutcome {
    /// The next token.
    Token(u32),
    /// The next token and its log-probabilities, where wanted.
    Scored(u32, Box<Scores>),
    /// The logits held NaN, or nothing that could be drawn.
    InvalidLogits,
    /// Its grammar cannot be followed any further.
    OffGrammar(GuideFault),
}

/// Natural log-probabilities of one row, by the model alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Of the token that was drawn.
    pub logprob: f32,
    /// The most likely tokens, best first, and of equals the lowest id first.
    pub top: Vec<(u32, f32)>,
}

impl RowOutcome {
    /// The token, where there is one.
    #[must_use]
    pub fn token(&self) -> Option<u32> {
        match self {
            Self::Token(token) | Self::Scored(token, _) => Some(*token),
            Self::InvalidLogits | Self::OffGrammar(_) => None,
        }
    }

    /// Its log-probabilities, where they were wanted.
    #[must_use]
    pub fn scores(&self) -> Option<&Scores> {
        match self {
            Self::Scored(_, scores) => Some(scores),
            _ => None,
        }
    }
}

/// Why a model could not be loaded or run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunnerError {
    /// The model could not be loaded; the text names the file's or the device's fault.
    #[error("{0}")]
    Load(String),
    /// The KV budget does not hold one block.
    #[error(
        "a KV budget of {kv_bytes_max} bytes holds no block: one takes {block_bytes} bytes; raise the budget"
    )]
    KvBudget {
        /// Bytes allowed.
        kv_bytes_max: u64,
        /// Bytes of one block.
        block_bytes: u64,
    },
    /// The start-up self-test failed.
    #[error(
        "the self-test failed: on this processor ({kernels}) the model gives a sequence other logits in company than \
         alone, so that answers change with the load; report it, or serve the model all the same with self_test = \"warn\""
    )]
    SelfTest {
        /// The code that computes.
        kernels: String,
    },
    /// A step failed; the text is the device's.
    #[error("the step failed: {0}")]
    Step(String),
}

/// KV blocks for a model: as many as the budget holds, and no more than all sequences at full context could use.
///
/// # Errors
/// [`RunnerError::KvBudget`] where not even one fits.
pub fn kv_blocks(
    options: &EngineOptions,
    context_len: u32,
    kv_bytes_per_token: u64,
) -> Result<u32, RunnerError> {
    let block_size = u64::from(options.block_size.max(1));
    let block_bytes = block_size.saturating_mul(kv_bytes_per_token.max(1));
    let context = u64::from(context_len.min(options.context_max.unwrap_or(u32::MAX)));
    let useful = context.div_ceil(block_size) * u64::from(options.sequences_max.max(1));
    let blocks = (options.kv_bytes_max / block_bytes)
        .min(useful)
        .min(KV_SLOTS_MAX / block_size);
    match u32::try_from(blocks) {
        Ok(blocks) if blocks > 0 => Ok(blocks),
        _ => Err(RunnerError::KvBudget {
            kv_bytes_max: options.kv_bytes_max,
            block_bytes,
        }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tests::threads::options;

    proptest! {
        #[test]
        fn blocks_fill_the_budget_and_never_exceed_it(
            kv_bytes_max in prop_oneof![0..1_u64 << 20, 0..1_u64 << 44, Just(u64::MAX)],
            kv_bytes_per_token in prop_oneof![0..5_u64, 1..1_u64 << 24],
            block_size in 0_u32..300,
            context_len in 1_u32..300_000,
            sequences_max in 1_u32..1000,
        ) {
            let options = EngineOptions {
                kv_bytes_max,
                block_size,
                ..options(sequences_max, 1)
            };
            let block_bytes = u128::from(block_size.max(1)) * u128::from(kv_bytes_per_token.max(1));
            let slots = |blocks: u32| u64::from(blocks) * u64::from(block_size.max(1));
            match kv_blocks(&options, context_len, kv_bytes_per_token) {
                Ok(blocks) => {
                    prop_assert!(u128::from(blocks) * block_bytes <= u128::from(kv_bytes_max));
                    prop_assert!(slots(blocks) <= KV_SLOTS_MAX);
                    // One more would be beyond the budget, the slots, or any use.
                    let of_all = u64::from(context_len) * u64::from(sequences_max);
                    prop_assert!(
                        u128::from(blocks + 1) * block_bytes > u128::from(kv_bytes_max)
                            || slots(blocks + 1) > KV_SLOTS_MAX
                            || slots(blocks) >= of_all
                    );
                }
                Err(_) => prop_assert!(block_bytes > u128::from(kv_bytes_max)),
            }
        }
    }
}
