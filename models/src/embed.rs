//! Texts to vectors: BERT and its kin from Hugging Face folders, with the pooling that their folder asks for.
//!
//! The network is candle-transformers'. Texts that pass together are padded to the longest of them and the padding is masked, so a
//! text's company changes no more of its vector than the rounding of sums. This file knows no request; who batches what
//! is the caller's to say.

use std::path::Path;
use std::str::FromStr;

use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use serde::Deserialize;
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::limits;
use crate::weights::folder::{self, FolderError, parse_json, read_json};

const WEIGHTS: &str = "model.safetensors";

/// A text embedder, ready to run and shared by many threads.
pub struct Embedder {
    model: BertModel,
    tokenizer: Tokenizer,
    pooling: Pooling,
    normalise: bool,
    tokens_max: usize,
    vocab_size: usize,
    width: usize,
}

/// What one text became.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// The vector, of length 1 where the model normalises.
    pub vector: Vec<f32>,
    /// Tokens of the text, the model's own marks included.
    pub tokens: usize,
}

/// How the vectors of a text's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean (sentence-transformers).
    Mean,
    /// That of the first token, `[CLS]`.
    Cls,
}

/// Why a folder is no embedder, or a text got no vector.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbedError {
    /// The folder lacks a file, or one of them is damaged.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A model of a kind that we do not run.
    #[error("`{found}` is no embedder that is supported; supported: bert")]
    Architecture {
        /// The `model_type` of its configuration.
        found: String,
    },
    /// The tokenizer is damaged, or failed on a text.
    #[error("the tokenizer of the embedder failed: {0}")]
    Tokenizer(String),
    /// The tokenizer has ids that the weights do not.
    #[error(
        "the tokenizer has {tokenizer} tokens, the weights {weights}; they are of different models"
    )]
    Vocabulary {
        /// Tokens of the tokenizer.
        tokenizer: usize,
        /// Rows of the embedding table.
        weights: usize,
    },
    /// The text is longer than the model takes.
    #[error("the text has {tokens} tokens, more than the {tokens_max} that the model takes")]
    TooLong {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens allowed.
        tokens_max: usize,
    },
    /// The text is longer than any context could hold.
    #[error("the text has {bytes} bytes, more than the {bytes_max} that are tokenised")]
    TextBytes {
        /// Bytes of the text.
        bytes: usize,
        /// Bytes allowed.
        bytes_max: usize,
    },
    /// The tensors could not be made, or the device failed.
    #[error("the embedder's tensors failed: {0}")]
    Tensors(#[from] candle_core::Error),
}

impl std::fmt::Debug for Embedder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedder")
            .field("pooling", &self.pooling)
            .field("normalise", &self.normalise)
            .field("tokens_max", &self.tokens_max)
            .field("width", &self.width)
            .finish_non_exhaustive()
    }
}

impl Embedder {
    /// Loads a folder: `config.json`, `tokenizer.json`, `model.safetensors`, and the small files of sentence-transformers
    /// that say how to pool. Without those it is the mean, not normalised.
    ///
    /// # Errors
    /// [`EmbedError`] names the file's fault and the way out.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, EmbedError> {
        let config: Config = folder::config(dir)?;
        let kind = config.model_type.as_deref().unwrap_or("bert");
        if kind != "bert" {
            return Err(EmbedError::Architecture {
                found: kind.to_owned(),
            });
        }
        let tokenizer = tokenizer(dir)?;
        let tokens = tokenizer.get_vocab_size(true);
        if tokens > config.vocab_size {
            return Err(EmbedError::Vocabulary {
                tokenizer: tokens,
                weights: config.vocab_size,
            });
        }
        let path = dir.join(WEIGHTS);
        if !path.is_file() {
            return Err(FolderError::Missing { path }.into());
        }
        let tensors = candle_core::safetensors::load(&path, device)?;
        let weights = VarBuilder::from_tensors(tensors, DType::F32, device);
        Ok(Self {
            model: BertModel::load(weights, &config)?,
            tokenizer,
            pooling: pooling(dir)?,
            normalise: normalises(dir)?,
            tokens_max: tokens_max(dir, config.max_position_embeddings)?,
            vocab_size: config.vocab_size,
            width: config.hidden_size,
        })
    }

    /// Numbers of a vector.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Tokens that a text may have, the model's own marks included.
    #[must_use]
    pub fn tokens_max(&self) -> usize {
        self.tokens_max
    }

    /// Every token id is below it.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Token ids of a text, the model's own marks included, however many they are.
    ///
    /// # Errors
    /// [`EmbedError::TextBytes`] for a text longer than any context; [`EmbedError::Tokenizer`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, EmbedError> {
        let bytes_max = limits::TEXT_BYTES_MAX;
        if text.len() > bytes_max {
            let bytes = text.len();
            return Err(EmbedError::TextBytes { bytes, bytes_max });
        }
        let encoded = self.tokenizer.encode_fast(text, true).map_err(failed)?;
        Ok(encoded.get_ids().to_vec())
    }

    /// A vector for each row of ids, in their order, in one pass. Rows are of 1 to `tokens_max` ids below `vocab_size`.
    ///
    /// # Errors
    /// [`EmbedError::TooLong`] for a row beyond the model's context, nothing is cut off in silence;
    /// [`EmbedError::Tensors`] where the device failed.
    pub fn run(&self, rows: &[impl AsRef<[u32]>]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let longest = rows.iter().map(|row| row.as_ref().len()).max().unwrap_or(0);
        if longest > self.tokens_max {
            return Err(EmbedError::TooLong {
                tokens: longest,
                tokens_max: self.tokens_max,
            });
        }
        if longest == 0 {
            return Ok(rows.iter().map(|_| vec![0.0; self.width]).collect());
        }
        let (ids, mask) = self.padded(rows, longest)?;
        let states = self.model.forward(&ids, &ids.zeros_like()?, Some(&mask))?;
        let pooled = match self.pooling {
            Pooling::Mean => mean(&states, &mask.to_dtype(DType::F32)?)?,
            Pooling::Cls => states.narrow(1, 0, 1)?.squeeze(1)?,
        };
        let mut vectors = pooled.to_vec2::<f32>()?;
        if self.normalise {
            vectors.iter_mut().for_each(|vector| normalise(vector));
        }
        Ok(vectors)
    }

    /// Rows of equal length, and which of their numbers are real: both `[rows, longest]`.
    fn padded(
        &self,
        rows: &[impl AsRef<[u32]>],
        longest: usize,
    ) -> Result<(Tensor, Tensor), EmbedError> {
        let fill = |value: &dyn Fn(&[u32], usize) -> u32| -> Vec<u32> {
            let row = |row: &[u32]| (0..longest).map(|i| value(row, i)).collect::<Vec<u32>>();
            rows.iter().flat_map(|ids| row(ids.as_ref())).collect()
        };
        let shape = (rows.len(), longest);
        let device = &self.model.device;
        let ids = fill(&|row, i| row.get(i).copied().unwrap_or(0));
        let mask = fill(&|row, i| u32::from(i < row.len()));
        Ok((
            Tensor::from_vec(ids, shape, device)?,
            Tensor::from_vec(mask, shape, device)?,
        ))
    }

    /// The vector of one text on its own.
    ///
    /// # Errors
    /// As [`Embedder::encode`] and [`Embedder::run`].
    pub fn embed(&self, text: &str) -> Result<Embedding, EmbedError> {
        let ids = self.encode(text)?;
        let vector = self.run(&[&ids])?.pop().unwrap_or_default();
        Ok(Embedding {
            vector,
            tokens: ids.len(),
        })
    }
}

