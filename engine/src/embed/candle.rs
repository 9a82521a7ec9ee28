//! A BERT embedder through candle-transformers, behind the [`Embedder`] trait.
//!
//! Candle multiplies its matrices with workers of its own, as many as there are physical cores (`RAYON_NUM_THREADS`).

use std::path::Path;
use std::sync::Arc;

use hansa_models::embed::{EmbedError, Embedder as Bert};
use hansa_models::text::TextError;

use super::{EmbedProfile, Embedder};
use crate::memory;
use crate::options::DeviceOptions;
use crate::runner::RunnerError;

struct CandleEmbedder {
    bert: Bert,
    weights_bytes: u64,
}

/// Loads a folder.
pub(super) fn load(dir: &Path, device: DeviceOptions) -> Result<Arc<dyn Embedder>, RunnerError> {
    let failed = |error: &dyn std::fmt::Display| RunnerError::Load(error.to_string());
    let device = device.open().map_err(|error| failed(&error))?;
    let bert = Bert::load(dir, &device).map_err(|error| failed(&error))?;
    Ok(Arc::new(CandleEmbedder {
        bert,
        weights_bytes: memory::file_bytes(dir),
    }))
}

impl Embedder for CandleEmbedder {
    fn profile(&self) -> EmbedProfile {
        let bound = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        EmbedProfile {
            width: bound(self.bert.width()),
            tokens_max: bound(self.bert.tokens_max()),
            vocab_size: bound(self.bert.vocab_size()),
        }
    }

    fn weights_bytes(&self) -> u64 {
        self.weights_bytes
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.bert.encode(text).map_err(|error| match error {
            EmbedError::TextBytes { bytes, bytes_max } => TextError::TooLong { bytes, bytes_max },
            _ => TextError::Tokenizer,
        })
    }

    fn embed(&self, rows: &[Arc<[u32]>]) -> Result<Vec<Vec<f32>>, RunnerError> {
        let made = self.bert.run(rows);
        made.map_err(|error| RunnerError::Step(error.to_string()))
    }
}
