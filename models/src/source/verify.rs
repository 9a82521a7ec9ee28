//! SHA-256 of files, and a note beside a file that says which content was found there.
//!
//! Hashing takes seconds where a model has gigabytes, so it is done when a file comes and when it has changed since: the note
//! holds digest, size and time of change. It guards against mix-ups and half files, not against somebody who can write into
//! the cache folder: who can do that can write the note as well.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};

use super::error::SourceError;
use crate::limits;

/// SHA-256 of the `files` of `path` one behind the other, from the note beside `path` where none of them has changed since
/// that was written.
pub(super) fn known_sha256_of(path: &Path, files: &[PathBuf]) -> Result<String, SourceError> {
    let states: Result<Vec<String>, _> = files.iter().map(|file| state_of(file)).collect();
    let state = states?.join(" ");
    if let Some(noted) = read_note(path, &state) {
        return Ok(noted);
    }
    let found = sha256_of(files)?;
    // Where it cannot be written, the next start hashes again.
    let _ = fs::write(note_of(path), format!("{found} {state}\n"));
    Ok(found)
}

fn read_note(path: &Path, state: &str) -> Option<String> {
    let note = fs::read_to_string(note_of(path)).ok()?;
    let (digest, noted_state) = note.trim_end().split_once(' ')?;
    (noted_state == state).then(|| digest.to_owned())
}

fn note_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".sha256-{name}"))
}

/// Size, and nanoseconds since the epoch at the last change.
fn state_of(path: &Path) -> Result<String, SourceError> {
    let fault = |error| SourceError::io(path, error);
    let metadata = path.metadata().map_err(fault)?;
    let changed = metadata.modified().map_err(fault)?;
    let changed_ns = changed
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    Ok(format!("{} {changed_ns}", metadata.len()))
}

/// SHA-256 of files one behind the other, in lower-case hexadecimal digits.
pub(super) fn sha256_of(files: &[PathBuf]) -> Result<String, SourceError> {
    let mut hash = Hash::default();
    for path in files {
        let fault = |error| SourceError::io(path, error);
        let mut file = File::open(path).map_err(fault)?;
        hash.copy(&mut file, &mut io::sink(), |_| ())
            .map_err(fault)?;
    }
    Ok(hash.finish())
}

/// Copies `from` to its end, tells `progress` how many bytes each piece had, and returns their SHA-256.
#[cfg(test)]
pub(super) fn copy_hashed(
    from: &mut impl Read,
    to: &mut impl Write,
    progress: impl FnMut(u64),
) -> io::Result<String> {
    let mut hash = Hash::default();
    hash.copy(from, to, progress)?;
    Ok(hash.finish())
}

/// The SHA-256 of what passes, of one file or of several in a row.
#[derive(Default)]
pub(super) struct Hash(Sha256);

impl Hash {
    /// Copies `from` to its end and tells `progress` how many bytes each piece had.
    pub(super) fn copy(
        &mut self,
        from: &mut impl Read,
        to: &mut impl Write,
        mut progress: impl FnMut(u64),
    ) -> io::Result<()> {
        let mut buffer = vec![0; limits::COPY_BUFFER_BYTES];
        loop {
            let count = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.0.update(&buffer[..count]);
            to.write_all(&buffer[..count])?;
            progress(count as u64);
        }
    }

    /// In lower-case hexadecimal digits.
    pub(super) fn finish(self) -> String {
        let digest = self.0.finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
