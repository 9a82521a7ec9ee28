//! A model as the router sees it: who serves it, and what is known of it over all of them.

use super::Ask;
use super::candidate::Candidate;
use super::cost::{Load, Uncached};
use super::crowd::Crowd;
use super::estimate::{Mean, PrefillLine};
use super::facts::CandidateId;
use super::policy::Habit;
use super::prefix;
use super::sheet::Sheet;

/// Tokens of an answer of a model that has not answered yet.
pub(super) const OUTPUT_TOKENS: f64 = 256.0;
/// Tokens of a prompt of a model that was not asked yet.
const PROMPT_TOKENS: f64 = 500.0;
/// Bytes of a token of a model that has not told yet.
const BYTES_PER_TOKEN: f64 = 4.0;

/// What is known of a model over all candidates.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) candidates: Vec<CandidateId>,
    /// Of the same candidates in the same order.
    pub(super) sheets: Vec<Sheet>,
    /// Tokens of an answer, and of what is not cached of a prompt.
    pub(super) output: Mean,
    pub(super) prompt: Mean,
    /// Others who ask the same candidates.
    pub(super) crowd: Crowd,
    /// Seconds of a token and of a prompt, over all candidates.
    pub(super) tpot: Mean,
    pub(super) prefill: PrefillLine,
    pub(super) bytes_per_token: Mean,
    pub(super) habit: Habit,
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            candidates: Vec::new(),
            sheets: Vec::new(),
            output: Mean::new(OUTPUT_TOKENS),
            prompt: Mean::new(PROMPT_TOKENS),
            crowd: Crowd::default(),
            tpot: Mean::tpot(),
            prefill: PrefillLine::default(),
            bytes_per_token: Mean::new(BYTES_PER_TOKEN),
            habit: Habit::default(),
        }
    }

    /// Lets decisions see what has become of a candidate.
    pub(super) fn show(&mut self, candidate: &Candidate) {
        if let Some(sheet) = self.sheets.get_mut(candidate.row.row) {
            *sheet = Sheet::of(candidate, sheet.alike);
        }
    }

    /// Tokens that so many bytes of a prompt have.
    pub(super) fn tokens(&self, bytes: u64) -> f64 {
        bytes as f64 * (1.0 / self.bytes_per_token.get().max(0.1))
    }

    /// What `ask` brings to whichever candidate.
    pub(super) fn load(&self, ask: &Ask<'_>) -> Load {
        let prompt = self.tokens(ask.prompt_bytes);
        let usual_output = self.output.get().max(1.0);
        let output = ask
            .max_tokens
            .map_or(usual_output, |max| usual_output.min(f64::from(max)));
        let tokens = output * f64::from(ask.n);
        Load {
            prompt,
            output,
            sequences: f64::from(ask.n),
            tokens,
            kv_tokens: prompt + tokens,
            usual_output,
            usual_prompt: self.prompt.get(),
            usual_tpot: self.tpot.get(),
        }
    }

    /// What of its prompt a candidate has to compute that has seen so many of its blocks.
    pub(super) fn uncached(&self, ask: &Ask<'_>, depth: u32) -> Uncached {
        let seen = prefix::covered(depth as usize) as u64;
        let tokens = self.tokens(ask.prompt_bytes.saturating_sub(seen));
        Uncached {
            tokens,
            usual_s: self.prefill.seconds(tokens),
        }
    }
}
