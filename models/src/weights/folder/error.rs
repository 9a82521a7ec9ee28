//! What can be wrong with a folder of weights, said so that its owner can act on it.

use std::io;
use std::path::{Path, PathBuf};

/// Why a folder was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// A file could not be read.
    #[error("{} could not be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not there.
    #[error("there is no {}; a model folder has config.json, tokenizer.json and *.safetensors", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file holds what it must not.
    #[error("{} {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl FolderError {
    pub(crate) fn malformed(path: &Path, why: impl Into<String>) -> Self {
        Self::Malformed {
            path: path.to_owned(),
            why: why.into(),
        }
    }
}
