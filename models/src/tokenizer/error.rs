//! Why a file's tokenizer cannot be built.

use crate::weights::gguf::GgufError;

/// Why a file's tokenizer cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A key is missing or has the wrong type.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A file of the folder is missing or damaged.
    #[cfg(feature = "candle")]
    #[error(transparent)]
    Folder(#[from] crate::weights::folder::FolderError),
    /// Another kind of tokenizer.
    #[error(
        "the tokenizer model '{0}' is not supported; supported: gpt2 (byte-level BPE), llama (SentencePiece)"
    )]
    Model(String),
    /// A pre-tokenizer that is not known: guessing it would give wrong ids and nobody would see it.
    #[error("the pre-tokenizer '{name}' is not supported; supported: {supported}")]
    PreTokenizer {
        /// What `tokenizer.ggml.pre` says.
        name: String,
        /// All that are known.
        supported: String,
    },
    /// The parts do not fit together.
    #[error("the tokenizer in the file is broken: {0}")]
    Broken(String),
}
