//! Whose capacity a figure is, and the way to it: what keeps servers that tell each other from counting anything twice.
//!
//! A server tells what it has itself as one part, the servers behind it that ask no other among it, and passes on the parts
//! of others as they are, each with the servers that it came through. Whoever stands on that way drops it, so that nobody
//! hears of himself; whoever hears of one capacity twice takes the nearer way. No way is longer than a request may go,
//! so that what is gone is gone everywhere after as many reports. It must not know how reports travel.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::status::combined;
use crate::limits;
use crate::upstream::{Readiness, UpstreamStatus};

/// Id of a server that runs, drawn at its start: names are an operator's own, and two may be alike.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ServerId(u64);

impl ServerId {
    /// Whoever tells it.
    pub const TELLER: Self = Self(0);

    /// A new one, of 53 bits so that every reader of JSON keeps it.
    #[must_use]
    pub fn draw() -> Self {
        Self((Uuid::new_v4().as_u64_pair().0 >> 11).max(1))
    }
}

/// Capacity that is told together, and the way to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Servers between it and here, the one that told it first last; empty for what is here.
    pub path: Vec<ServerId>,
    /// Servers whose capacity it is; empty for what no server of ours is, and is nobody else's therefore.
    pub of: Vec<ServerId>,
    /// Times that a request is passed on until it is there.
    pub hops: u8,
    /// Whether its server asks no other of ours.
    pub leaf: bool,
    /// How it stands.
    pub status: UpstreamStatus,
}

impl Part {
    /// Capacity of this server, or of one of another make behind it.
    #[must_use]
    pub const fn here(status: UpstreamStatus) -> Self {
        Self {
            path: Vec::new(),
            of: Vec::new(),
            hops: 0,
            leaf: true,
            status,
        }
    }

    /// The part as `me` has it, whom `teller` told it. `None` where it came from here or lies farther than requests go.
    #[must_use]
    pub fn heard(mut self, teller: ServerId, me: ServerId) -> Option<Self> {
        self.path.push(teller);
        self.hops = self.hops.saturating_add(1);
        for id in &mut self.of {
            if *id == ServerId::TELLER {
                *id = teller;
            }
        }
        if self.of.is_empty() {
            self.of.push(teller);
        }
        self.of.sort_unstable();
        self.of.dedup();
        self.status.beyond = self.path.len() > 1;
        let mine = self.path.contains(&me) || self.of.contains(&me);
        let far = self.hops > limits::HOPS_MAX || self.path.len() > usize::from(limits::HOPS_MAX);
        (!mine && !far).then_some(self)
    }

    /// Whether it is told as this server's own.
    fn is_own(&self) -> bool {
        self.path.is_empty() || (self.leaf && self.path.len() == 1)
    }

    fn is_ready(&self) -> bool {
        self.status.readiness == Readiness::Ready
    }

    /// The better one first: who takes requests, of whom there is news, who is near; then any order that stays.
    fn rank(&self) -> (bool, bool, u8, &[ServerId]) {
        let stale = self.status.age > limits::STATUS_FRESH;
        (!self.is_ready(), stale, self.hops, &self.path)
    }
}

/// The same capacity, each server of it in one part alone, the best: what others say of it too is left out there.
#[must_use]
pub fn disjoint(parts: impl IntoIterator<Item = Part>) -> Vec<Part> {
    let mut parts: Vec<Part> = parts.into_iter().collect();
    if parts.len() < 2 {
        return parts;
    }
    parts.sort_by(|a, b| a.rank().cmp(&b.rank()));
    let mut seen = BTreeSet::new();
    parts.retain_mut(|part| {
        let before = part.of.len();
        part.of.retain(|id| seen.insert(*id));
        let left = part.of.len();
        if left < before {
            // Servers of one part are taken for alike.
            part.status = part.status.share(left as f64 / before as f64);
        }
        left > 0 || before == 0
    });
    parts
}

/// What a server tells that reaches `parts`: its own as one, then those of others, the nearest first. It is a `leaf` where it
/// asks no other server of ours.
#[must_use]
pub fn told(parts: impl IntoIterator<Item = Part>, leaf: bool) -> Vec<Part> {
    let (mut own, beyond): (Vec<Part>, Vec<Part>) =
        disjoint(parts).into_iter().partition(Part::is_own);
    if own.iter().any(Part::is_ready) {
        // Only what is counted may keep others from counting it.
        own.retain(Part::is_ready);
    }
    let own = (!own.is_empty()).then(|| together(own, leaf));
    let all = own.into_iter().chain(beyond);
    all.take(limits::STATUS_PARTS_MAX).collect()
}

/// Parts of one server as one.
fn together(parts: Vec<Part>, leaf: bool) -> Part {
    let here = parts.iter().any(|part| part.path.is_empty());
    let here = here.then_some(ServerId::TELLER);
    let ids = parts.iter().flat_map(|part| part.of.iter().copied());
    let of: Vec<ServerId> = here.into_iter().chain(ids).collect();
    let hops = parts.iter().map(|part| part.hops).min();
    Part {
        path: Vec::new(),
        of,
        hops: hops.unwrap_or_default(),
        leaf,
        status: combined(parts.into_iter().map(|part| part.status)),
    }
}

/// What is reached as one.
#[must_use]
pub fn sum(parts: impl IntoIterator<Item = Part>) -> UpstreamStatus {
    combined(disjoint(parts).into_iter().map(|part| part.status))
}

/// How each of several upstreams stands by what it reaches, without what another of them reaches by a shorter way: a request
/// that was sent there would be taken for somebody else's here. One that is left with nothing that takes requests
/// is a [`UpstreamStatus::detour`], and stands by all that it reaches.
#[must_use]
pub fn ways(reached: Vec<Vec<Part>>) -> Vec<UpstreamStatus> {
    let mut nearest: HashMap<ServerId, usize> = HashMap::new();
    for part in reached.iter().flatten().filter(|part| part.is_ready()) {
        for id in &part.of {
            let way = nearest.entry(*id).or_insert(usize::MAX);
            *way = part.path.len().min(*way);
        }
    }
    let own = |part: &Part| {
        let best = |id| nearest.get(id).is_none_or(|way| *way >= part.path.len());
        part.of.is_empty() || part.of.iter().any(best)
    };
    let way = |parts: Vec<Part>| {
        let (near, far): (Vec<Part>, Vec<Part>) = parts.into_iter().partition(own);
        if near.iter().any(Part::is_ready) || !far.iter().any(Part::is_ready) {
            return sum(near
                .into_iter()
                .chain(far.into_iter().filter(|p| !p.is_ready())));
        }
        UpstreamStatus {
            detour: true,
            ..sum(near.into_iter().chain(far))
        }
    };
    reached.into_iter().map(way).collect()
}

#[cfg(test)]
mod tests;
