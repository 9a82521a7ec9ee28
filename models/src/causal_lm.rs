//! The trait that every architecture implements, the paged cache that it reads and writes, and how a file becomes one.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::batch::Batch;
use crate::spec::{KvType, ModelSpec};
use crate::text::TextCodec;

/// A causal language model over a ragged batch and a paged cache.
pub trait CausalLm: Send {
    /// The model's dimensions.
    fn spec(&self) -> &ModelSpec;

    /// Runs one ragged step: writes keys and values of every token to its slot, attends each token to its sequence's
    /// context, and returns the logits of the wanted rows, `[R, vocab_size]` in F32.
    ///
    /// # Errors
    /// Whatever Candle reports: a bad shape or a device that failed. The cache's content is then undefined for the
    /// sequences of the batch, and for no other.
    fn forward(&mut self, batch: &Batch, kv: &mut PagedKv) -> candle_core::Result<Tensor>;
}

/// Keys and values of all sequences, outside the model: for each layer two tensors `[slots, kv_heads * head_dim]`, where
/// block `b` holds slots `b * block_size ..`.
#[derive(Debug)]
pub struct PagedKv {
    /// Keys by layer.
    pub keys: Vec<Tensor>,
    /// Values by layer.
    pub values: Vec<Tensor>,
    /// Slots in a block.
    pub block_size: u32,
}

/// How to load a model.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Where the tensors live.
    pub device: Device,
    /// Number type of the cache, which attention must be ready for.
    pub kv_type: KvType,
}

/// A model ready to run.
pub struct LoadedModel {
    /// The tensors.
    pub model: Box<dyn CausalLm>,
    /// Its tokenizer and chat template.
    pub text: Arc<dyn TextCodec>,
}

impl std::fmt::Debug for LoadedModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadedModel")
            .field("spec", self.model.spec())
            .finish_non_exhaustive()
    }
}

/// Why a model file could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The tensors do not fit the architecture, or the device failed.
    #[error("the model's tensors could not be loaded: {0}")]
    Tensors(#[from] candle_core::Error),
}

impl PagedKv {
    /// A zeroed cache of `blocks` blocks.
    ///
    /// # Errors
    /// Whatever Candle reports where the device has no room.
    pub fn new(
        spec: &ModelSpec,
        blocks: u32,
        block_size: u32,
        kv_type: KvType,
        device: &Device,
    ) -> candle_core::Result<Self> {
        let _ = (spec, blocks, kv_type, device);
        Ok(Self {
            keys: Vec::new(),
            values: Vec::new(),
            block_size,
        })
    }
}

/// Loads a GGUF file: weights through a map into one resident copy, quantised as they are; tokenizer and chat template
/// from its metadata.
///
/// # Errors
/// [`LoadError`] names the file's fault and the way out.
pub fn load_gguf(path: &Path, options: &LoadOptions) -> Result<LoadedModel, LoadError> {
    let _ = (path, options);
    Err(LoadError::Tensors(candle_core::Error::Msg(
        "not built yet".to_owned(),
    )))
}
