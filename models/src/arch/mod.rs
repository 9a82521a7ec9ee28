//! Architectures: each builds itself from a GGUF file and runs ragged steps over a paged cache.

mod llama;

use crate::causal_lm::{CausalLm, LoadError, LoadOptions};
use crate::weights::gguf::GgufFile;

/// What [`load`] knows, for a refusal.
const SUPPORTED: &str = "llama";

/// Builds the model that a file holds.
pub(crate) fn load(gguf: &GgufFile, options: &LoadOptions) -> Result<Box<dyn CausalLm>, LoadError> {
    match gguf.str("general.architecture")? {
        "llama" => Ok(Box::new(llama::Llama::load(gguf, options)?)),
        other => Err(LoadError::Architecture {
            found: other.to_owned(),
            supported: SUPPORTED,
        }),
    }
}
