//! Every bound of this crate that no operator sets, each with its unit and reason (I6). What an operator sets is in the
//! config's `[server]` and `[limits]`.

mod accounts;
mod waiting;

use std::time::Duration;

pub use self::accounts::*;
pub use self::waiting::*;

/// Candidates of a server: models times upstreams. A number of 16 bits counts them, and each has some kilobytes.
pub const CANDIDATES_MAX: usize = 16_384;

/// Dispatches to one candidate that its figures do not show yet and that are counted one by one; those beyond it count
/// as a sum until the next figures.
pub const CREDITS_MAX: usize = 4096;

/// Bytes of a prompt that its first prefix hashes cover, each: some 250 tokens. Later ones cover more (`route/prefix.rs`).
pub const PREFIX_BLOCK_BYTES: usize = 1 << 10;

/// Blocks of one prompt that are hashed, a mebibyte of it: more costs time and decides nothing.
pub const PREFIX_BLOCKS_MAX: usize = 64;

/// Candidates in a decision's record.
pub const DECISION_BEST_MAX: usize = 8;

/// Requests whose decisions are kept; each takes about 2 kB.
pub const DECISIONS_MAX: usize = 4096;

/// Decisions kept of one request; it is tried, continued and hedged a few times at most.
pub const DECISIONS_PER_REQUEST_MAX: usize = 16;

/// Time that decisions are kept: long enough to ask why after a complaint.
pub const DECISIONS_KEPT: Duration = Duration::from_secs(600);

/// Events before an upstream's first content that are held back; a stop string holds back fewer tokens.
pub const EVENTS_HELD_MAX: usize = 1024;

/// Time between two readings of an upstream's figures, which decisions share.
pub const FIGURES_KEPT: Duration = Duration::from_millis(20);

/// Tokens of one request, and so of one choice, that can be continued elsewhere; their ids are kept and sent again.
pub const RESUME_TOKENS_MAX: usize = 65_536;

/// Headers of one request; more are refused with 431. Browsers and SDKs behind proxies send 20 to 40.
pub const HEADERS_MAX: usize = 100;

/// Bytes of the head of an HTTP/1 request or answer. Cookies and tokens of nested proxies reach 32 KiB.
pub const H1_HEAD_BYTES_MAX: usize = 64 << 10;

/// Bytes that an HTTP/1 connection buffers for reading or writing, a power of two. What is read at once stays in one piece,
/// so a long prompt needs no copy; a client that does not read holds no more than this before its stream pauses.
pub const H1_BUFFER_BYTES_MAX: usize = 128 << 10;

/// Bytes that are read of a new connection to tell which HTTP it speaks: most first requests are there whole.
pub const FIRST_READ_BYTES: usize = 4 << 10;

/// Headers of an answer, as many as hyper takes of a request.
pub const H1_HEADERS_MAX: usize = 100;

/// Bytes that are read at once from a connection over HTTP/1.1, on the stack: some dozen events that came together.
pub const H1_READ_BYTES: usize = 16 << 10;

/// Bytes for the head of a request that we send: most fit with their key and the headers of a trace.
pub const H1_REQUEST_HEAD_BYTES: usize = 512;

/// Bytes of extensions and trailers around the chunks of one answer; honest servers send none.
pub const CHUNK_EXTRAS_BYTES_MAX: usize = 16 << 10;

/// Bytes of a decoded HTTP/2 header list; as for HTTP/1.
pub const H2_HEADER_LIST_BYTES_MAX: u32 = 64 << 10;

/// HTTP/2 streams at once on a connection; a client with more opens a second connection.
pub const H2_STREAMS_MAX: u32 = 128;

/// Bytes that a client may send ahead on one HTTP/2 stream.
pub const H2_STREAM_WINDOW_BYTES: u32 = 64 << 10;

/// Bytes that a client may send ahead on an HTTP/2 connection: every stream's window at once, or one slow stream would
/// stall its neighbours.
pub const H2_CONNECTION_WINDOW_BYTES: u32 = H2_STREAMS_MAX * H2_STREAM_WINDOW_BYTES;

/// Bytes of answer held for a client that does not read its HTTP/2 stream.
pub const H2_SEND_BUFFER_BYTES_MAX: usize = 64 << 10;

/// HTTP/2 streams reset by the client before we took them; beyond it the connection is closed (rapid reset).
pub const H2_PENDING_RESETS_MAX: usize = 20;

/// Silence after which an HTTP/2 peer is asked whether it is still there.
pub const H2_PING_INTERVAL: Duration = Duration::from_secs(30);

