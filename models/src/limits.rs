//! Every bound of this crate, each with its unit and reason.

// Chat templates.

/// 256 KiB; the longest published templates, with tools and reasoning, have about 30 kB.
pub const TEMPLATE_BYTES_MAX: usize = 256 * 1024; // bytes
/// Fuel of one render: an instruction costs 1 and so do 64 bytes of data. 10,000 messages of the longest templates fit;
/// an endless loop ends within about 0.2 s and 128 MB.
pub const TEMPLATE_FUEL: u64 = 2_000_000; // minijinja's fuel
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
