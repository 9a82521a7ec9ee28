//! SHA-256 of files, and copying with a hash on the way.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::error::SourceError;
use crate::limits;

/// SHA-256 of a file, in lower-case hexadecimal digits.
pub(super) fn sha256_of(path: &Path) -> Result<String, SourceError> {
    let fault = |error| SourceError::io(path, error);
    let mut file = File::open(path).map_err(fault)?;
    copy_hashed(&mut file, &mut io::sink(), |_| ()).map_err(fault)
}

/// Copies `from` to its end, tells `progress` how many bytes each piece had, and returns their SHA-256.
pub(super) fn copy_hashed(
    from: &mut impl Read,
    to: &mut impl Write,
    mut progress: impl FnMut(u64),
) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; limits::COPY_BUFFER_BYTES];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hash.update(&buffer[..count]);
        to.write_all(&buffer[..count])?;
        progress(count as u64);
    }
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
