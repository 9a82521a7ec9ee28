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

/// Good requests that the live view's percentiles are of: enough for a 99th.
pub const RECENT: usize = 1_000;

/// Points of the live view's sparklines, one a display: some 15 s at 5 a second.
pub const SPARKS: usize = 80;

/// Sites that the live view has room for; the others are in the report.
pub const LIVE_SITES: usize = 20;

/// Time between two looks at how late the event loop is; a tokio timer tells no less than 1 ms.
pub const STALL_PERIOD: Duration = Duration::from_millis(10);

/// Client-bound beyond this stall of the event loop at the 99th percentile, in microseconds: as much as a late send.
pub const STALL_P99_LIMIT_US: u64 = 10_000;

/// Largest metrics page of a server, in bytes; those of the field have some 100 KB.
pub const MAX_METRICS_BYTES: usize = 1 << 24;

/// Most series of a metrics page that are kept, some 10 KB each at the end of a long run.
pub const MAX_SERIES: usize = 1_024;

/// Most points of a series; then every second one is forgotten and looks come half as often.
pub const MAX_SCRAPES: usize = 600;

/// Most series drawn in one chart: beyond it nobody tells lines apart.
pub const MAX_DRAWN_SERIES: usize = 40;

/// Most probe requests per second: they are to feel the load, not to be one.
pub const MAX_PROBE_RATE: f64 = 100.0;

/// Probe requests before the load begins, one after the other: what they are like alone.
pub const PROBES_ALONE: u64 = 10;

/// Longest time of probe requests where the run itself has no limit of time; an hour of 100 a second is 3 MB.
pub const PROBES_LONGEST: Duration = Duration::from_secs(3_600);

/// Most requests that a sample of a run keeps, each with its line.
pub const MAX_RAW_SAMPLE: u64 = 1_000_000;

/// Most draws of a cut or rejecting distribution before its nearest value is taken.
pub const MAX_REDRAWS: u32 = 1_000;

/// Most bytes of an answer's text that a chat goes on from.
pub const MAX_KEPT_BYTES: usize = 1 << 22;

/// Most tool calls of one answer.
pub const MAX_CALLS: usize = 64;

/// Most bytes of an answer with vectors: 2,048 texts of 1,536 numbers at some 20 bytes each.
pub const MAX_VECTORS_BYTES: usize = 1 << 26;

/// Most texts of one request for vectors, as OpenAI's service takes.
pub const MAX_TEXTS: u32 = 2_048;

/// Longest name of a site that is taken from a response header, in bytes.
pub const MAX_SITE_BYTES: usize = 64;

/// Most problems of one file that are shown; further ones are counted.
pub const MAX_PROBLEMS: usize = 100;

/// Longest part of a file that a message quotes, in characters.
pub const MAX_QUOTE_CHARS: usize = 60;

/// Most bytes read of a recorded load in CSV; the largest in the field have some 300 MB.
pub const MAX_TRACE_BYTES: u64 = 1 << 33;

/// Longest line of a recorded load in JSON lines, in bytes; room for a prompt of a million tokens.
pub const MAX_TRACE_LINE_BYTES: u64 = 1 << 24;

/// Largest file of conversations, in bytes, which is read whole; ShareGPT's have some 700 MB.
pub const MAX_SHAREGPT_BYTES: u64 = 1 << 31;

/// Latest time in a recorded load, in seconds (some 3,000 years): beyond it, doubles tell no nanoseconds apart.
pub const MAX_TRACE_SECONDS: f64 = 1e11;

/// Largest scenario file, in bytes; a mix of a thousand tenants has some 100 KB.
pub const MAX_SCENARIO_BYTES: u64 = 1 << 22;

/// Most entries of one array of tables in a scenario.
pub const MAX_SECTIONS: usize = 1_024;

/// Most different shared prefixes; their text is made anew for every request.
pub const MAX_PREFIXES: u32 = 1_000_000;

/// Most turns of a session, each of which sends all before it again.
pub const MAX_TURNS: u32 = 1_000;

/// Latest content event after which a client goes away; the bound of an answer's events.
pub const MAX_ABORT_EVENTS: u32 = 1 << 20;

/// Longest mean pause of a user, in seconds: a run lasts no longer than a day.
pub const MAX_THINK_SECONDS: f64 = 86_400.0;

/// Most objectives of one run; each is looked at for every request.
pub const MAX_OBJECTIVES: usize = 64;

/// Most groups told apart in one dimension (sites, models, tenants, stages), each with some 700 KB of histograms;
/// further ones are counted as "other".
pub const MAX_GROUPS: usize = 64;

/// Bytes of raw records gathered before they are written, so that the event loop seldom waits for a disk.
pub const RAW_BUFFER_BYTES: usize = 1 << 20;

/// Rows of a group of a Parquet file, which lie in memory until they are written: some 2 MB, and a few milliseconds of
/// the event loop's time.
pub const PARQUET_ROWS: usize = 2_048;

/// Longest line of a raw file, in bytes: the gaps of the longest answer, at some ten bytes each.
pub const MAX_RAW_LINE_BYTES: u64 = 1 << 24;

/// Most requests of a run that is compared, some 300 bytes and its gaps each.
pub const MAX_COMPARED: usize = 5_000_000;