/// Time for an HTTP/2 peer to answer that.
pub const H2_PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Silence of a client's connection after which its kernel is asked, again and again, whether it is still there. Models think
/// and requests wait for minutes, in which nothing else tells; a question is one small packet.
pub const CLIENT_KEEPALIVE: Duration = Duration::from_secs(15);

/// Times of `server.write_timeout_ms` after which a connection is given up whose client acknowledges nothing: those who watch
/// whether it reads come first, since a client that lives and has no room acknowledges nothing either.
pub const CLIENT_UNREAD_TIMES: u32 = 2;

/// Least of that time: some retransmissions on a wide line, however short clients may leave answers unread.
pub const CLIENT_UNACKNOWLEDGED_MIN: Duration = Duration::from_secs(5);

/// Time that a connection may stay open without a request; longer than the usual 60 s of balancers, so that they close
/// first and never send into a closing connection. HTTP/1 closes after the header timeout already.
pub const CONNECTION_IDLE_MAX: Duration = Duration::from_secs(75);

/// Time for a connection without a request to close in order before it is cut. Short, since an idle server must be gone
/// within a second of SIGTERM.
pub const CLOSE_LINGER: Duration = Duration::from_millis(400);

/// Time after the grace period in which final error events leave before everything is cut; the process promises to
/// be gone within a second of the grace period.
pub const FINAL_EVENTS: Duration = Duration::from_millis(600);

/// Pause after an accept failed for want of a resource: short enough to recover within a second of its return, long
/// enough not to spin.
pub const ACCEPT_BACKOFF: Duration = Duration::from_millis(200);

/// Connections at once on the admin listener: a scraper, a few probes and an operator.
pub const ADMIN_CONNECTIONS_MAX: u32 = 64;

/// Bytes read and thrown away of a body that was refused, so that a client which sends before it reads sees the answer
/// and not a reset connection. Nothing of it is kept in memory.
pub const REFUSED_BODY_BYTES_MAX: u64 = 64 << 20;

/// Time for doing so.
pub const REFUSED_BODY_TIME_MAX: Duration = Duration::from_secs(2);

/// Bytes of a request id that a client may choose; it is in every log line.
pub const REQUEST_ID_BYTES_MAX: usize = 128;

/// Prompts tokenised at once for one model. Tokenising is pure computation: more than a few only take turns, and the
/// kernels need the cores.
pub const TOKENISE_CONCURRENCY: usize = 4;

/// Requests that wait for the tokenizer of one model; beyond it the model is overloaded. Each holds its body.
pub const TOKENISE_QUEUE_MAX: usize = 1024;

/// Grammars compiled at once for one model; each may take a core for 100 ms.
pub const COMPILE_CONCURRENCY: usize = 2;

/// Requests that wait for a grammar to be compiled for one model; beyond it the model is overloaded.
pub const COMPILE_QUEUE_MAX: usize = 256;

/// Words of one `choice`; they make one grammar.
pub const CHOICE_WORDS_MAX: usize = 256;

/// Bytes of another server's answer with vectors: as many texts as may be, each with some thousand numbers in words.
pub const EMBED_ANSWER_BYTES_MAX: usize = 128 << 20;

/// Numbers of one vector of another server; the longest in use have 8,192.
pub const EMBED_LENGTH_MAX: usize = 65_536;

/// Texts of one request for vectors; OpenAI's own bound, and the engine's.
pub const EMBED_INPUTS_MAX: usize = 2048;

/// Models that one process serves, those added while it runs included; as many as a config lists.
pub const MODELS_MAX: usize = hansa_config::limits::MODELS_MAX;

/// Workers of the network runtime. The engine has threads of its own and needs the cores more.
pub const WORKERS_MAX: usize = 4;

/// Threads for blocking work: tokenising, and loading models when the server starts.
pub const BLOCKING_THREADS_MAX: usize = 16;

/// Time between two moves of recorded latencies into their histograms; they pile up in memory until then.
pub const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// Fields of one JSON object in a request; the largest request that is understood has about 50, and finding a
/// duplicate compares each with all before it.
pub const JSON_FIELDS_MAX: usize = 64;

/// Token ids that end a choice; as many as the engine takes.
pub const STOP_TOKENS_MAX: usize = 256;

/// Tokens in one `logit_bias`; OpenAI's own bound.
pub const LOGIT_BIAS_MAX: usize = 300;

/// Largest shift of a logit; OpenAI's own bound.
pub const LOGIT_BIAS_ABS_MAX: f32 = 100.0;

