//! Architectures: one decoder for ragged steps over a paged cache, and a file for what each architecture differs in.

mod config;
mod decoder;
mod folder_config;
mod gemma3;
mod gguf_config;
mod llama;
mod qwen2;
mod qwen3;
pub(crate) mod variant;

use std::path::Path;

use crate::causal_lm::{CausalLm, LoadError, LoadOptions};
use crate::weights::folder::{self, FolderWeights, WeightTraits};
use crate::weights::gguf::GgufFile;
use crate::weights::tensors::Tensors;
use decoder::Decoder;
use folder_config::FolderConfig;
use variant::{HeadOrder, Variant};

const VARIANTS: [&Variant; 4] = [&llama::LLAMA, &qwen2::QWEN2, &qwen3::QWEN3, &gemma3::GEMMA3];

/// What [`VARIANTS`] has, for a refusal.
const SUPPORTED: &str = "llama (and mistral), qwen2, qwen3, gemma3";

/// Builds the model that a GGUF file holds.
///
/// # Errors
/// [`LoadError`] names what the file lacks, or what it has and is not computed here.
pub(crate) fn load(gguf: &GgufFile, options: &LoadOptions) -> Result<Box<dyn CausalLm>, LoadError> {
    Ok(Box::new(load_decoder(gguf, options)?))
}

/// Builds the model that a Hugging Face folder holds.
///
/// # Errors
/// As [`load`].
pub(crate) fn load_folder(
    dir: &Path,
    options: &LoadOptions,
) -> Result<Box<dyn CausalLm>, LoadError> {
    let config: FolderConfig = folder::config(dir)?;
    let variant = VARIANTS
        .iter()
        .find(|variant| variant.folder_types.contains(&config.model_type.as_str()));
    let variant = variant.ok_or_else(|| LoadError::Architecture {
        found: config.model_type.clone(),
        supported: SUPPORTED,
    })?;
    let traits = WeightTraits {
        post_norms: variant.post_norms,
        norms_less_one: variant.folder_norms_less_one,
        tied: config.tie_word_embeddings == Some(true),
        quantise: options.quantise,
    };
    let weights = FolderWeights::open(dir, traits)?;
    let mut tensors = Tensors::new(&weights, &options.device);
    let config = config.config(variant)?;
    tensors.interleave_heads(config.shape.head_dim, config.rope.dims);
    Ok(Box::new(Decoder::load(&tensors, config, variant)?))
}

fn load_decoder(gguf: &GgufFile, options: &LoadOptions) -> Result<Decoder, LoadError> {
    let name = gguf.str("general.architecture")?;
    let variant = VARIANTS.iter().find(|variant| variant.name == name);
    let variant = variant.ok_or_else(|| LoadError::Architecture {
        found: name.to_owned(),
        supported: SUPPORTED,
    })?;
    let mut tensors = Tensors::new(gguf, &options.device);
    let config = gguf_config::read(gguf, variant, &tensors)?;
    if variant.gguf_heads == HeadOrder::Halves {
        tensors.interleave_heads(config.shape.head_dim, config.rope.dims);
    }
    Decoder::load(&tensors, config, variant)
}

#[cfg(test)]
pub(crate) mod tests;
