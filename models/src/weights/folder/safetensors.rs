//! One safetensors file: a header in JSON, and the tensors behind it.
//!
//! Format: <https://huggingface.co/docs/safetensors>. Only the header is read ahead, each tensor when it is wanted.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::FolderError;
use crate::limits::SAFETENSORS_HEADER_BYTES_MAX;
use crate::weights::gguf::TensorType;
use crate::weights::overlap::first_overlap;

/// An open file with its header parsed and checked.
#[derive(Debug)]
pub(super) struct SafetensorsFile {
    file: File,
    path: PathBuf,
    /// Tensors by name, those of types that weights have.
    pub(super) tensors: BTreeMap<String, Entry>,
}

/// Where a tensor lies and what it is.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) tensor_type: TensorType,
    /// The slowest-varying size first.
    pub(super) shape: Vec<usize>,
    /// First byte, counted from the start of the file.
    offset: u64,
    /// Length in bytes.
    bytes: usize,
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

impl SafetensorsFile {
    pub(super) fn open(path: &Path) -> Result<Self, FolderError> {
        let named = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::NotFound => FolderError::Missing {
                path: path.to_owned(),
            },
            _ => FolderError::Read {
                path: path.to_owned(),
                source,
            },
        };
        let file = File::open(path).map_err(named)?;
        let file_bytes = file.metadata().map_err(named)?.len();
        let cut = || {
            let why = "is no safetensors file, or it is cut short; fetch it again";
            FolderError::malformed(path, why)
        };
        if file_bytes < 8 {
            return Err(cut());
        }
        let mut len = [0; 8];
        file.read_exact_at(&mut len, 0).map_err(named)?;
        let header_bytes = u64::from_le_bytes(len);
        let data_start = header_bytes.saturating_add(8);
        if data_start > file_bytes {
            return Err(cut());
        }
        if header_bytes > SAFETENSORS_HEADER_BYTES_MAX {
            let why = format!("has a header of more than {SAFETENSORS_HEADER_BYTES_MAX} bytes");
            return Err(FolderError::malformed(path, why));
        }
        let mut header = vec![0; usize::try_from(header_bytes).unwrap_or(0)];
        file.read_exact_at(&mut header, 8).map_err(named)?;
        let header: BTreeMap<String, Value> = serde_json::from_slice(&header)
            .map_err(|error| FolderError::malformed(path, format!("has a bad header: {error}")))?;
        let mut tensors = BTreeMap::new();
        for (name, value) in header {
            if name == "__metadata__" {
                continue;
            }
            let entry = entry(value, data_start, file_bytes).map_err(|why| {
                FolderError::malformed(path, format!("has tensor `{name}`, {why}"))
            })?;
            tensors.insert(name, entry);
        }
        if let Some(name) = overlapping(&tensors) {
            let why = format!("has tensor `{name}`, whose data overlap with another one's");
            return Err(FolderError::malformed(path, why));
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            tensors,
        })
    }

    /// The bytes of a tensor of this file.
    pub(super) fn read(&self, entry: &Entry) -> Result<Vec<u8>, FolderError> {
        let mut bytes = vec![0; entry.bytes];
        let read = self.file.read_exact_at(&mut bytes, entry.offset);
        read.map(|()| bytes).map_err(|source| FolderError::Read {
            path: self.path.clone(),
            source,
        })
    }
}

/// A tensor that shares bytes with another one: a small file could stand for any amount of memory.
fn overlapping(tensors: &BTreeMap<String, Entry>) -> Option<&str> {
    let ranges = tensors
        .iter()
        .map(|(name, entry)| (entry.offset, entry.bytes as u64, name.as_str()));
    first_overlap(ranges.collect())
}

fn entry(value: Value, data_start: u64, file_bytes: u64) -> Result<Entry, String> {
    let raw: RawEntry =
        serde_json::from_value(value).map_err(|error| format!("which is malformed: {error}"))?;
    let tensor_type = match raw.dtype.as_str() {
        "F32" => TensorType::F32,
        "F16" => TensorType::F16,
        "BF16" => TensorType::BF16,
        other => return Err(format!("of type {other}; supported: F32, F16, BF16")),
    };
    let numbers = raw
        .shape
        .iter()
        .try_fold(1u64, |all, &size| all.checked_mul(size as u64));
    let bytes = numbers.and_then(|numbers| numbers.checked_mul(tensor_type.block_bytes()));
    let [start, end] = raw.data_offsets;
    let inside = data_start
        .checked_add(end)
        .is_some_and(|end| end <= file_bytes);
    let length = end.checked_sub(start).filter(|_| inside);
    let (true, Some(length)) = (length == bytes, length) else {
        return Err("whose data are not in the file; it is cut short, fetch it again".to_owned());
    };
    Ok(Entry {
        tensor_type,
        shape: raw.shape,
        offset: data_start + start,
        bytes: usize::try_from(length).map_err(|_| "too large for this machine")?,
    })
}
