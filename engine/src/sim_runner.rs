//! A simulated model: steps cost what a formula says, and tokens are a formula that anyone can check.
//!
//! Scheduler, gateway and load driver are tested at speed without weights. Token `i` of choice `c` is the number `i`; its
//! text is 16 lower-case hex digits and a space. In Python:
//!
//! ```python
//! M = 2**64 - 1
//! def s(x): x = (x + 0x9E3779B97F4A7C15) & M; x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & M; x = (x ^ x >> 27) * 0x94D049BB133111EB & M; return x ^ x >> 31
//! def text(seed, c, i): return f"{s((s((s(seed) + c) & M) + i) & M):016x} "
//! ```
//!
//! `text(0, 0, 0)` is `"238275bc38fcbe91 "`.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;
use std::thread;

use hansa_models::Batch;
use hansa_models::text::{ChatInput, Detokenizer, SpecialTokens, TextCodec, TextError};

use crate::limits::{SIM_TEXT_BYTES_MAX, SIM_VOCAB_SIZE};
use crate::numerics::Numerics;
use crate::options::{EngineOptions, SimOptions};
use crate::random::{draw, splitmix64};
use crate::runner::{RowOutcome, Runner, RunnerError, RunnerProfile, SampleRow, Scores, kv_blocks};

/// The simulated model behind the [`Runner`] trait.
#[derive(Debug)]
pub struct SimRunner {
    options: SimOptions,
    profile: RunnerProfile,
}

/// The simulated model's tokenizer and chat template.
#[derive(Debug, Clone, Copy, Default)]
pub struct SimCodec;

/// Text of token `index` of `choice`: the formula of this module's head.
#[must_use]
pub fn token_text(seed: u64, choice: u32, index: u32) -> String {
    format!("{:016x} ", draw(seed, choice, index))
}

impl SimRunner {
    /// A simulated model within the engine's bounds.
    ///
    /// # Errors
    /// [`RunnerError::KvBudget`] where the budget holds no block.
    pub fn new(engine: &EngineOptions, options: SimOptions) -> Result<Self, RunnerError> {
        let kv_blocks = kv_blocks(engine, options.context_len, options.kv_bytes_per_token)?;
        let profile = RunnerProfile {
            vocab_size: SIM_VOCAB_SIZE,
            context_len: options.context_len,
            kv_blocks,
        };
        Ok(Self { options, profile })
    }

    /// What the step would take. A sequence with one token counts as decoding: a model sees no difference either; one with
    /// guessed tokens brings several, as a prompt does.
    fn cost(&self, batch: &Batch) -> std::time::Duration {
        let decodes = batch.q_lens.iter().filter(|&&q_len| q_len == 1).count() as u32;
        let prefill_tokens = batch.token_count() as u32 - decodes;
        self.options.step_base
            + self.options.prefill_token * prefill_tokens
            + self.options.decode_sequence * decodes
    }
}

impl Runner for SimRunner {
    fn profile(&self) -> RunnerProfile {
        self.profile
    }

    fn text(&self) -> Arc<dyn TextCodec> {
        Arc::new(SimCodec)
    }

    /// Its tokens depend on the formula alone.
    fn numerics(&self) -> Numerics {
        Numerics::of(&[("formula", "splitmix64")])
    }

