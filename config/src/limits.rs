//! Every bound of this crate, each with its unit and reason: first of the file itself, then of what
//! its keys may say.
//!
//! The ranges only refuse what cannot be meant; what a machine can bear is for the operator to
//! judge.

use crate::units::Range;

/// Bytes of a config file: the largest sites list some thousands of nodes and keys.
pub const FILE_BYTES_MAX: usize = 1 << 20;
/// Problems that are kept for the report, so that the wrong file given by mistake does not fill the
/// screen.
pub const PROBLEMS_MAX: usize = 100;
/// Characters of the file that a message repeats, so that one line of it stays one line.
pub const QUOTE_CHARS_MAX: usize = 60;
/// Models of one process: each has its own KV cache and queue.
pub const MODELS_MAX: usize = 64;
/// Tenants of one config; a federation keeps its thousands in the ledger.
pub const TENANTS_MAX: usize = 10_000;
/// Keys of one config; as tenants.
pub const KEYS_MAX: usize = 10_000;
/// Allocations of one config, several for each tenant.
pub const ALLOCATIONS_MAX: usize = 50_000;
/// Prices of one config: each model at each site.
pub const PRICES_MAX: usize = 2_048;
/// Bounds of models and sites of one config.
pub const RATES_MAX: usize = 1_024;
/// Identity providers of one config; a federation has one, and perhaps one for guests.
pub const ISSUERS_MAX: usize = 16;
/// Claims of one config: several for each tenant.
pub const CLAIMS_MAX: usize = 50_000;
/// Names in one list of a tenant or key: more than there are countries, sites or models to allow.
pub const NAMES_MAX: usize = 256;
/// Bytes of a model's id: it stands in every request, answer and metric.
pub const ID_BYTES_MAX: usize = 128;
/// Nodes, and sites, of one process: the largest AI factories put some hundreds of nodes behind one gateway.
pub const UPSTREAMS_MAX: usize = 1_024;
/// Models that one upstream may list: as many as one of our servers may hold.
pub const UPSTREAM_MODELS_MAX: usize = MODELS_MAX;
/// Fields that are passed on unread: an engine has some tens of its own.
pub const PASS_FIELDS_MAX: usize = 64;
/// Bytes of an upstream's URL: a name of DNS has at most 253.
pub const URL_BYTES_MAX: usize = 1_024;
/// Bytes of a secret: API keys that are signed tokens reach some kilobytes.
pub const SECRET_BYTES_MAX: usize = 4_096;
/// Kinds of jobs of one agent: a gateway has some tens of models.
pub const JOBS_MAX: usize = 64;
/// Lines of shell, or options of sbatch, of one job.
pub const JOB_LINES_MAX: usize = 64;
/// Bytes of one of them.
pub const JOB_LINE_BYTES_MAX: usize = 256;
/// Names of one list of allowed countries or sites: there are some 250 countries.
pub const ALLOW_LIST_MAX: usize = 256;
/// Bytes of a model's source: a path is at most this long on Linux.
pub const SOURCE_BYTES_MAX: usize = 4_096;
/// Largest ordinal of a CUDA device: twice the GPUs of the largest machines sold as one.
pub const CUDA_ORDINAL_MAX: u32 = 63;

/// Of energies of a token: the largest models take some joules.
pub const MILLIJOULES: Range = Range::new(1, 1_000_000, "millijoules");
/// Of `energy.watts`: a rack of accelerators.
pub const WATTS: Range = Range::new(1, 1_000_000, "watts");
/// Of `energy.pue_percent`: no building takes less than its machines.
pub const PUE_PERCENT: Range = Range::new(100, 1_000, "percent");
/// Of carbon of electricity: the dirtiest plants emit some 1,200.
pub const GRAMS_PER_KWH: Range = Range::new(0, 5_000, "grams");
/// Of `energy.grid_keep_s`: after a week no figure of a grid says anything.
pub const GRID_KEEP_S: Range = Range::new(1, 7 * 86_400, "seconds");

