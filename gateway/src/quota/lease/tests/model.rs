//! A store, three gateways and the network between them, step by step from one seed.

use std::collections::HashSet;

use uuid::Uuid;

use super::store::{Store, Told};
use super::*;
use crate::quota::allocation::tests::grant;
use crate::quota::amount::Tokens;
use crate::quota::book::Book;
use crate::quota::book::tests::claim;
use crate::quota::charge::{ChargeId, Moment, Spent};
use crate::quota::invariants;
use crate::quota::lease::grantor::{Duty, Grantor};
use crate::quota::meter::Limits;

const TTL: Duration = Duration::from_secs(6);
const GRANTED: u64 = 10_000;
const PER_MINUTE: u64 = 600;
const AT_ONCE: u32 = 40;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Faults {
    None,
    /// Answers take up to a second, and some are lost: far less than a ttl.
    Late,
    /// And gateways pause, crash and are cut off for longer than that.
    All,
}

pub(super) struct World {
    seed: u64,
    faults: Faults,
    chance: u64,
    now: Duration,
    store: Store,
    gateways: Vec<Gateway>,
    /// What ended leases may cost: requests that still ran, by allocation and by number.
    cut_off: (u64, u64),
    /// Missing in a bucket as it should be, in thousandths of a request.
    bucket: (u64, Duration),
    lost: u64,
}

struct Gateway {
    book: Book,
    /// Charges that run, with what they hold.
    open: Vec<(ChargeId, u64)>,
    /// Settled here and not yet in the store.
    unsettled: u64,
    /// This life of it, and its lease.
    run: Uuid,
    id: Option<Uuid>,
    /// Whether its lease is good, as far as it knows.
    listed: bool,
    asked: Option<Asked>,
    due: Duration,
    paused_until: Duration,
    cut_until: Duration,
    grantor: Grantor,
}

/// A question under way: when its answer comes, and which.
struct Asked {
    began: Duration,
    comes: Duration,
    answer: Option<Told>,
}

