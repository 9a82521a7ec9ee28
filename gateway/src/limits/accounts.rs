//! Bounds of accounts: open charges, the ledger and who is let in, what gateways lease of each other, and how long records stay.

use std::time::Duration;

/// Charges that are open or not yet safe in the ledger, each some 500 bytes; beyond it requests are refused as overload.
/// As many connections as a large server holds.
pub const RESERVATIONS_MAX: usize = 65_536;

/// Records in one commit of the ledger; a commit of them takes some 50 ms, in which the next ones gather.
pub const COMMIT_RECORDS_MAX: usize = 4_096;

/// Time for which records gather before a commit of the ledger: it takes some 0.3 ms of a processor however few they are.
/// What a kill loses that no node of ours tells again is at most what ended in it and in the commit.
pub const COMMIT_GATHER: Duration = Duration::from_millis(10);

/// Bytes of the ledger's pages that are kept in memory: sums and settings of some 10,000 tenants.
pub const LEDGER_CACHE_BYTES: usize = 32 << 20;

/// Records that a ledger in memory keeps, some 50 MB; its sums hold all.
pub const MEMORY_RECORDS_MAX: usize = 100_000;

/// Lines of the audit trail; years of changes by hand.
pub const AUDIT_LINES_MAX: usize = 100_000;

/// Periods without use over which the share that is carried over is worked out one by one; after these it no longer
/// changes by much.
pub const CARRIED_PERIODS_MAX: u64 = 1_024;

/// Bytes of a key that is looked at; ours have 67, and room for those of others.
pub const KEY_BYTES_MAX: usize = 512;

/// Bytes of a token that is looked at; those with hundreds of groups reach some kilobytes.
pub const TOKEN_BYTES_MAX: usize = 16 << 10;

/// Time for which a token that was checked is believed without checking it again: a key that an issuer takes back still
/// works for so long.
pub const TOKEN_REMEMBERED: Duration = Duration::from_secs(60);

/// Tokens that are remembered, some 300 bytes each: a federation's active users within a minute.
pub const TOKENS_REMEMBERED_MAX: usize = 16_384;

/// Values of one claim that are looked at; people in thousands of groups do not exist.
pub const CLAIM_VALUES_MAX: usize = 1_024;

/// Keys of one issuer: it has two or three, some more while it changes them.
pub const ISSUER_KEYS_MAX: usize = 64;

/// Bytes of an issuer's document: [`ISSUER_KEYS_MAX`] RSA keys with their certificates.
pub const ISSUER_DOCUMENT_BYTES_MAX: usize = 512 << 10;

/// Time for an issuer to tell its keys, connections included; requests with tokens wait for it.
pub const ISSUER_TIME_MAX: Duration = Duration::from_secs(5);

/// Age at which an issuer's keys are fetched again.
pub const KEYS_FRESH: Duration = Duration::from_secs(300);

/// Age at which keys no longer count where newer ones cannot be had: an issuer may be away for a night.
pub const KEYS_STALE: Duration = Duration::from_secs(24 * 3_600);

/// Shortest time between two fetches of an issuer's keys, however many tokens name unknown ones.
pub const KEYS_RETRY: Duration = Duration::from_secs(10);

/// Time between two rounds of a gateway that shares quotas; what lies idle at one is at most half a second from another.
pub const LEASE_ROUND: Duration = Duration::from_millis(500);

/// Pauses before each time that a request asks for what is not on lease: while others have it, it may come back, and they
/// are called for it at once.
pub const LEASE_ASKS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(20),
    Duration::from_millis(60),
    Duration::from_millis(200),
    Duration::from_millis(400),
];

/// Time for one round that a request waits for; the store's own time for an answer is shorter.
pub const LEASE_WAIT_MAX: Duration = Duration::from_secs(5);

/// Time for which what was lent for requests that wait is kept for them, whoever else calls for it: they take it as soon as
/// they run, and one that is gone must not hold it up for long.
pub const LEASE_PROMISE: Duration = Duration::from_millis(100);

/// Time in which nobody asks again for what the store did not have: an exhausted tenant costs one question a second.
pub const LEASE_DRY: Duration = Duration::from_secs(1);

/// Shortest wait that a client is told where gateways share a rate: less would end before the next round.
pub const LEASE_WAIT_MIN: Duration = Duration::from_millis(100);

/// Lines of one round that are one transaction of the store; more are several.
pub const LEASE_LINES_MAX: usize = 2_048;

/// Time after which the grantor counts on.
pub const GRANTOR_STEP: Duration = Duration::from_millis(250);

/// Most that it counts at once. Two of these are less than a third of the shortest ttl, so that no lease ends while its
/// holder uses it.
pub const GRANTOR_STEP_MAX: Duration = Duration::from_millis(400);

/// Time for the store to answer one question; a broken connection is known within it.
pub const STORE_ANSWER_MAX: Duration = Duration::from_secs(2);

/// Time for whoever reads or changes something through the store, a queue before it included.
pub const STORE_WAIT_MAX: Duration = Duration::from_secs(30);

/// First and longest wait before a store is connected to again.
pub const STORE_RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Questions and records that wait for the store's connection: the records that may be unsettled, and room for questions.
pub const STORE_QUEUE_MAX: usize = RESERVATIONS_MAX + 1_024;

/// Notes of the store that wait to be read; each names a pool that another gateway lacks, and the next one says it again.
pub const STORE_NOTES_MAX: usize = 1_024;

/// Bytes of one note; PostgreSQL takes less than 8,000.
pub const STORE_NOTE_BYTES_MAX: usize = 7_999;

/// Connections to the store beside the one of rounds and records, for operators' questions and changes.
pub const STORE_ASKS_MAX: usize = 8;

/// Records in one commit of the store; one of them takes some 50 ms, and rounds come between.
pub const STORE_RECORDS_MAX: usize = 1_024;

/// Time until what operators set elsewhere is read again where that failed: a revoked key must not work for long.
pub const REFRESH_RETRY: Duration = Duration::from_millis(500);

/// Days for which records of high-risk use are kept at least: six months, by Articles 19 and 26(6) of the EU's AI Act.
pub const HIGH_RISK_DAYS: u32 = 184;

/// Records of one request id that are forgotten at once; a request has one, and a client may use its id again.
pub const FORGOTTEN_MAX: usize = 1_024;

/// Time between two looks for records whose time is over; a day more or less does not matter, a restart a day must not
/// keep them for ever.
pub const RETENTION_PERIOD: Duration = Duration::from_secs(3_600);

/// Lines of a report: projects x sites x models, some 500 bytes each.
pub const REPORT_LINES_MAX: usize = 200_000;
