//! Every bound of this crate, each with its unit and reason.

/// Metadata keys of a GGUF file; real ones have 20 to 60.
pub const GGUF_KEYS_MAX: u64 = 4_096;
/// Tensors of a GGUF file; the largest models of experts have some thousands.
pub const GGUF_TENSORS_MAX: u64 = 65_536;
/// Bytes of one string in a GGUF header; the longest are chat templates, some tens of kilobytes.
pub const GGUF_STRING_BYTES_MAX: u64 = 1 << 20;
/// Elements of one array in a GGUF header; vocabularies have up to 262,144 tokens and twice as many merges.
pub const GGUF_ARRAY_LEN_MAX: u64 = 1 << 21;
/// Bytes of a whole GGUF header, so that a hostile file cannot fill memory; a vocabulary of 262,144 takes about 12 MB.
pub const GGUF_HEADER_BYTES_MAX: u64 = 128 << 20;
/// Dimensions of a tensor: ggml's own bound.
pub const GGUF_DIMS_MAX: u32 = 4;
/// Alignment in bytes of tensor data; files use 32.
pub const GGUF_ALIGNMENT_BYTES_MAX: u64 = 1 << 16;

/// Context positions that attention in plain operations gathers at once, padding included: 65,536 of 1,024 numbers are
/// 256 MB of keys and as much of values.
pub const ATTENTION_GATHER_POSITIONS_MAX: usize = 65_536;
