//! What can be wrong with a GGUF file, said so that its owner can act on it.

use std::io;
use std::path::PathBuf;

/// Why a GGUF file was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file could not be opened.
    #[error("{} could not be opened: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file could not be read.
    #[error("the GGUF file could not be read: {0}")]
    Read(#[source] io::Error),
    /// The first bytes are not those of a GGUF file.
    #[error("this is not a GGUF file (it does not begin with `GGUF`)")]
    NotGguf,
    /// A version that we do not read.
    #[error(
        "GGUF version {0} is not supported, only 2 and 3 in little endian; convert the file again"
    )]
    Version(u32),
    /// The file ends before what its header promises.
    #[error("the GGUF file is cut short in {what}; fetch it again")]
    Truncated {
        /// What was being read.
        what: String,
    },
    /// A length is beyond its bound.
    #[error("{what} is {value}, more than the {max} that are accepted")]
    TooLarge {
        /// Which length.
        what: String,
        /// What the file says.
        value: u64,
        /// The bound.
        max: u64,
    },
    /// A field holds what it must not.
    #[error("{what} is malformed: {why}")]
    Malformed {
        /// Which field.
        what: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Two keys or two tensors share a name.
    #[error("{what} appears twice")]
    Duplicate {
        /// The key or tensor.
        what: String,
    },
    /// A tensor of a quantisation that we have no kernel for.
    #[error(
        "tensor `{tensor}` is of type {type_name}, which is not supported; use a file in Q4_1, Q8_0, Q4_K_M or F16"
    )]
    UnsupportedType {
        /// The tensor.
        tensor: String,
        /// Its type as ggml names it.
        type_name: String,
    },
    /// A tensor's bytes are not all in the file.
    #[error("the data of tensor `{tensor}` lies outside the file; it is cut short, fetch it again")]
    TensorRange {
        /// The tensor.
        tensor: String,
    },
    /// A metadata key that is needed is not there.
    #[error("the GGUF metadata has no key `{key}`")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A metadata key holds another type than needed.
    #[error("the GGUF metadata key `{key}` holds {found}, not {wanted}")]
    WrongType {
        /// The key.
        key: String,
        /// What was asked for.
        wanted: &'static str,
        /// What is there.
        found: &'static str,
    },
}