/// Largest frequency or presence penalty; OpenAI's own bound.
pub const PENALTY_ABS_MAX: f32 = 2.0;

/// Largest repetition penalty, and the inverse of the smallest; as the engine has it.
pub const REPETITION_PENALTY_MAX: f32 = 100.0;

/// Tokens in `top_logprobs`; OpenAI's own bound.
pub const TOP_LOGPROBS_MAX: u32 = 20;

/// Bytes of a value that is compared with the neutral values of its field; all of these are shorter, and nothing longer
/// is worth the memory of a parsed tree.
pub const JSON_NEUTRAL_BYTES_MAX: usize = 256;

/// Parts of one message's content; a part costs memory beyond its bytes, and clients send a handful.
pub const CONTENT_PARTS_MAX: usize = 256;

/// Functions in `tools`; OpenAI's own bound.
pub const TOOLS_MAX: usize = 128;

/// Bytes of all `tools` as they were written; as much as the engine takes of their schemas. Large agents send a third.
pub const TOOLS_BYTES_MAX: usize = 256 << 10;

/// Characters of a function's name; OpenAI's own bound.
pub const TOOL_NAME_CHARS_MAX: usize = 64;

/// Calls in one message that a client sends back; models make a handful.
pub const MESSAGE_CALLS_MAX: usize = 128;

/// Bytes of a call in a model's text that are held back until it is whole; a function that writes a file takes some
/// hundred thousand, and each choice may hold so many.
pub const CALL_BYTES_MAX: usize = 1 << 20;

/// Space before a call that is held back with it; templates have a line or two.
pub const CALL_SPACE_MAX: usize = 256;

/// Bytes of a request body that is parsed on the event loop, about 200 us of work there; larger ones go to a blocking
/// pool, where a switch costs little beside the parsing.
pub const PARSE_INLINE_BYTES_MAX: usize = 128 << 10;

/// Bytes of a body that is copied out of what its connection has read: half of what that holds at least.
pub const BODY_COPIED_BYTES_MAX: usize = 4 << 10;

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
pub const SSE_BUFFER_BYTES: usize = 1 << 10;

/// Milliseconds between pings at least, whatever the config says: a period of zero would be a busy loop.
pub const PING_PERIOD_MS_MIN: u64 = 10;

/// Servers of ours that a request may have crossed before this one: edge, site, node, and one to spare.
pub const HOPS_MAX: u8 = 3;

/// HTTP/2 connections to one server of ours; with [`LINK_STREAMS_MAX`] each, more than it takes at once.
pub const LINK_CONNECTIONS_MAX: usize = 32;

/// Requests on one HTTP/2 connection to a server of ours; below the [`H2_STREAMS_MAX`] that it takes, or the rest would
/// wait unseen.
pub const LINK_STREAMS_MAX: u32 = 100;

/// Requests at once to a server of another make; each has a connection of its own.
pub const LINK_HTTP1_MAX: u32 = 1024;

/// Connections without a request that are kept to such a server.
pub const LINK_HTTP1_IDLE_MAX: usize = 64;

/// Time that a connection to an upstream is kept without a request: under the minute that servers and middlemen usually
/// give it, so that we close first.
pub const LINK_IDLE: Duration = Duration::from_secs(50);

/// Bytes of one piece of a request's body that is written from where it lies; less is copied, which costs less than one
/// more entry in a list of pieces.
pub const PIECE_BYTES_MIN: usize = 4 << 10;

/// Tokens of an answer that is asked for in one piece where its client wants it so. Even a slow server makes as many in a
/// fraction of the time that it has for a first byte, and where the client leaves meanwhile, and nobody can tell how many
/// were made, no more than these are charged. More are streamed: only a stream shows that a server died.
pub const WHOLE_TOKENS_MAX: u32 = 512;

/// Bytes of such an answer: the longest tokens, each character of them an escape, in as many calls of functions as fit.
pub const WHOLE_ANSWER_BYTES_MAX: usize = 1 << 20;

/// Time in which at least one answer of a group of servers is streamed, of those that could come in one piece.
pub const STREAMED_PERIOD: Duration = Duration::from_secs(1);

/// Bytes of a chunk that are remembered beside its text; some hundreds are usual.
pub const TEMPLATE_BYTES_MAX: usize = 4 << 10;

/// Silence of a connection after which a server of ours is asked whether it is still there. One whose stream of status is
/// silent too is known sooner ([`STATUS_SILENT`]).
pub const LINK_PING_INTERVAL: Duration = Duration::from_secs(2);

