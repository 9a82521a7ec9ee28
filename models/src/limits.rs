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

// Sizes of a model, of which lists are made before a tensor is looked at.

/// Layers of a model; the deepest published ones have under 200.
pub const LAYERS_MAX: u32 = 4_096;
/// Numbers in a head; published models have up to 512.
pub const HEAD_DIM_MAX: usize = 16_384;

// Folders.

/// Bytes of one JSON file of a model folder, `tokenizer.json` the largest: 33 MB for 262,144 tokens.
pub const FOLDER_JSON_BYTES_MAX: u64 = 128 << 20;
/// Files that an index names; the largest published models have some 200.
pub const FOLDER_FILES_MAX: usize = 1_024; // files
/// Bytes of a safetensors header: 60,000 tensors in one file; a hostile one is read within 100 ms.
pub const SAFETENSORS_HEADER_BYTES_MAX: u64 = 8 << 20;

/// Context positions that attention in plain operations gathers at once, padding included: 65,536 of 1,024 numbers are
/// 256 MB of keys and as much of values.
pub const ATTENTION_GATHER_POSITIONS_MAX: usize = 65_536;

// Chat templates.

/// 256 KiB; the longest published templates, with tools and reasoning, have about 30 kB.
pub const TEMPLATE_BYTES_MAX: usize = 256 * 1024; // bytes
/// Fuel of one render: an instruction costs 1 and so do 64 bytes of data. Some thousand messages and 4 MiB of text
/// fit; an endless loop ends within about 0.1 s and 64 MB.
pub const TEMPLATE_FUEL: u64 = 1_000_000; // minijinja's fuel
/// Stack of a render whose values may nest: a level costs at least 6 fuel to build and under 1 kB of stack to visit.
/// Only what is touched becomes memory.
pub const TEMPLATE_STACK_BYTES: usize = 256 * 1024 * 1024; // bytes
/// Nested loops, macros and calls: deeper than any template, and shallow enough for the 2 MiB stack of a pool thread.
pub const TEMPLATE_DEPTH_MAX: usize = 100; // frames
/// Columns that `tojson(indent=..)` may indent by; templates use 2 and 4.
pub const TEMPLATE_INDENT_MAX: usize = 16; // columns
/// A prompt's text: as much as is tokenised.
pub const CHAT_PROMPT_BYTES_MAX: usize = TEXT_BYTES_MAX; // bytes
/// A refusal written by a template goes into an error body: a sentence, no document.
pub const TEMPLATE_ERROR_CHARS_MAX: usize = 300; // characters

// Tokenizer.

/// 4 MiB of text is about a million tokens, more than any context here; it also keeps regular expressions within the
/// backtracking that their engine allows.
pub const TEXT_BYTES_MAX: usize = 4 * 1024 * 1024; // bytes
/// Largest vocabulary: published ones end at 262,144.
pub const VOCAB_TOKENS_MAX: usize = 1 << 20; // tokens
/// Control and user-defined tokens together; each is searched for in every text. Published vocabularies have up to 6,500.
pub const SPECIAL_TOKENS_MAX: usize = 8_192; // tokens

// Sources of model files.

/// How often a running download is looked at: smooth for the eye, nothing for the CPU.
pub const FETCH_POLL_MS: u64 = 100; // milliseconds
/// Two hours of polls: the slowest line that is worth waiting for, so that a stuck pip does not hold a start for ever.
pub const FETCH_POLLS_MAX: u32 = 72_000; // polls
/// Files of a running download whose sizes are summed for the progress bar; pip makes three.
pub const FETCH_FILES_WATCHED_MAX: usize = 100; // files a folder
/// The end of pip's log in which its last word is looked for.
pub const PIP_LOG_BYTES_READ: usize = 16 * 1024; // bytes
/// Foreign words inside one of our error lines.
pub const SOURCE_ERROR_CHARS_MAX: usize = 300; // characters
/// One component of a name that becomes a file name: what common file systems allow, less our prefixes.
pub const FILE_NAME_BYTES_MAX: usize = 128; // bytes
/// Components of a file's path inside a hub repository.
pub const HUB_PATH_COMPONENTS_MAX: usize = 8; // components
/// Pieces in which files are copied and hashed: large against a system call, small against a cache.
pub const COPY_BUFFER_BYTES: usize = 256 * 1024; // bytes
/// Tries again after a broken line, each of which goes on where the last one ended.
pub const HUB_RETRIES: usize = 3; // tries
