//! Writes small GGUF files, good ones and, through [`GgufWriter::raw_key`], bad ones.

use std::io;
use std::path::Path;

/// Version that is written.
const VERSION: u32 = 3;
/// Alignment of tensor data in bytes: the format's default.
const ALIGNMENT: usize = 32;

/// A GGUF file in the making.
#[derive(Debug, Clone, Default)]
pub struct GgufWriter {
    keys: Vec<u8>,
    key_count: u64,
    directory: Vec<u8>,
    tensor_count: u64,
    data: Vec<u8>,
}

impl GgufWriter {
    /// Adds an unsigned integer.
    #[must_use]
    pub fn u32(self, key: &str, value: u32) -> Self {
        self.raw_key(key, 4, &value.to_le_bytes())
    }

    /// Adds a floating point number.
    #[must_use]
    pub fn f32(self, key: &str, value: f32) -> Self {
        self.raw_key(key, 6, &value.to_le_bytes())
    }

    /// Adds a truth value.
    #[must_use]
    pub fn bool(self, key: &str, value: bool) -> Self {
        self.raw_key(key, 7, &[u8::from(value)])
    }

    /// Adds a string.
    #[must_use]
    pub fn str(self, key: &str, value: &str) -> Self {
        self.raw_key(key, 8, &string_bytes(value))
    }

    /// Adds an array of strings.
    #[must_use]
    pub fn strings<S: AsRef<str>>(self, key: &str, values: &[S]) -> Self {
        let elements = values.iter().flat_map(|s| string_bytes(s.as_ref()));
        self.array(key, 8, values.len(), elements.collect())
    }

    /// Adds an array of signed integers.
    #[must_use]
    pub fn i32s(self, key: &str, values: &[i32]) -> Self {
        let elements = values.iter().flat_map(|n| n.to_le_bytes());
        self.array(key, 5, values.len(), elements.collect())
    }

    /// Adds an array of numbers.
    #[must_use]
    pub fn f32s(self, key: &str, values: &[f32]) -> Self {
        let elements = values.iter().flat_map(|n| n.to_le_bytes());
        self.array(key, 6, values.len(), elements.collect())
    }

    /// Adds a key with the bytes of its value as they are, right or wrong.
    #[must_use]
    pub fn raw_key(mut self, key: &str, type_id: u32, value: &[u8]) -> Self {
        self.keys.extend(string_bytes(key));
        self.keys.extend(type_id.to_le_bytes());
        self.keys.extend(value);
        self.key_count += 1;
        self
    }

    /// Adds a tensor: `shape` with the slowest-varying size first, ggml's number of its type, and its data.
    #[must_use]
    pub fn tensor(mut self, name: &str, shape: &[usize], type_id: u32, data: &[u8]) -> Self {
        self.directory.extend(string_bytes(name));
        self.directory
            .extend(u32::try_from(shape.len()).unwrap_or(u32::MAX).to_le_bytes());
        for &size in shape.iter().rev() {
            self.directory.extend((size as u64).to_le_bytes());
        }
        self.directory.extend(type_id.to_le_bytes());
        self.directory
            .extend((self.data.len() as u64).to_le_bytes());
        self.data.extend(data);
        self.data
            .resize(self.data.len().next_multiple_of(ALIGNMENT), 0);
        self.tensor_count += 1;
        self
    }

    /// The file's bytes.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.tensor_count.to_le_bytes());
        bytes.extend(self.key_count.to_le_bytes());
        bytes.extend(self.keys);
        bytes.extend(self.directory);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes.extend(self.data);
        bytes
    }

    /// Writes the file.
    ///
    /// # Errors
    /// Whatever the system reports.
    pub fn write_to(self, path: &Path) -> io::Result<()> {
        std::fs::write(path, self.into_bytes())
    }

    fn array(self, key: &str, type_id: u32, len: usize, elements: Vec<u8>) -> Self {
        let mut value = type_id.to_le_bytes().to_vec();
        value.extend((len as u64).to_le_bytes());
        value.extend(elements);
        self.raw_key(key, 9, &value)
    }
}

fn string_bytes(s: &str) -> Vec<u8> {
    let mut bytes = (s.len() as u64).to_le_bytes().to_vec();
    bytes.extend(s.as_bytes());
    bytes
}
