//! Every bound of this crate, each with its unit and reason (I6). Bounds that an operator may set are in the config.

/// Fields of one JSON object in a request; the largest request that is understood has about 50, and finding a
/// duplicate compares each with all before it.
pub const JSON_FIELDS_MAX: usize = 64;
/// Bytes of a value that is compared with the neutral values of its field; all of these are shorter, and nothing longer
/// is worth the memory of a parsed tree.
pub const JSON_NEUTRAL_BYTES_MAX: usize = 256;
/// Parts of one message's content; a part costs memory beyond its bytes, and clients send a handful.
pub const CONTENT_PARTS_MAX: usize = 256;
/// Bytes of a request body that is parsed on the event loop, about 200 us of work there; larger ones go to a blocking
/// pool, where a switch costs little beside the parsing.
pub const PARSE_INLINE_BYTES_MAX: usize = 128 << 10;
/// Large bodies that are parsed at once; more would only share the same cores and hold more memory.
pub const PARSE_LARGE_MAX: usize = 4;
/// Characters of a client's own words (a field's or a model's name) that an error repeats; enough to recognise it.
pub const ERROR_ECHO_CHARS_MAX: usize = 128;
/// Edits between an unknown field and the one that an error suggests; more would suggest at random.
pub const SUGGESTION_EDITS_MAX: usize = 2;
/// Bytes of an unknown field for which a suggestion is looked up; the work grows with its length.
pub const SUGGESTION_BYTES_MAX: usize = 64;
/// Bytes of events that are gathered into one write while an upstream has more ready; about one TLS record.
pub const SSE_WRITE_BYTES_MAX: usize = 16 << 10;
/// Bytes that a stream's buffer starts with: a few events, so that an idle stream stays small.
pub const SSE_BUFFER_BYTES: usize = 2 << 10;
/// Milliseconds between pings at least, whatever the config says: a period of zero would be a busy loop.
pub const PING_PERIOD_MS_MIN: u64 = 10;
/// Servers of ours that a request may have crossed before this one: edge, site, node, and one to spare.
pub const HOPS_MAX: u8 = 3;
