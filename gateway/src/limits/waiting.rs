//! Bounds of silence and of waiting: how long a server may say nothing, and how long a request waits for another.

use std::time::Duration;

use super::FIGURES_KEPT;

/// Shortest time between two reports of status on one stream: ten a second are enough for any choice.
pub const STATUS_PERIOD: Duration = Duration::from_millis(100);

/// Longest time between two reports, so that silence means something.
pub const STATUS_PERIOD_MAX: Duration = Duration::from_secs(1);

/// Longest time without a word on a stream of status: where there is nothing to tell, a comment says that its server is
/// there. Five a second cost nothing.
pub const STATUS_BEAT: Duration = Duration::from_millis(200);

/// Words that may be missing before a server is taken for silent, which is a second: a wide line that loses a packet is
/// silent for half of that. Then requests that wait for its first word are asked elsewhere too.
pub const STATUS_BEATS_MISSED: u32 = 5;

/// Silence after which a server's streams are broken off and go on elsewhere. Later than the above, since a stream that goes
/// on in two places would be told twice, so that the first one has to be given up.
pub const STATUS_SILENT: Duration = Duration::from_millis(2_500);

/// Longest time between two words that a server may announce; one that speaks more rarely is not judged by its silence.
pub const STATUS_BEAT_MAX: Duration = Duration::from_secs(2);

/// Age up to which figures are taken as they are: two reports may be lost.
pub const STATUS_FRESH: Duration = Duration::from_secs(3);

/// Age at which an upstream that still has a connection is taken for dead.
pub const STATUS_DEAD: Duration = Duration::from_secs(10);

/// The same for one whose stream of status broke: it may come back at once.
pub const STATUS_LOST: Duration = Duration::from_secs(1);

/// First and longest wait before a stream of status is asked for again: a server that comes back is known soon.
pub const STATUS_RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// First and longest pause of a request whose connection died and whom nobody takes at the moment.
pub const COMEBACK_PAUSE: (Duration, Duration) =
    (Duration::from_millis(50), Duration::from_secs(1));

/// All such pauses of a request until its next content: servers whose connections broke are back in less, and those that
/// are gone for longer should be told of.
pub const COMEBACK_MAX: Duration = Duration::from_secs(10);

/// Time after which a request that may wait is taken as one that may not: nobody starves.
pub const QUEUE_AGES: Duration = Duration::from_secs(30);

/// Time between two looks whether a candidate has room for a request that waits here.
pub const QUEUE_LOOK: Duration = FIGURES_KEPT;

/// Looks in vain of one request, half a minute of them, after which it believes no figures and goes to who is best all the
/// same: servers that say for ever that they have a long line would keep it here for ever.
pub const QUEUE_LOOKS_MAX: u128 = QUEUE_AGES.as_millis() / QUEUE_LOOK.as_millis();

/// Sequences in a candidate's own line up to which it gets more, however few run there: so many that it never runs dry
/// between two looks.
pub const CANDIDATE_LINE_MIN: u32 = 16;

/// Upstreams that a stream tries until one goes on with it, beside what the config allows before the first content: each
/// may come back and be asked again.
pub const RESUME_LEGS_MAX: u32 = 16;