/// Of `server.connections_max`: each takes a descriptor and some tens of kilobytes.
pub const CONNECTIONS: Range = Range::new(1, 1_000_000, "connections");
/// Of the times a client may take to send: under 10 ms no network makes it, over an hour nobody
/// waits.
pub const CLIENT_TIMEOUT_MS: Range = Range::new(10, 3_600_000, "milliseconds");
/// Of the times in which the server ends: 0 ends at once, over an hour no supervisor waits.
pub const SHUTDOWN_MS: Range = Range::new(0, 3_600_000, "milliseconds");
/// Of `limits.request_timeout_ms`: a day is the longest job that one answer may be.
pub const REQUEST_TIMEOUT_MS: Range = Range::new(100, 86_400_000, "milliseconds");
/// Of `limits.body_bytes_max`: below 1 KiB no chat fits; a body is held in memory whole.
pub const BODY_BYTES: Range = Range::new(1 << 10, 1 << 30, "bytes");
/// Of `limits.n_max`: OpenAI's own bound is 128.
pub const CHOICES: Range = Range::new(1, 128, "choices");
/// Of `limits.stop_strings_max`: each is searched for in every token's text.
pub const STOP_STRINGS: Range = Range::new(0, 64, "strings");
/// Of `limits.stop_bytes_max`: that much of a stream is held back while a stop string may still
/// complete.
pub const STOP_BYTES: Range = Range::new(1, 4_096, "bytes");
/// Of `limits.messages_max`: the template runs over all of them.
pub const MESSAGES: Range = Range::new(1, 65_536, "messages");
/// Of `limits.prompts_max`: each is a sequence of its own.
pub const PROMPTS: Range = Range::new(1, 2_048, "prompts");
/// Of `model.kv_bytes_max`: below 1 MiB no model holds one block, above 4 TiB no machine has it.
pub const KV_BYTES: Range = Range::new(1 << 20, 4 << 40, "bytes");
/// Of `model.device_share`: a thousand to one is as good as never.
pub const DEVICE_SHARE: Range = Range::new(1, 1_000, "shares");
/// Of `model.sim.embedding_numbers`: the widest vectors in use have some thousands.
pub const EMBEDDING_NUMBERS: Range = Range::new(0, 16_384, "numbers");
/// Of `model.block_tokens`: larger blocks waste more than they save.
pub const BLOCK_TOKENS: Range = Range::new(1, 1_024, "tokens");
/// Of `model.sequences_max`: no step decodes more at a speed that anyone wants to read.
pub const SEQUENCES: Range = Range::new(1, 16_384, "sequences");
/// Of `model.step_tokens_max`: activations of one step must fit beside the weights.
pub const STEP_TOKENS: Range = Range::new(1, 1 << 20, "tokens");
/// Of `model.queue_max`: those beyond some thousands would time out in line.
pub const QUEUE: Range = Range::new(1, 1 << 20, "sequences");
/// Of `model.queue_tokens_max`: one is always let in, and what is beyond hours of work would time out in line.
pub const QUEUE_TOKENS: Range = Range::new(1, 1 << 32, "tokens");
/// Of `model.inter_token_target_ms`: no step is shorter, and above ten seconds nobody reads along.
pub const INTER_TOKEN_MS: Range = Range::new(1, 10_000, "milliseconds");
/// Of `model.draft_tokens_max`: longer guesses are hardly ever right to their end.
pub const DRAFT_TOKENS: Range = Range::new(1, 64, "tokens");
/// Of `model.stall_after_ms`: the slowest machines take seconds for a large step, none takes an hour.
pub const STALL_MS: Range = Range::new(1_000, 3_600_000, "milliseconds");
/// Of every key that counts a context's tokens: the longest contexts in use are 10 million.
pub const CONTEXT_TOKENS: Range = Range::new(2, 1 << 24, "tokens");
/// Of `model.default_max_tokens`: at most a whole context.
pub const OUTPUT_TOKENS: Range = Range::new(1, 1 << 24, "tokens");
/// Of `model.threads`: the most cores that one machine shows.
pub const THREADS: Range = Range::new(1, 1_024, "threads");
/// Of the simulated model's costs: a minute for one token is slower than anything that it stands
/// for.
pub const SIM_COST_US: Range = Range::new(0, 60_000_000, "microseconds");
/// Of an upstream's timeouts: under 10 ms no network makes it, over a day no answer comes any more.
pub const UPSTREAM_TIMEOUT_MS: Range = Range::new(10, 86_400_000, "milliseconds");
/// Of `node.rtt_ms`: around the earth and by satellite it stays under ten seconds.
pub const RTT_MS: Range = Range::new(0, 10_000, "milliseconds");
/// Of the rates of a minute: above 10^12 nothing is bounded, and sums stay far from overflow.
pub const RATE: Range = Range::new(0, 1_000_000_000_000, "a minute");
/// Of `concurrent_max` and `queued_max`: no server holds more connections.
pub const AT_ONCE: Range = Range::new(0, 1_000_000, "requests");
/// Of an allocation's amount in whole units: a million times it still fits 64 bits.
pub const AMOUNT: Range = Range::new(0, 10_000_000_000_000, "units");
/// Of prices: up to 10,000 units of money for a token.
pub const PRICE: Range = Range::new(0, 10_000_000_000_000_000, "millionths");
/// Of `allocation.renew_days`: longer periods are written with their dates.
pub const PERIOD_DAYS: Range = Range::new(0, 3_660, "days");
/// Of the keys that are a share: a whole at most.
pub const PERCENT: Range = Range::new(0, 100, "percent");
/// Of `route.band_percent`: ten times the lowest cost makes every upstream as good as any.
pub const BAND_PERCENT: Range = Range::new(0, 1_000, "percent");
/// Of `route.hysteresis_ms`: who would wait longer than a minute for being at home wants no other site at all.
pub const HYSTERESIS_MS: Range = Range::new(0, 60_000, "milliseconds");
/// Of `route.carbon_ms_per_gram`: an hour of waiting for a gram outweighs everything else.
pub const CARBON_MS: Range = Range::new(0, 3_600_000, "milliseconds");
/// Of `route.prefix_index_bytes`: a gibibyte remembers more text than any site caches.
pub const PREFIX_INDEX_BYTES: Range = Range::new(1 << 12, 1 << 30, "bytes");
/// Of `route.attempts_max`: whom so many upstreams fail, the next one fails as well.
pub const ATTEMPTS: Range = Range::new(1, 16, "attempts");
/// Of `route.retry_per_s`: more is no bound.
pub const RETRIES_PER_S: Range = Range::new(0, 10_000, "retries");
/// Of `route.moves_in_flight_max`: a dead site leaves some thousands of streams behind.
pub const MOVES: Range = Range::new(1, 65_536, "requests");
/// Of `route.queue_max`: each request that waits holds its body.
pub const ROUTE_QUEUE: Range = Range::new(0, 65_536, "requests");
/// Of `route.resumes_max`: an answer that loses its upstream more often meets no accident.
pub const RESUMES: Range = Range::new(0, 16, "times");
/// Of `route.hedge_after_ms`: sooner than 10 ms every request would be sent twice.
pub const HEDGE_AFTER_MS: Range = Range::new(10, 600_000, "milliseconds");
/// Of `route.hedge_prompt_bytes_max`: above a mebibyte no prompt is short.
pub const HEDGE_PROMPT_BYTES: Range = Range::new(1, 1 << 20, "bytes");
/// Of `route.eject_failures`: who waits for a thousand never ejects.
pub const EJECT_FAILURES: Range = Range::new(1, 1_000, "failures");
/// Of `route.eject_ms`: the n-th lasts up to twelve times as long.
pub const EJECT_MS: Range = Range::new(100, 600_000, "milliseconds");
/// Of `route.slow_start_ms`: 0 comes back at once.
pub const SLOW_START_MS: Range = Range::new(0, 600_000, "milliseconds");
/// Of `server.ends_in_s`: no machine is lent for longer than a year.
pub const ENDS_IN_S: Range = Range::new(1, 31_536_000, "seconds");
/// Of `dial.connections`: as many as a gateway opens to a server that it can call.
pub const DIAL_CONNECTIONS: Range = Range::new(1, 32, "connections");
/// Of `agent.poll_s`: sooner than a second burdens Slurm, later than ten minutes misses ends.
pub const POLL_S: Range = Range::new(1, 600, "seconds");
/// Of `job.replicas`: the largest partitions have some hundreds of nodes.
pub const REPLICAS: Range = Range::new(1, 256, "jobs");
/// Of `job.time_limit_s`: Slurm counts minutes; partitions allow weeks at most.
pub const JOB_TIME_S: Range = Range::new(60, 31_536_000, "seconds");
/// Of `job.grace_s`: Slurm's own bound on the time of a signal.
pub const JOB_GRACE_S: Range = Range::new(1, 65_535, "seconds");
/// Of the times in which a job begins to serve: the largest models take minutes to read.
pub const JOB_LOAD_S: Range = Range::new(1, 86_400, "seconds");
/// Of `issuer.leeway_s`: clocks that differ by more are wrong, and a token would live on for long after its end.
pub const LEEWAY_S: Range = Range::new(0, 300, "seconds");
/// Of the keys that end with `retention_days`: ten years are the longest that bookkeeping asks for.
pub const RETENTION_DAYS: Range = Range::new(1, 3_660, "days");

/// Time for which a lease of quotas holds: the shortest leaves a round time to fail once, the longest is how long what a
/// dead gateway had is lost to the others.
pub const LEASE_TTL_MS: Range = Range::new(3_000, 60_000, "milliseconds");
