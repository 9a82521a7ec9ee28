//! Clients that behave badly, for one's own server: what each kind does, what a good server makes of it, and what was
//! seen. Only what every server of the API may be asked is sent, and at the end everything is closed.
//!
//! While an abuse goes on, a well-behaved client asks for the list of models again and again: that others are served
//! meanwhile is part of every expectation.

mod crowd;
mod malformed;
mod slow;
mod wire;

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use self::wire::Witness;

/// The server that is abused, and how far it goes.
#[derive(Debug, Clone)]
pub struct Victim {
    /// Where it listens.
    pub address: SocketAddr,
    /// Value of the `host` header.
    pub host: String,
    /// Value of the `authorization` header, where one is needed.
    pub authorization: Option<String>,
    /// The model that is asked for.
    pub model: String,
    /// Connections of each abuse.
    pub connections: usize,
    /// How long an abused connection may stay; longer counts as for ever.
    pub patience: Duration,
}

/// Kinds of abuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Abuse {
    /// Heads of requests that come a byte at a time and never end.
    SlowHeaders,
    /// Bodies that do.
    SlowBodies,
    /// Streams that are asked for and not read.
    SlowReaders,
    /// Many connections and requests at once.
    Flood,
    /// Clients that go away in the middle of their answers.
    Disconnects,
    /// Bodies and headers beyond all measure.
    Oversized,
    /// What is no HTTP, no JSON, or two requests at once.
    Malformed,
}

/// Every kind, in the order in which they are tried.
pub const ALL: [Abuse; 7] = [
    Abuse::SlowHeaders,
    Abuse::SlowBodies,
    Abuse::SlowReaders,
    Abuse::Flood,
    Abuse::Disconnects,
    Abuse::Oversized,
    Abuse::Malformed,
];

/// What came of one abuse.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which.
    pub abuse: Abuse,
    /// What a good server does.
    pub expected: String,
    /// What this one did.
    pub seen: String,
    /// How others were served meanwhile.
    pub others: String,
    /// Whether it was as expected, for the abuse and for others.
    pub good: bool,
}

/// What an abuse saw, before others are looked at.
struct Outcome {
    expected: String,
    seen: String,
    good: bool,
}

impl Abuse {
    /// Does it and says what came of it.
    pub async fn run(self, victim: &Victim) -> Finding {
        let attack = async {
            match self {
                Self::SlowHeaders => slow::headers(victim).await,
                Self::SlowBodies => slow::bodies(victim).await,
                Self::SlowReaders => slow::readers(victim).await,
                Self::Flood => crowd::flood(victim).await,
                Self::Disconnects => crowd::disconnects(victim).await,
                Self::Oversized => malformed::oversized(victim).await,
                Self::Malformed => malformed::malformed(victim).await,
            }
        };
        let (outcome, witness) = Witness::beside(victim, attack).await;
        Finding {
            abuse: self,
            expected: outcome.expected,
            seen: outcome.seen,
            others: witness.to_string(),
            good: outcome.good && witness.was_served(),
        }
    }
}

#[cfg(test)]
mod tests;
