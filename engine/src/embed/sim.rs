//! The simulated embedder: vectors are a formula that anyone can check, so that what is around it is tested without weights.

use std::sync::Arc;
use std::thread;

use hansa_models::text::{SpecialTokens, TextCodec, TextError};

use super::{EmbedProfile, Embedder, SimEmbedOptions};
use crate::limits::SIM_VOCAB_SIZE;
use crate::random::splitmix64;
use crate::runner::RunnerError;
use crate::sim_runner::SimCodec;

/// An embedder without weights; its formula stands at [`SimEmbedOptions`].
#[derive(Debug)]
pub(super) struct SimEmbedder {
    options: SimEmbedOptions,
}

impl SimEmbedder {
    pub(super) fn new(options: SimEmbedOptions) -> Self {
        Self { options }
    }
}

impl Embedder for SimEmbedder {
    fn profile(&self) -> EmbedProfile {
        EmbedProfile {
            width: self.options.width,
            tokens_max: self.options.tokens_max,
            vocab_size: SIM_VOCAB_SIZE,
        }
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        SimCodec.encode(text, SpecialTokens::AsText)
    }

    fn embed(&self, rows: &[Arc<[u32]>]) -> Result<Vec<Vec<f32>>, RunnerError> {
        let longest = rows.iter().map(|row| row.len()).max().unwrap_or(0);
        let padded = u32::try_from(longest * rows.len()).unwrap_or(u32::MAX);
        let cost = self.options.step_base + self.options.token * padded;
        if !cost.is_zero() {
            thread::sleep(cost);
        }
        Ok(rows
            .iter()
            .map(|row| vector(row, self.options.width))
            .collect())
    }
}

/// The vector of `ids`: see [`SimEmbedOptions`].
fn vector(ids: &[u32], width: u32) -> Vec<f32> {
    let hash = ids
        .iter()
        .fold(0, |hash, &id| splitmix64(hash ^ u64::from(id)));
    let number = |j: u32| {
        let drawn = splitmix64(hash.wrapping_add(u64::from(j))) >> 11;
        2.0 * drawn as f64 / (1_u64 << 53) as f64 - 1.0
    };
    let numbers: Vec<f64> = (0..width).map(number).collect();
    let length = numbers.iter().map(|x| x * x).sum::<f64>().sqrt();
    let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
    numbers.iter().map(|x| (x * scale) as f32).collect()
}
