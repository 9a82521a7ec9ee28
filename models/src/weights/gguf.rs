//! GGUF files: metadata and the directory of tensors, read without Candle.
//!
//! A model file comes from anywhere, so nothing in it is believed: every length is held against a bound and against the
//! file's size before memory is taken for it, arithmetic is checked, and each tensor's bytes must lie inside the file.
//! Tensors are read on demand and not mapped: a file that shrinks while it is loaded is then an error of ours and not a
//! signal that ends the process, and the resident copy is one either way.
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3, little endian.

mod error;
mod header;
mod tensor_type;
mod value;

use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub use error::GgufError;
pub use header::TensorInfo;
pub use tensor_type::TensorType;
pub use value::Value;

use header::Header;

/// A GGUF file with its header parsed and checked.
#[derive(Debug)]
pub struct GgufFile {
    header: Header,
    source: Source,
}

/// Where the bytes of the tensors are.
#[derive(Debug)]
enum Source {
    File(File),
    Memory(Vec<u8>),
}

impl GgufFile {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// [`GgufError`] names what is wrong: not GGUF, cut short, beyond a bound, or a tensor type that we do not know.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let named = |source| GgufError::Open {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(named)?;
        let file_bytes = file.metadata().map_err(named)?.len();
        let header = Header::parse(BufReader::new(&file), file_bytes)?;
        Ok(Self {
            header,
            source: Source::File(file),
        })
    }

    /// Reads a GGUF file that is already in memory.
    ///
    /// # Errors
    /// As for [`GgufFile::open`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, GgufError> {
        let header = Header::parse(bytes.as_slice(), bytes.len() as u64)?;
        Ok(Self {
            header,
            source: Source::Memory(bytes),
        })
    }

    /// Fingerprint of the whole header: metadata, tokenizer and template among them, and the directory of tensors.
    #[must_use]
    pub fn fingerprint(&self) -> u128 {
        self.header.fingerprint
    }

    /// The value of a metadata key.
    #[must_use]
    pub fn metadata(&self, key: &str) -> Option<&Value> {
        self.header.metadata.get(key)
    }

    /// The entry of a tensor in the directory.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.header.tensors.get(name)
    }

    /// Names of all tensors, sorted.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.header.tensors.keys().map(String::as_str)
    }

    /// Reads the bytes of one tensor, as long as [`TensorInfo::bytes`] says.
    ///
    /// # Errors
    /// [`GgufError::TensorRange`] where the directory has no such tensor in this file, [`GgufError::Read`] where the
    /// file has shrunk since it was opened or the disk fails.
    pub fn read_tensor(&self, name: &str) -> Result<Vec<u8>, GgufError> {
        let out_of_range = || GgufError::TensorRange {
            tensor: name.to_owned(),
        };
        let info = self.tensor(name).ok_or_else(out_of_range)?;
        let len = usize::try_from(info.bytes).map_err(|_| out_of_range())?;
        match &self.source {
            Source::File(file) => {
                let mut bytes = vec![0; len];
                file.read_exact_at(&mut bytes, info.offset)
                    .map_err(GgufError::Read)?;
                Ok(bytes)
            }
            Source::Memory(all) => usize::try_from(info.offset)
                .ok()
                .and_then(|start| all.get(start..start.checked_add(len)?))
                .map(<[u8]>::to_vec)
                .ok_or_else(out_of_range),
        }
    }
}

/// Typed access to metadata: the plain form demands the key, the `opt_` form only that it has the right type if it is
/// there. Integers of any width are taken where they fit.
macro_rules! accessors {
    ($($(#[$doc:meta])* $get:ident, $opt:ident, $view:ident -> $out:ty, $wanted:literal;)*) => {
        impl GgufFile {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// [`GgufError::MissingKey`] or [`GgufError::WrongType`], both with the key.
            pub fn $get(&self, key: &str) -> Result<$out, GgufError> {
                self.$opt(key)?.ok_or_else(|| GgufError::MissingKey { key: key.to_owned() })
            }

            $(#[$doc])*
            /// `None` where the file has no such key.
            ///
            /// # Errors
            /// [`GgufError::WrongType`] with the key.
            pub fn $opt(&self, key: &str) -> Result<Option<$out>, GgufError> {
                let Some(value) = self.metadata(key) else { return Ok(None) };
                value.$view().map(Some).ok_or_else(|| GgufError::WrongType {
                    key: key.to_owned(),
                    wanted: $wanted,
                    found: value.type_name(),
                })
            }
        )*}
    };
}

accessors! {
    /// A string.
    str, opt_str, as_str -> &str, "a string";
    /// An integer from 0 to 2^32 - 1.
    u32, opt_u32, as_u32 -> u32, "an unsigned integer of 32 bits";
    /// A floating point number, narrowed to 32 bits.
    f32, opt_f32, as_f32 -> f32, "a number";
    /// A truth value.
    bool, opt_bool, as_bool -> bool, "a boolean";
    /// A list of strings.
    strings, opt_strings, as_strings -> &[String], "an array of strings";
    /// A list of unsigned integers of at most 32 bits.
    u32s, opt_u32s, as_u32s -> &[u32], "an array of unsigned integers";
    /// A list of signed integers of at most 32 bits.
    i32s, opt_i32s, as_i32s -> &[i32], "an array of signed integers";
    /// A list of floating point numbers of 32 bits.
    f32s, opt_f32s, as_f32s -> &[f32], "an array of numbers";
}

#[cfg(test)]
mod tests;