/// Whether `path` is a folder of a model that makes vectors of texts, and not text.
#[must_use]
pub fn is_embedder(path: &Path) -> bool {
    #[derive(Deserialize)]
    struct Kind {
        model_type: Option<String>,
    }
    // A folder that cannot be read is told so by whoever loads it.
    let kind = path
        .is_dir()
        .then(|| parse_json::<Kind>(path, "config.json"));
    matches!(kind, Some(Ok(Kind { model_type: Some(kind) })) if kind == "bert")
}

/// The mean over the real tokens of each row: `[rows, longest, width]` to `[rows, width]`.
fn mean(states: &Tensor, mask: &Tensor) -> candle_core::Result<Tensor> {
    let sums = states.broadcast_mul(&mask.unsqueeze(D::Minus1)?)?.sum(1)?;
    sums.broadcast_div(&mask.sum_keepdim(1)?)
}

/// Scales a vector to length 1; one of zeros stays.
fn normalise(vector: &mut [f32]) {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x /= length);
    }
}

/// The tokenizer without the padding and truncation that its file may ask for.
fn tokenizer(dir: &Path) -> Result<Tokenizer, EmbedError> {
    const NAME: &str = "tokenizer.json";
    let json = read_json(dir, NAME)?.ok_or_else(|| FolderError::Missing {
        path: dir.join(NAME),
    })?;
    let mut tokenizer = Tokenizer::from_str(&json).map_err(failed)?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(failed)?;
    Ok(tokenizer)
}

fn failed(error: impl std::fmt::Display) -> EmbedError {
    EmbedError::Tokenizer(error.to_string())
}

fn pooling(dir: &Path) -> Result<Pooling, EmbedError> {
    #[derive(Deserialize)]
    struct Modes {
        #[serde(default)]
        pooling_mode_cls_token: bool,
        #[serde(default)]
        pooling_mode_mean_tokens: bool,
    }
    let modules = dir.join("1_Pooling");
    if read_json(&modules, "config.json")?.is_none() {
        return Ok(Pooling::Mean);
    }
    let modes: Modes = parse_json(&modules, "config.json")?;
    match (modes.pooling_mode_cls_token, modes.pooling_mode_mean_tokens) {
        (true, false) => Ok(Pooling::Cls),
        (false, true) => Ok(Pooling::Mean),
        _ => {
            let why = "asks for a pooling that is neither the mean nor the first token";
            Err(FolderError::malformed(&modules.join("config.json"), why).into())
        }
    }
}

/// Whether the chain of modules ends with one that normalises.
fn normalises(dir: &Path) -> Result<bool, EmbedError> {
    const NAME: &str = "modules.json";
    if read_json(dir, NAME)?.is_none() {
        return Ok(false);
    }
    let modules: Vec<Value> = parse_json(dir, NAME)?;
    let is_normalise = |module: &Value| {
        let kind = module["type"].as_str();
        kind.is_some_and(|kind| kind.ends_with(".Normalize"))
    };
    Ok(modules.iter().any(is_normalise))
}

/// What sentence-transformers was trained with, or else all positions.
fn tokens_max(dir: &Path, positions: usize) -> Result<usize, EmbedError> {
    #[derive(Deserialize)]
    struct Settings {
        max_seq_length: Option<usize>,
    }
    const NAME: &str = "sentence_bert_config.json";
    if read_json(dir, NAME)?.is_none() {
        return Ok(positions);
    }
    let settings: Settings = parse_json(dir, NAME)?;
    Ok(settings.max_seq_length.unwrap_or(positions).min(positions))
}

#[cfg(test)]
mod tests;