/// Fewest and most times that runs are drawn again for an interval; 200 fix its ends to about a twentieth of its width.
pub const BOOTSTRAP_ROUNDS: std::ops::RangeInclusive<usize> = 200..=1_000;

/// Requests drawn for one interval, within the bounds of rounds: about a second.
pub const BOOTSTRAP_DRAWS: usize = 10_000_000;

/// Fewest requests beyond a percentile for its change to be told.
pub const MIN_TAIL: f64 = 5.0;

/// Most intervals of a run's timeline: as many as a chart shows without noise.
pub const TIMELINE_BINS: usize = 120;

/// Most probes of a search; from a thousandth of the answer to 1 % of it takes some 20.
pub const MAX_PROBES: usize = 60;

/// Lowest rate of a search, in requests per second: one request an hour or so.
pub const MIN_RATE: f64 = 0.000_3;

/// Most faults of one plan, and most at work on one target at a time; each is looked at for every piece of bytes.
pub const MAX_FAULTS: usize = 64;

/// Most mock sites and proxies of one scenario; each has a listener.
pub const MAX_TARGETS: usize = 64;

/// Most connections that one proxy or mock carries; further ones wait in the kernel. Two descriptors each.
pub const MAX_CARRIED: usize = 4_096;

/// Bytes on their way in one direction of a proxied connection; beyond it the sender is not read, as in a full network.
/// Room for 100 ms at 10 MB/s.
pub const FLOW_BUFFER_BYTES: usize = 1 << 20;

/// Bytes read at once from a proxied connection.
pub const FLOW_PIECE_BYTES: usize = 16 << 10;

/// Bytes of an answer's beginning that slow headers slow down at most: the heads of servers have some 300.
pub const SLOW_HEAD_BYTES: usize = 1_024;

/// Longest text that a proxy looks out for, in bytes; so many are kept from one piece to the next.
pub const MAX_MARKER_BYTES: usize = 256;

/// How long a proxy tries to get back the port that it gave up.
pub const REBIND_WITHIN: Duration = Duration::from_secs(5);

/// Pause between two tries to get it back.
pub const REBIND_PAUSE: Duration = Duration::from_millis(20);

/// Bytes of a request that are read and thrown away when it is answered with an error, so that the answer arrives.
pub const REFUSED_BYTES: usize = 4 << 20;

/// How long a connection that only answers errors may take to end once there are none to answer any more.
pub const ERRORS_LINGER: Duration = Duration::from_secs(1);

/// Largest request of a mock site, in bytes.
pub const MOCK_BODY_BYTES: usize = 4 << 20;

/// Most requests at work in a mock site.
pub const MOCK_SLOTS: u32 = 65_536;

/// Most requests that wait for a slot of a mock site.
pub const MOCK_QUEUE: u32 = 1_000_000;

/// Tokens of an answer where the request names no number, as in the API's older endpoint.
pub const MOCK_TOKENS: u32 = 16;

/// Bytes of an answer that an abusive client looks at.
pub const ABUSE_ANSWER_BYTES: usize = 16 << 10;

/// Time within which others must be answered while a server is abused.
pub const ABUSE_OTHERS_WITHIN: Duration = Duration::from_secs(2);

/// Pause between two requests of the well-behaved client.
pub const ABUSE_WITNESS_PAUSE: Duration = Duration::from_millis(200);

/// Pause between two bytes of a slow client: quick enough that no timer for idle connections helps.
pub const ABUSE_BYTE_PAUSE: Duration = Duration::from_millis(500);

/// How long a slow reader reads nothing.
pub const ABUSE_READER_PAUSE: Duration = Duration::from_secs(5);

/// Tokens of a stream that is not read or not read to its end, some 500 KB as events.
pub const ABUSE_READER_TOKENS: u32 = 2_000;

/// Receive buffer of a slow reader, in bytes, as small as systems allow.
pub const ABUSE_READER_BUFFER: u32 = 4 << 10;

/// Requests of a flood for each connection of the other abuses.
pub const ABUSE_FLOOD_FACTOR: usize = 4;

/// Most connections of one abuse, times the factor of a flood: a machine has 65,536 ports.
pub const ABUSE_CONNECTIONS: u64 = 4_096;

/// Bytes of an oversized body.
pub const ABUSE_BODY_BYTES: usize = 64 << 20;

/// Bytes of an oversized header.
pub const ABUSE_HEADER_BYTES: usize = 1 << 20;

/// Headers of a request with too many.
pub const ABUSE_HEADERS: usize = 10_000;

/// Depth of a JSON that is too deep.
pub const ABUSE_DEPTH: usize = 100_000;

/// Most nodes of a simulation; each holds some kilobytes, and a router has places for as many candidates.
pub const MAX_SIM_NODES: usize = 16_384;

/// Most requests of a simulation: some hours of computing.
pub const MAX_SIM_REQUESTS: u64 = 1_000_000_000;

/// Fewest good requests that a simulated machine is fitted to: four figures need some evidence each.
pub const MIN_FITTED: usize = 50;

/// Most requests that a simulated machine is fitted to: each pair of them is looked at.
pub const MAX_FITTED: usize = 20_000;

/// Time between two words on how far a simulation is.
pub const SIM_PROGRESS_PERIOD: Duration = Duration::from_secs(10);
