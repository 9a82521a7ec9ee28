//! The cache folder: a place for one file, taken by one fetcher at a time, filled by one rename.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::error::SourceError;

/// The right to put one file into the cache, and a folder to prepare it in.
///
/// The lock is held for the whole life, the folder goes with it. A process that is killed leaves its folder behind; the
/// next one to take the lock removes it.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    partial: TempDir,
    _lock: Option<File>,
}

/// What [`claim`] found.
#[derive(Debug)]
pub(super) enum Claim {
    /// Somebody else put the file there while we waited.
    Taken,
    /// The file is ours to bring.
    Ours(Place),
}

/// Waits for the right to bring `path`; another process that fetches the same file goes first.
///
/// # Errors
/// Where the folder cannot be made or written.
pub(super) fn claim(path: &Path) -> Result<Claim, SourceError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let file_name = path.file_name().unwrap_or_default().to_string_lossy();
    fs::create_dir_all(dir).map_err(|error| SourceError::io(dir, error))?;
    let lock = lock(&dir.join(format!(".lock-{file_name}")))?;
    if path.exists() {
        return Ok(Claim::Taken);
    }
    let prefix = format!(".partial-{file_name}-");
    if lock.is_some() {
        remove_leftovers(dir, &prefix);
    }
    let partial = tempfile::Builder::new()
        .prefix(&prefix)
        .tempdir_in(dir)
        .map_err(|error| SourceError::io(dir, error))?;
    Ok(Claim::Ours(Place {
        path: path.to_owned(),
        partial,
        _lock: lock,
    }))
}

impl Place {
    /// Folder to prepare the file in: same file system, gone when the place is.
    pub(super) fn partial(&self) -> &Path {
        self.partial.path()
    }

    /// Moves a finished file from the partial folder to its place.
    pub(super) fn fill(self, finished: &Path) -> Result<PathBuf, SourceError> {
        fs::rename(finished, &self.path).map_err(|error| SourceError::io(&self.path, error))?;
        Ok(self.path)
    }
}

/// `None` on a file system without locks: then fetchers may do the work twice, which the rename makes harmless.
fn lock(path: &Path) -> Result<Option<File>, SourceError> {
    let file = File::create(path).map_err(|error| SourceError::io(path, error))?;
    if file.try_lock().is_ok() {
        return Ok(Some(file));
    }
    tracing::info!(lock = %path.display(), "waiting for another process that fetches the same file");
    Ok(file.lock().is_ok().then_some(file))
}

/// Only with the lock held: then a folder with our prefix belongs to nobody alive.
fn remove_leftovers(dir: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            // What cannot be removed is in nobody's way: every fetcher has a folder of its own.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether `name` can be one component of a path and of an address, and nothing else.
#[cfg(any(test, feature = "hub"))]
pub(super) fn is_safe_name(name: &str) -> bool {
    (1..=crate::limits::FILE_NAME_BYTES_MAX).contains(&name.len())
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}