/// Time for a server of ours to answer that: three lost packets in a row on a wide line.
pub const LINK_PING_TIMEOUT: Duration = Duration::from_secs(3);

/// Time after which a connection to a server of ours is given up whose bytes nobody acknowledges: as long as a ping has, which
/// is not asked for while the server speaks. A path that swallows large packets, as tunnels do that tell nobody of their
/// size, takes our requests and lets its words through.
pub const LINK_UNACKNOWLEDGED: Duration = Duration::from_secs(5);

/// Silence of a connection to a server of another make after which its kernel is asked, again and again, whether it is still
/// there, and after which it is given up. It may think for long before it says anything; its kernel answers at once, and
/// acknowledges what it does not read as long as there is room.
pub const LINK_KEEPALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(15));

/// Bytes of one event of an upstream's stream: log-probabilities of a few hundred tokens fit, and an upstream that never
/// ends a line holds no more than this.
pub const EVENT_BYTES_MAX: usize = 1 << 20;

/// Bytes of an echoed prompt in one event, log-probabilities included: a long context of them all takes some tens of mebibytes.
pub const ECHO_EVENT_BYTES_MAX: usize = 64 << 20;

/// Bytes of one answer of an upstream: the longest contexts with log-probabilities stay below it.
pub const ANSWER_BYTES_MAX: u64 = 1 << 30;

/// Bytes of an upstream's error answer that are read; an error object takes some hundreds.
pub const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// Characters of an upstream's words that a client is told.
pub const REFUSAL_CHARS_MAX: usize = 2_000;

/// Milliseconds of a deadline that travels; a week is beyond every request.
pub const DEADLINE_MS_MAX: u64 = 7 * 24 * 3_600_000;

/// Time between two questions whether a server of another make is there.
pub const PROBE_PERIOD: Duration = Duration::from_secs(5);

/// The same for one that is not.
pub const PROBE_RETRY: Duration = Duration::from_secs(1);

/// Instances behind one section of the config.
pub const INSTANCES_MAX: usize = 1024;

/// Time between two look-ups of a name; name servers of clusters answer with what is true for about as long.
pub const DISCOVER_DNS_PERIOD: Duration = Duration::from_secs(10);

/// Time between two looks at a file of addresses.
pub const DISCOVER_FILE_PERIOD: Duration = Duration::from_secs(1);

/// Bytes of a file of addresses that are read: [`INSTANCES_MAX`] lines with comments.
pub const DISCOVER_FILE_BYTES_MAX: u64 = 256 << 10;

/// Bytes of one report of status: 1,024 models with their digests.
pub const STATUS_BYTES_MAX: usize = 4 << 20;

/// Models of one report that are kept.
pub const STATUS_MODELS_MAX: usize = 1024;

/// Parts of one model that are told and kept, each the capacity of a site: thrice the factories of Europe.
pub const STATUS_PARTS_MAX: usize = 64;

/// Servers of one part that are named: the nodes of a large site. Those beyond are counted, and may be counted twice where
/// two gateways stand in front of them.
pub const STATUS_SERVERS_MAX: usize = 1024;

/// Digests of one model that are kept: one a node at worst.
pub const STATUS_NUMERICS_MAX: usize = 1024;

/// Bytes of a digest.
pub const STATUS_NUMERICS_BYTES_MAX: usize = 128;

/// Most sequences, and tokens in thousands, that a report may claim of one model.
pub const STATUS_COUNT_MAX: u32 = 10_000_000;

/// Most tokens a second that a report may claim of one model.
pub const STATUS_RATE_MAX: f64 = 1e9;

/// Bytes of a header of ours that carries text: a tenant, a purpose, a list of sites.
pub const CLAIM_BYTES_MAX: usize = 4096;

/// Sites in one list.
pub const CLAIM_SITES_MAX: usize = 256;

/// Bytes of a call between peers that is no request of a client.
pub const PEER_CALL_BYTES_MAX: u64 = 16 << 10;

/// Bytes of the id of a tenant, key or allocation; it stands in every record.
pub const NAME_BYTES_MAX: usize = 128;

/// Names in one list of a tenant or key, as in the config.
pub const NAMES_MAX: usize = 256;

/// Bytes of a purpose that a client names; it stands in every record.
pub const PURPOSE_BYTES_MAX: usize = 64;

/// Time in which an upstream must tell what a cancelled request used; then it is charged with all that it had reserved.
/// Longer than the longest step.
pub const USAGE_DRAIN_MAX: Duration = Duration::from_secs(30);

