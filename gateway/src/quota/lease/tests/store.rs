//! A store that never fails by itself: its pools, what gateways have on lease, and its time.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::*;
use crate::quota::lease::grantor::Seen;

#[derive(Default)]
pub(super) struct Store {
    pub(super) pools: BTreeMap<Subject, (Pool, Size)>,
    pub(super) gateways: BTreeMap<Uuid, Listed>,
    /// The lease that each life of a gateway began last.
    runs: BTreeMap<Uuid, Uuid>,
    pub(super) clock: Seen,
    pub(super) away_until: Duration,
}

#[derive(Default)]
pub(super) struct Listed {
    pub(super) seen: Duration,
    pub(super) leases: BTreeMap<Subject, u64>,
}

pub(super) enum Told {
    Enlisted(Uuid),
    Answers(Vec<Answer>),
    Stale,
}

impl Store {
    pub(super) fn posted(&self) -> u64 {
        let allocations = self
            .pools
            .iter()
            .filter(|(subject, _)| subject.kind == Kind::Allocation);
        allocations.map(|(_, (pool, _))| pool.posted).sum()
    }

    pub(super) fn enlist(&mut self, run: Uuid, holdings: &[Holding]) -> Uuid {
        let id = Uuid::new_v4();
        let before = self.runs.insert(run, id);
        before.into_iter().for_each(|before| self.end(before));
        let mut listed = Listed {
            seen: self.clock.now,
            leases: BTreeMap::new(),
        };
        for holding in holdings {
            let mine = listed.leases.entry(holding.subject.clone()).or_default();
            let (pool, _) = self
                .pools
                .entry(holding.subject.clone())
                .or_insert((Pool::default(), holding.size));
            pool.adopt(holding.size, holding.amount, mine);
        }
        self.gateways.insert(id, listed);
        id
    }

    pub(super) fn exchange(&mut self, id: Uuid, lines: &[Line]) -> Told {
        let round = Round {
            now: self.clock.now,
            gateways: self.gateways.len() as u64,
        };
        let Some(listed) = self.gateways.get_mut(&id) else {
            return Told::Stale;
        };
        listed.seen = round.now;
        let answers = lines.iter().map(|line| {
            let mine = listed.leases.entry(line.subject.clone()).or_default();
            let (pool, _) = self
                .pools
                .entry(line.subject.clone())
                .or_insert((Pool::default(), line.size));
            pool.exchange(line, mine, round)
        });
        Told::Answers(answers.collect())
    }

    pub(super) fn post(&mut self, id: Option<Uuid>, used: u64) {
        let subject = Subject::allocation("a".into(), 0);
        let mut nothing = 0;
        let listed = id.and_then(|id| self.gateways.get_mut(&id));
        let mine = listed.map(|listed| listed.leases.entry(subject.clone()).or_default());
        if let Some((pool, _)) = self.pools.get_mut(&subject) {
            pool.post(used, 0, mine.unwrap_or(&mut nothing));
        }
    }

    pub(super) fn end(&mut self, id: Uuid) {
        let Some(listed) = self.gateways.remove(&id) else {
            return;
        };
        for (subject, mut amount) in listed.leases {
            if let Some((pool, _)) = self.pools.get_mut(&subject) {
                pool.take_back(amount, &mut amount);
            }
        }
    }
}
