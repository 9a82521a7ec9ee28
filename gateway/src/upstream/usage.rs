//! What a request really used, and how servers of ours ask each other for it when a stream could not say.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What a request really used, over all its choices. It is part of every error, and so kept small: four megajoules, or
/// an hour of a device, are the most that one can say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Tokens of the prompt, counted once.
    pub prompt_tokens: u32,
    /// Of these, taken from a prefix cache.
    pub cached_tokens: u32,
    /// Tokens produced over all choices.
    pub completion_tokens: u32,
    /// Whether these figures were counted from events because the upstream gave none, or none that can be.
    pub estimated: bool,
    /// Thousandths of a joule, overheads of the building included; `None` where nobody knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub millijoules: Option<u32>,
    /// Millionths of a gram of CO2; `None` where nobody knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micrograms: Option<u32>,
    /// Microseconds of the device that the model runs on; `None` where nobody tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_us: Option<u32>,
}

impl Usage {
    /// Adds what another part of the same request used.
    pub fn add(&mut self, other: Self) {
        let sums = [
            (&mut self.prompt_tokens, other.prompt_tokens),
            (&mut self.cached_tokens, other.cached_tokens),
            (&mut self.completion_tokens, other.completion_tokens),
        ];
        for (sum, more) in sums {
            *sum = sum.saturating_add(more);
        }
        self.estimated |= other.estimated;
        self.millijoules = either(self.millijoules, other.millijoules);
        self.micrograms = either(self.micrograms, other.micrograms);
        self.gpu_us = either(self.gpu_us, other.gpu_us);
    }

    /// Whether nothing was done.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        self.prompt_tokens == 0 && self.completion_tokens == 0
    }
}

/// The sum of what is known.
fn either(a: Option<u32>, b: Option<u32>) -> Option<u32> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.saturating_add(b)),
        (one, other) => one.or(other),
    }
}

/// Whose usage is asked for, of what an upstream has kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// That of the request with this id.
    Request {
        /// Its id, as it was sent there.
        id: Arc<str>,
        /// Servers that the question has crossed: those in a circle must not ask each other for ever.
        hops: u8,
    },
    /// What is of a ledger.
    Of {
        /// Its id.
        owner: Uuid,
        /// Of which lives of whoever writes it.
        lives: Lives,
    },
}

/// Lives of servers that write a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lives {
    /// Every one but this, which settles its own.
    But(Uuid),
    /// This one alone, which is over while others go on.
    One(Uuid),
}

impl Wanted {
    /// The usage of one request, which nobody has asked for yet.
    #[must_use]
    pub fn request(id: &Arc<str>) -> Self {
        let (id, hops) = (Arc::clone(id), 0);
        Self::Request { id, hops }
    }
}

/// What an upstream has kept of a request that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// What the upstream knows the request by.
    pub id: Arc<str>,
    /// The charge that came with it, opaque to who keeps it.
    pub charge: Arc<str>,
    /// What it used.
    pub usage: Usage,
    /// The site that served, as whoever asks calls it.
    #[serde(skip)]
    pub site: Option<Arc<str>>,
}

/// Of several that know the same request the one that did most: it is charged once, and work done again is the
/// operator's.
#[must_use]
pub fn most(found: Vec<Finished>) -> Option<Usage> {
    let usages = found.into_iter().map(|one| one.usage);
    usages.max_by_key(|usage| (usage.completion_tokens, usage.prompt_tokens))
}