/// Time for which usage of a request that is over is kept for whoever asks, and asked for: a gateway restarts, or a wide
/// line comes back, in less. Until then what was reserved stays reserved.
pub const USAGE_KEPT: Duration = Duration::from_secs(600);

/// Requests whose usage is kept, of those that were told it and of those that were not each; some 500 bytes of each.
pub const USAGE_KEPT_MAX: usize = 8_192;

/// Lives of gateways whose usage is asked for at once, where many ended lately.
pub const USAGE_RUNS_MAX: usize = 64;

/// First and longest wait before usage is asked for again: at once after a short break, rarely while a server is away.
pub const USAGE_ASK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(15));

/// Time after a charge was settled until its usage need not be kept any more: by then its record is on the disk.
pub const ACKNOWLEDGE_AFTER: Duration = Duration::from_secs(2);

/// Time between two looks at counters of energy and at the grid's file: the counters of large machines begin anew after
/// a minute or so.
pub const ENERGY_PERIOD: Duration = Duration::from_secs(1);

/// Zones of a processor's counters that are looked at; the largest machines have some tens.
pub const RAPL_ZONES_MAX: usize = 256;

/// Accelerator cards whose energy is read; a machine has 16 at most today.
pub const ENERGY_CARDS_MAX: u32 = 64;

/// Bytes of a file that holds one number.
pub const SMALL_FILE_BYTES_MAX: u64 = 4_096;

/// Requests in one page of usage.
pub const USAGE_PAGE_MAX: usize = 1_024;

/// Bytes of such a page, or of the ids of one.
pub const USAGE_ANSWER_BYTES_MAX: usize = 4 << 20;

/// Time after which a request that should stop is cancelled once more.
pub const CANCEL_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Bytes of a client's request id that an upstream is told; its own end makes it unique.
pub const UPSTREAM_ID_BYTES_MAX: usize = 96;

/// Bytes of a body of the admin API: a tenant with every list full.
pub const ADMIN_BODY_BYTES_MAX: u64 = 256 << 10;

/// Entries of one page of the admin API.
pub const ADMIN_PAGE_MAX: usize = 10_000;

/// Seconds for which both keys of a rotation work where nobody says otherwise: a day to hand out the new one.
pub const KEY_OVERLAP_S: u32 = 86_400;

/// Bytes of an answer that `hansa key` reads: a page of keys.
pub const ADMIN_ANSWER_BYTES_MAX: usize = 16 << 20;

/// Time for the admin API to answer `hansa key`.
pub const ADMIN_ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// Connections that servers opened and that were turned around, at one gateway or agent: [`INSTANCES_MAX`] servers with four.
pub const TURNED_MAX: usize = 4 * INSTANCES_MAX;

/// Time for a call to be answered and turned around, TLS and an agent in between included.
pub const DIAL_TIME: Duration = Duration::from_secs(10);

/// First and longest wait before a gateway is called again.
pub const DIAL_RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(20));

/// Bytes that an agent holds of one direction of a connection; ends hold back by their own windows.
pub const RELAY_BUFFER_BYTES: usize = 64 << 10;

/// Time for a command of Slurm; a busy controller takes some seconds.
pub const SLURM_TIME: Duration = Duration::from_secs(30);

/// Bytes of what a command of Slurm prints: [`JOBS_SEEN_MAX`] lines of a job.
pub const SLURM_OUTPUT_BYTES_MAX: u64 = 4 << 20;

/// Characters of a complaint of Slurm that are logged.
pub const SLURM_COMPLAINT_CHARS_MAX: usize = 500;

/// Jobs of one picture; a user with more has other troubles.
pub const JOBS_SEEN_MAX: usize = 16_384;

/// Jobs of one replica at once: the one that serves, the next one, and those that leave.
pub const CHAIN_JOBS_MAX: usize = 8;

/// Pictures without a job after which it is taken for gone: one may be that of a controller that has just started.
pub const JOB_MISSED_MAX: u32 = 2;

/// First and longest wait after a job that failed.
pub const JOB_RETRY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));

/// Time beyond its grace in which a job that was told to finish should be gone: Slurm's own time to kill is 30 s.
pub const JOB_SETTLE: Duration = Duration::from_secs(60);

/// Time by which Slurm may tell a job to finish too early (sbatch(1), `--signal`).
pub const SIGNAL_EARLY: Duration = Duration::from_secs(60);

/// Load times, and waits in line, from which the next ones are foreseen.
pub const LEADS_KEPT: usize = 8;

/// Commands for one replica in one round; what is left comes in the next.
pub const COMMANDS_PER_ROUND_MAX: usize = 8;
