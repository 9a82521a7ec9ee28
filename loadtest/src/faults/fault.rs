//! What can go wrong with one server, as the network or its clients see it.

use std::fmt;
use std::time::Duration;

/// One fault. It begins when it is injected and ends when it is healed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// The share of connections that it befalls, from 0 to 1; drawn once for each from the proxy's seed. [`FaultKind::Kill`] knows
    /// no shares.
    pub share: f64,
}

/// Kinds of faults. Bytes of an answer are counted from the fault's beginning on, for each connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// Every round trip takes longer by `delay` and by up to `jitter` more: half on the way there, half on the way back.
    /// Bytes keep their order.
    Latency {
        /// What is always added.
        delay: Duration,
        /// What is added at random, evenly from zero to this.
        jitter: Duration,
    },
    /// Each direction of each connection carries so much and no more.
    Bandwidth {
        /// Bytes per second.
        bytes_per_s: u64,
    },
    /// After so many bytes, answers stand still until it is healed, and then go on. Requests pass.
    Stall {
        /// Bytes that still come.
        after_bytes: u64,
    },
    /// Nothing passes in either direction, and new connections hear nothing. Healed, all goes on where it stood.
    Partition,
    /// All bytes vanish, and nobody is told. Connections that lost some are reset when it is healed.
    BlackHole,
    /// Connections are reset after so many bytes of answers; new ones too.
    Reset {
        /// Bytes that still come.
        after_bytes: u64,
    },
    /// Connections are closed in good order after so many bytes of answers, in the middle of whatever is being said.
    Truncate {
        /// Bytes that still come.
        after_bytes: u64,
    },
    /// The first bytes of every answer come one at a time.
    SlowHeaders {
        /// Time between two of them.
        pause: Duration,
    },
    /// Requests that come now are answered with an error by the proxy; answers that are on their way go on.
    Errors {
        /// The status.
        status: u16,
    },
    /// As errors with status 503, which is how servers refuse that are about to end.
    Drain,
    /// The server is gone: its connections are reset and new ones refused.
    Kill,
}

impl Fault {
    /// A fault that befalls every connection.
    pub const fn of(kind: FaultKind) -> Self {
        Self { kind, share: 1.0 }
    }
}

impl From<FaultKind> for Fault {
    fn from(kind: FaultKind) -> Self {
        Self::of(kind)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        if self.share < 1.0 {
            write!(f, " on {:.0} % of connections", self.share * 100.0)?;
        }
        Ok(())
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let after = |bytes: u64| match bytes {
            0 => String::new(),
            bytes => format!(" after {bytes} B"),
        };
        match *self {
            Self::Latency { delay, jitter } => {
                write!(f, "latency of {delay:?} to {:?}", delay + jitter)
            }
            Self::Bandwidth { bytes_per_s } => write!(f, "bandwidth of {bytes_per_s} B/s"),
            Self::Stall { after_bytes } => write!(f, "stall{}", after(after_bytes)),
            Self::Partition => f.write_str("partition"),
            Self::BlackHole => f.write_str("black hole"),
            Self::Reset { after_bytes } => write!(f, "reset{}", after(after_bytes)),
            Self::Truncate { after_bytes } => write!(f, "truncation{}", after(after_bytes)),
            Self::SlowHeaders { pause } => write!(f, "slow headers, {pause:?} a byte"),
            Self::Errors { status } => write!(f, "errors {status}"),
            Self::Drain => f.write_str("drain"),
            Self::Kill => f.write_str("kill"),
        }
    }
}
