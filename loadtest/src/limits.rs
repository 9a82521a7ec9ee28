//! Every bound of the driver, with its unit and reason. Knows no other module.

use std::time::Duration;

/// Longest line of an event stream, in bytes; a final chunk with log-probabilities stays far below.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// Longest event (all its `data:` lines joined), in bytes; same reason as the line.
pub const MAX_EVENT_BYTES: usize = 1 << 20;

/// Most bytes read of one answer; a server that never stops talking is cut off here.
pub const MAX_ANSWER_BYTES: u64 = 1 << 28;

/// Most content events of one answer; bounds the gaps kept until the request is folded in (4 bytes each).
pub const MAX_CONTENT_EVENTS: usize = 1 << 20;

/// Most bytes read of an error answer, from which only its code is taken.
pub const MAX_ERROR_BYTES: usize = 1 << 16;

/// Longest error code of a server that is repeated in a report, in bytes.
pub const MAX_CODE_BYTES: usize = 48;

/// Most different reasons kept for one class of failure; further ones are counted as "other".
pub const MAX_REASONS: usize = 32;

/// Most requests in flight; each holds a connection of some 20 KB and a file descriptor.
pub const MAX_IN_FLIGHT: usize = 16_384;

/// File descriptors left to everything but the connections.
pub const SPARE_FILES: u64 = 64;

/// Most arrivals of one schedule, which lies in memory before the run (8 bytes each).
pub const MAX_ARRIVALS: u64 = 20_000_000;

/// Highest rate, in requests per second; a clock of whole microseconds tells no more apart.
pub const MAX_RATE: f64 = 1_000_000.0;

/// Longest run, and longest time limit of one request; histograms end here too.
pub const MAX_DURATION: Duration = Duration::from_secs(24 * 3_600);

/// Arrivals that are due but not yet taken by the event loop; beyond it the dispatcher waits and the lag shows it.
pub const DISPATCH_QUEUE: usize = 4_096;

/// Largest synthetic prompt and largest answer asked for, in tokens.
pub const MAX_TOKENS: u32 = 1_000_000;

/// Most warm-up requests.
pub const MAX_WARMUP: u64 = 100_000;

/// Most warm-up requests in flight when the run itself is an open loop.
pub const WARMUP_USERS: usize = 8;

/// Most extra request headers from the command line.
pub const MAX_HEADERS: usize = 64;

/// Most worker threads of the event loop.
pub const MAX_THREADS: usize = 256;

/// Time between two looks at the number of requests in flight, and at the progress bar.
pub const WATCH_PERIOD: Duration = Duration::from_millis(5);

/// Client-bound beyond this send lag at the 99th percentile, in microseconds; tools of the field ask for 10 ms.
pub const LAG_P99_LIMIT_US: u64 = 10_000;

/// Client-bound beyond this share of the CPU time its worker threads could use; above it queues grow quickly.
pub const CPU_SHARE_LIMIT: f64 = 0.85;

/// Client-bound beyond this relative error of Little's law (plus the error of sampling).
pub const LITTLE_TOLERANCE: f64 = 0.05;

/// Fewest samples of the number in flight for Little's law to be checked.
pub const LITTLE_MIN_SAMPLES: u64 = 100;
