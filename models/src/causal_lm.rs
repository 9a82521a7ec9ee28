//! The trait that every architecture implements, the paged cache that it reads and writes, and how a file becomes one.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::batch::Batch;
use crate::spec::{KvType, ModelSpec};
use crate::text::TextCodec;
use crate::tokenizer::{FileTokenizer, TokenizerError};
use crate::weights::folder::{self, FolderError};
use crate::weights::gguf::{GgufError, GgufFile};

/// A causal language model over a ragged batch and a paged cache.
pub trait CausalLm: Send {
    /// The model's dimensions.
    fn spec(&self) -> &ModelSpec;

    /// What its logits depend on beside the batch.
    fn arithmetic(&self) -> &Arithmetic;

    /// Runs one ragged step: writes keys and values of every token to its slot, attends each token to its sequence's
    /// context, and returns the logits of the wanted rows, `[R, vocab_size]` in F32.
    ///
    /// Where [`Arithmetic::batch_invariant`] says so, a row's logits are bit for bit the same whatever else is in the batch
    /// and however its prompt was cut into chunks.
    ///
    /// # Errors
    /// A batch whose parts do not fit together is refused before anything is written. Otherwise whatever Candle
    /// reports: a bad shape or a device that failed; the cache's content is then undefined for the sequences of the
    /// batch, and for no other.
    fn forward(&mut self, batch: &Batch, kv: &mut PagedKv) -> candle_core::Result<Tensor>;
}

/// What the logits of a loaded model depend on beside the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arithmetic {
    /// Fingerprint of every tensor as it was read, with its name, type and shape.
    pub weights: u128,
    /// The code that computes: the instructions of the kernels, or that Candle's own operations do.
    pub kernels: String,
    /// Whether every operation promises that a row does not depend on its company: on a CPU, for heads of a multiple of 16
    /// numbers and weights of the types that our kernels know.
    pub batch_invariant: bool,
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
    /// What the matrices of a Hugging Face folder are quantised to; GGUF files stay as they are.
    pub quantise: Option<Quantise>,
}

/// Types that weights can be quantised to while they are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(non_camel_case_types, reason = "the names are ggml's")]
pub enum Quantise {
    /// 8 bits with a scale for each 32: as good as the original for every practical purpose.
    Q8_0,
    /// 4 bits with scales and minima for each 256; the embedding table and the output projection get 6. Matrices whose
    /// rows are not of whole blocks get [`Quantise::Q8_0`].
    Q4_K,
}

/// A model ready to run.
pub struct LoadedModel {
    /// The tensors.
    pub model: Box<dyn CausalLm>,
    /// Its tokenizer and chat template.
    pub text: Arc<dyn TextCodec>,
    /// Fingerprint of what its files say beside the tensors: sizes, tokenizer, template.
    pub metadata: u128,
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
    /// The file is not a good GGUF file, or lacks metadata.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The folder lacks a file, or one of them is damaged.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A model of a kind that we do not run.
    #[error("the architecture `{found}` is not supported; supported: {supported}")]
    Architecture {
        /// What the file says.
        found: String,
        /// What we run.
        supported: &'static str,
    },
    /// A variant of a known architecture that we do not run.
    #[error("the model uses {feature}, which is not supported")]
    Feature {
        /// What it uses.
        feature: String,
    },
    /// The metadata contradict themselves.
    #[error("the metadata key `{key}` {why}")]
    Metadata {
        /// The key.
        key: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The architecture needs a tensor that is not there.
    #[error("the file has no tensor `{tensor}`; it is not a whole model of its architecture")]
    MissingTensor {
        /// The tensor.
        tensor: String,
    },
    /// A tensor is not of the shape that the metadata promise.
    #[error("tensor `{tensor}` has the shape {found:?}, the metadata want {wanted:?}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Shape by the metadata.
        wanted: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// The tokenizer has ids that the logits do not, or the other way round.
    #[error("the tokenizer has {tokenizer} tokens, the weights {weights}; the file is damaged")]
    Vocabulary {
        /// Tokens of the tokenizer.
        tokenizer: usize,
        /// Rows of the embedding table.
        weights: usize,
    },
    /// The tokenizer's metadata are missing, damaged or of a kind that we do not have.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The tensors could not be made, or the device failed.
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
        let slots = blocks as usize * block_size as usize;
        let width = spec.kv_heads as usize * spec.head_dim as usize;
        let dtype = match kv_type {
            KvType::F16 => DType::F16,
            KvType::F32 => DType::F32,
        };
        let cache = || {
            (0..spec.layers)
                .map(|_| Tensor::zeros((slots, width), dtype, device))
                .collect::<candle_core::Result<Vec<_>>>()
        };
        Ok(Self {
            keys: cache()?,
            values: cache()?,
            block_size,
        })
    }

    /// Slots of the cache.
    #[must_use]
    pub fn slot_count(&self) -> usize {
        self.keys.first().map_or(0, |keys| keys.dims()[0])
    }
}

/// Loads a model: a GGUF file, or a folder with `config.json`, `tokenizer.json` and safetensors.
///
/// # Errors
/// [`LoadError`] names the file's fault and the way out.
pub fn load(path: &Path, options: &LoadOptions) -> Result<LoadedModel, LoadError> {
    if path.is_dir() {
        load_folder(path, options)
    } else {
        load_gguf(path, options)
    }
}

/// Loads a folder as Hugging Face lays it out, its matrices quantised where the options say so.
///
/// # Errors
/// [`LoadError`] names the file's fault and the way out.
pub fn load_folder(path: &Path, options: &LoadOptions) -> Result<LoadedModel, LoadError> {
    let model = load_folder_tensors(path, options)?;
    let text = FileTokenizer::from_folder(path)?;
    let (tokenizer, weights) = (text.vocab_size(), model.spec().vocab_size);
    if tokenizer > weights {
        return Err(LoadError::Vocabulary {
            tokenizer: tokenizer as usize,
            weights: weights as usize,
        });
    }
    Ok(LoadedModel {
        model,
        text: Arc::new(text),
        metadata: folder::fingerprint(path)?,
    })
}

/// Loads a GGUF file: weights read into one resident copy, quantised as they are; tokenizer and chat template from its
/// metadata.
///
/// # Errors
/// [`LoadError`] names the file's fault and the way out.
pub fn load_gguf(path: &Path, options: &LoadOptions) -> Result<LoadedModel, LoadError> {
    let gguf = GgufFile::open(path)?;
    let model = load_tensors(&gguf, options)?;
    Ok(LoadedModel {
        model,
        text: Arc::new(FileTokenizer::from_gguf(&gguf)?),
        metadata: gguf.fingerprint(),
    })
}

/// Loads the tensors of a GGUF file, without its tokenizer.
///
/// # Errors
/// [`LoadError`] names the file's fault and the way out.
pub fn load_tensors(
    gguf: &GgufFile,
    options: &LoadOptions,
) -> Result<Box<dyn CausalLm>, LoadError> {
    crate::arch::load(gguf, options)
}

/// Loads the tensors of a folder, without its tokenizer.
///
/// # Errors
/// [`LoadError`] names the file's fault and the way out.
pub fn load_folder_tensors(
    path: &Path,
    options: &LoadOptions,
) -> Result<Box<dyn CausalLm>, LoadError> {
    crate::arch::load_folder(path, options)
}