    fn step(
        &mut self,
        batch: &Batch,
        rows: &[SampleRow<'_>],
        outcomes: &mut Vec<RowOutcome>,
    ) -> Result<(), RunnerError> {
        let cost = self.cost(batch);
        if !cost.is_zero() {
            thread::sleep(cost);
        }
        outcomes.extend(rows.iter().map(outcome));
        Ok(())
    }
}

/// The token that the formula gives, which is certain; a given one was too.
fn outcome(row: &SampleRow<'_>) -> RowOutcome {
    let token = row.given.unwrap_or(row.index);
    match row.sampling.logprobs {
        None => RowOutcome::Token(token),
        Some(top) => {
            let logprob = 0.0;
            let top = (0..top.min(1)).map(|_| (token, logprob)).collect();
            RowOutcome::Scored(token, Box::new(Scores { logprob, top }))
        }
    }
}

impl TextCodec for SimCodec {
    /// One token for every 4 bytes begun, and one for the empty text.
    fn encode(&self, text: &str, _special: SpecialTokens) -> Result<Vec<u32>, TextError> {
        if text.len() > SIM_TEXT_BYTES_MAX {
            return Err(TextError::TooLong {
                bytes: text.len(),
                bytes_max: SIM_TEXT_BYTES_MAX,
            });
        }
        if text.is_empty() {
            return Ok(vec![0]);
        }
        Ok(text.as_bytes().chunks(4).map(token_of).collect())
    }

    /// A line `role: content` for each message, then `assistant:`.
    fn render_chat(&self, chat: &ChatInput<'_>) -> Result<String, TextError> {
        let mut prompt = String::new();
        for message in chat.messages {
            let field = |name: &str| message.get(name).and_then(|v| v.as_str()).unwrap_or("");
            let _ = writeln!(prompt, "{}: {}", field("role"), field("content"));
        }
        if chat.add_generation_prompt {
            prompt.push_str("assistant:");
        }
        Ok(prompt)
    }

    fn detokenizer(&self, seed: u64, choice: u32) -> Box<dyn Detokenizer> {
        Box::new(SimDetokenizer { seed, choice })
    }

    fn piece(&self, seed: u64, choice: u32, id: u32) -> Cow<'_, [u8]> {
        token_text(seed, choice, id).into_bytes().into()
    }

    fn vocab_size(&self) -> u32 {
        SIM_VOCAB_SIZE
    }

    fn end_of_generation(&self) -> &[u32] {
        &[]
    }
}

/// A stable token for up to 4 bytes of text.
fn token_of(bytes: &[u8]) -> u32 {
    let packed = bytes
        .iter()
        .fold(1, |packed, &byte| packed << 8 | u64::from(byte));
    (splitmix64(packed) % u64::from(SIM_VOCAB_SIZE)) as u32
}

#[derive(Debug)]
struct SimDetokenizer {
    seed: u64,
    choice: u32,
}

impl Detokenizer for SimDetokenizer {
    fn push(&mut self, id: u32, out: &mut String) {
        let _ = write!(out, "{:016x} ", draw(self.seed, self.choice, id));
    }

    fn finish(&mut self, _out: &mut String) {}
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_formula_is_the_documented_one() {
        assert_eq!(token_text(0, 0, 0), "238275bc38fcbe91 ");
        assert_eq!(token_text(42, 3, 7), "07bdfa5b4a5f0f15 ");
    }

    #[test]
    fn text_becomes_a_token_for_every_four_bytes_begun() {
        let ids = |text| SimCodec.encode(text, SpecialTokens::AsText).unwrap();
        assert_eq!(ids("").len(), 1);
        assert_eq!(ids("abcd").len(), 1);
        assert_eq!(ids("abcde").len(), 2);
        assert_eq!(ids("abcdabcd")[0], ids("abcd")[0]);
        assert_ne!(ids("abcd"), ids("abc"));
    }

    #[test]
    fn a_step_costs_what_the_options_say() {
        let options = SimOptions {
            context_len: 100,
            step_base: Duration::from_millis(5),
            prefill_token: Duration::from_millis(2),
            decode_sequence: Duration::from_millis(1),
            kv_bytes_per_token: 1,
        };
        let profile = RunnerProfile {
            vocab_size: SIM_VOCAB_SIZE,
            context_len: 100,
            kv_blocks: 1,
        };
        let runner = SimRunner { options, profile };
        let batch = Batch {
            tokens: vec![0; 12],
            q_lens: vec![1, 10, 1],
            ..Batch::default()
        };
        assert_eq!(runner.cost(&batch), Duration::from_millis(5 + 20 + 2));
    }
}