impl World {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        Self {
            seed,
            faults,
            chance: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1,
            now: S,
            store: Store::default(),
            gateways: (0..3).map(|_| Gateway::new()).collect(),
            cut_off: (0, 0),
            bucket: (0, S),
            lost: 0,
        }
    }

    /// Many small steps, with every promise checked after each.
    pub(super) fn live(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        let (mut moments, mut reached) = (0, 0);
        while self.now < end {
            self.step();
            self.check();
            moments += self.gateways.len() as u64;
            reached += (0..self.gateways.len())
                .filter(|which| self.works(*which))
                .count() as u64;
        }
        let admitted = self.store.posted() + self.lost + self.running();
        // A world whose store is away for nearly all of the time cannot admit more than the rest of it allows.
        let least = match reached * 10 < moments {
            true => GRANTED * reached / moments / 2,
            false => GRANTED / 4,
        };
        assert!(
            admitted > least,
            "seed {}: hardly anything was admitted ({admitted})",
            self.seed
        );
    }

    /// All of the budget can be spent, and not a unit more.
    pub(super) fn spends_all(&mut self) {
        let mut refused = 0;
        while refused < 300 {
            self.advance();
            let which = self.draw(3) as usize;
            let before = self.store.posted() + self.running();
            self.reserve(which, 100);
            self.finish(which, 100);
            refused = if self.store.posted() + self.running() == before {
                refused + 1
            } else {
                0
            };
            self.check();
        }
        let spent = self.store.posted() + self.running();
        assert_eq!(spent, GRANTED, "seed {}", self.seed);
    }

    fn step(&mut self) {
        self.advance();
        let which = self.draw(3) as usize;
        match self.draw(10) {
            0..=3 => {
                let tokens = 1 + self.draw(60);
                self.reserve(which, tokens);
            }
            4..=7 => {
                let percent = self.draw(101);
                self.finish(which, percent);
            }
            8 => self.settle(which),
            _ if self.faults == Faults::All => self.break_something(which),
            _ => {}
        }
    }

    fn break_something(&mut self, which: usize) {
        let long = Duration::from_millis(self.draw(20_000));
        match self.draw(400) {
            0 => self.gateways[which].paused_until = self.now + long,
            1 => self.gateways[which].cut_until = self.now + long,
            2 => self.store.away_until = self.now + long * 3,
            3 => {
                // What ran there ends with it; what had been settled there and nowhere else is lost, as promised.
                let gone = std::mem::replace(&mut self.gateways[which], Gateway::new());
                self.lost += gone.unsettled;
            }
            _ => {}
        }
    }

    /// Time goes on by a few milliseconds; rounds begin and end, and time is counted.
    fn advance(&mut self) {
        let passed = Duration::from_millis(1 + self.draw(30));
        self.now += passed;
        for which in 0..self.gateways.len() {
            if self.gateways[which].paused_until > self.now {
                continue;
            }
            self.hear(which);
            if self.gateways[which].asked.is_none() && self.gateways[which].due <= self.now {
                self.ask(which);
            }
            self.count(which);
        }
    }

    fn reaches(&self, which: usize) -> bool {
        self.store.away_until <= self.now && self.gateways[which].cut_until <= self.now
    }

    fn works(&self, which: usize) -> bool {
        self.gateways[which].paused_until <= self.now && self.reaches(which)
    }

    fn ask(&mut self, which: usize) {
        let at = self.at();
        let reaches = self.reaches(which);
        let (lost, done_all_the_same) = match self.faults {
            Faults::None => (false, true),
            _ => (self.draw(30) == 0, self.draw(2) == 0),
        };
        let gateway = &mut self.gateways[which];
        let answer = match gateway.id.filter(|_| gateway.listed) {
            // Nothing is given up before there is someone to begin anew with.
            None if !reaches => {
                gateway.due = at.now + S / 10;
                return;
            }
            None => {
                let mut holdings = gateway.book.enlist(at);
                for holding in &mut holdings {
                    if holding.subject.kind == Kind::Allocation {
                        holding.amount += gateway.unsettled;
                    }
                }
                let done = !lost || done_all_the_same;
                done.then(|| Told::Enlisted(self.store.enlist(gateway.run, &holdings)))
            }
            Some(id) => {
                let lines = gateway.book.lines(at);
                let done = reaches && (!lost || done_all_the_same);
                done.then(|| self.exchange(which, id, &lines))
            }
        };
        let late = self.draw(if self.faults == Faults::None { 5 } else { 600 });
        let gateway = &mut self.gateways[which];
        gateway.asked = Some(Asked {
            began: at.now,
            comes: at.now + Duration::from_millis(late),
            answer: answer.filter(|_| !lost),
        });
    }

    /// The others are called for what is lacking.
    fn exchange(&mut self, which: usize, id: Uuid, lines: &[Line]) -> Told {
        let told = self.store.exchange(id, lines);
        if let Told::Answers(answers) = &told {
            let lacking = lines.iter().zip(answers);
            let lacking = lacking.filter(|(line, answer)| answer.lacks(line));
            let lacking: HashSet<_> = lacking.map(|(line, _)| line.subject.clone()).collect();
            let others = (0..self.gateways.len()).filter(|other| *other != which);
            let others: Vec<_> = others.filter(|other| self.reaches(*other)).collect();
            for other in others.into_iter().filter(|_| !lacking.is_empty()) {
                self.gateways[other].book.called(lacking.clone());
                self.gateways[other].due = self.now;
            }
        }
        told
    }

    fn hear(&mut self, which: usize) {
        let now = self.now;
        let gateway = &mut self.gateways[which];
        let Some(asked) = gateway.asked.take_if(|asked| asked.comes <= now) else {
            return;
        };
        gateway.due = now + crate::limits::LEASE_ROUND;
        match asked.answer {
            Some(Told::Enlisted(id)) => {
                gateway.id = Some(id);
                gateway.listed = true;
                gateway.book.enlisted(asked.began);
            }
            Some(Told::Answers(answers)) => gateway.book.answered(&answers, asked.began, now),
            Some(Told::Stale) | None => {
                gateway.book.round_failed();
                gateway.listed = false;
                gateway.due = now;
            }
        }
    }

    fn count(&mut self, which: usize) {
        if !self.reaches(which) || self.gateways[which].id.is_none() {
            self.gateways[which].grantor.deposed();
            return;
        }
        let now = self.now;
        let grantor = &mut self.gateways[which].grantor;
        if grantor.wants_to_see(now) {
            grantor.saw(self.store.clock, now);
        }
        match grantor.duty(now) {
            Duty::Watch => {}
            Duty::TakeOver(seen) if seen == self.store.clock => {
                self.store.clock.tenure += 1;
                self.store.clock.is_held = true;
                grantor.took_over(self.store.clock.tenure, now);
            }
            Duty::TakeOver(_) => grantor.deposed(),
            Duty::Count { tenure, .. } if tenure != self.store.clock.tenure => grantor.deposed(),
            Duty::Count {
                step, may_expire, ..
            } => {
                self.store.clock.now += step;
                grantor.counted(now);
                if may_expire {
                    self.expire();
                }
            }
        }
    }

    fn expire(&mut self) {
        let now = self.store.clock.now;
        let over = self
            .store
            .gateways
            .iter()
            .filter(|(_, listed)| listed.seen + TTL < now);
        let over: Vec<Uuid> = over.map(|(id, _)| *id).collect();
        for id in over {
            for gateway in self
                .gateways
                .iter()
                .filter(|gateway| gateway.id == Some(id))
            {
                assert!(
                    !gateway.book.lease_holds(self.now),
                    "seed {}: a lease ended while its holder used it",
                    self.seed
                );
                self.cut_off.0 += gateway.held() + gateway.unsettled;
                self.cut_off.1 += gateway.open.len() as u64;
            }
            self.store.end(id);
        }
    }

    fn reserve(&mut self, which: usize, tokens: u64) {
        let at = self.at();
        let gateway = &mut self.gateways[which];
        if gateway.paused_until > at.now {
            return;
        }
        let claim = claim("acme", tokens, 0);
        let wish = gateway.book.whole(&claim);
        if gateway.book.want(&wish, at) {
            gateway.due = at.now;
        }
        let id = ChargeId::new_v4();
        if gateway.book.admit(id, claim, at).is_ok() {
            gateway.open.push((id, tokens));
            self.take();
        }
    }

    fn finish(&mut self, which: usize, percent: u64) {
        let at = self.at();
        let settle_now = self.faults == Faults::None;
        let gateway = &mut self.gateways[which];
        if gateway.open.is_empty() || gateway.paused_until > at.now {
            return;
        }
        let (id, tokens) = gateway.open.remove(0);
        let prompt = tokens * percent / 100;
        let tokens = Tokens {
            prompt,
            ..Tokens::default()
        };
        let spent = Spent {
            tokens,
            ..Spent::default()
        };
        gateway.book.post(id, spent, at).unwrap();
        gateway.unsettled += prompt;
        if settle_now {
            self.settle(which);
        }
    }

    fn settle(&mut self, which: usize) {
        if self.reaches(which) {
            let gateway = &mut self.gateways[which];
            let used = std::mem::take(&mut gateway.unsettled);
            self.store.post(gateway.id, used);
        }
    }

    /// One request is taken from a bucket that refills by the true time.
    fn take(&mut self) {
        let (missing, since) = self.bucket;
        let refilled = (self.now - since).as_millis() as u64 * PER_MINUTE / 60;
        self.bucket = (missing.saturating_sub(refilled) + 1_000, self.now);
        // The store's time may be ahead by two steps of a grantor.
        let slack = 2 * crate::limits::GRANTOR_STEP_MAX.as_millis() as u64 * PER_MINUTE / 60;
        let most = PER_MINUTE * 1_000 + slack;
        assert!(
            self.bucket.0 <= most,
            "seed {}: the rate was exceeded",
            self.seed
        );
    }

    fn check(&self) {
        let seed = self.seed;
        for (subject, (pool, size)) in &self.store.pools {
            // Requests at once have no record of an excess: after a cut the pool is fuller than full until they end.
            let checked = subject.kind == Kind::Allocation || self.faults != Faults::All;
            assert!(
                !checked || pool.holds_l1(*size),
                "seed {seed}: L1 of {subject:?}: {pool:?}"
            );
        }
        let spent = self.store.posted() + self.running();
        let bound = GRANTED + self.cut_off.0;
        assert!(
            spent <= bound,
            "seed {seed}: {spent} of {bound} at {:?}",
            self.now
        );
        let at_once: u64 = self
            .gateways
            .iter()
            .map(|gateway| gateway.open.len() as u64)
            .sum();
        let most = u64::from(AT_ONCE) + self.cut_off.1;
        assert!(at_once <= most, "seed {seed}: {at_once} at once");
        for gateway in &self.gateways {
            let whole = invariants::all(&gateway.book);
            assert_eq!(whole, Ok(()), "seed {seed}");
        }
        if self.faults != Faults::All {
            assert_eq!(self.cut_off, (0, 0), "seed {seed}");
        }
    }

    /// What requests hold that run, and what is not in the store yet.
    fn running(&self) -> u64 {
        self.gateways
            .iter()
            .map(|gateway| gateway.held() + gateway.unsettled)
            .sum()
    }

    fn at(&self) -> Moment {
        // The wall clock of each steps by minutes, forth and back.
        let stepped = 300 * (self.now.as_secs() / 7 % 3) as i64;
        Moment {
            now: self.now,
            unix_s: 1_700_000_000 + self.now.as_secs() as i64 - stepped,
        }
    }

    /// A number below `below`, by xorshift.
    fn draw(&mut self, below: u64) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        (self.chance >> 11) % below
    }
}

impl Gateway {
    fn new() -> Self {
        let mut book = Book::default();
        book.share(TTL);
        book.set_grant(grant("a", "acme", GRANTED));
        let limits = Limits {
            requests_per_minute: Some(PER_MINUTE),
            concurrent_max: Some(AT_ONCE),
            ..Limits::default()
        };
        book.set_limits(
            crate::quota::charge::Scope::Tenant("acme".into()),
            &limits,
            S,
        );
        Self {
            book,
            open: Vec::new(),
            unsettled: 0,
            run: Uuid::new_v4(),
            id: None,
            listed: false,
            asked: None,
            due: Duration::ZERO,
            paused_until: Duration::ZERO,
            cut_until: Duration::ZERO,
            grantor: Grantor::new(TTL),
        }
    }

    fn held(&self) -> u64 {
        self.open.iter().map(|(_, tokens)| tokens).sum()
    }
}
