//! What one gateway has on lease of one pool, and how much of it is enough.
//!
//! A slice is as large as what was spent of it lately, so that it lasts for a few rounds; what lies idle beyond that goes
//! back, and where the pool runs low nothing lies idle. How much of a slice is in use (held by open requests) its owner
//! knows and passes in.

use std::collections::HashSet;
use std::time::Duration;

use super::{Answer, Line, Size, Subject};
use crate::limits::{LEASE_DRY, LEASE_PROMISE};

/// Rounds for which a slice should last: one may fail.
const ROUNDS_AT_HAND: u64 = 2;

/// Rounds by time for which a gateway that was called keeps nothing at hand: whoever called has asked again by then.
const ROUNDS_MODEST: u8 = 2;

/// What the holder of slices knows of the round that begins.
#[derive(Debug, Default)]
pub struct Turn {
    /// The gateway's time.
    pub now: Duration,
    /// It comes by time; others, which requests called for, are no measure of what is usual.
    pub is_regular: bool,
    /// What other gateways lack.
    pub called: HashSet<Subject>,
}

/// The slice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slice {
    leased: u64,
    /// Taken since the last round, and the smoothed sum of that of earlier rounds.
    recent: u64,
    usual: u64,
    /// What requests wait for, and the smallest of them.
    need: u64,
    least: u64,
    /// Of the round under way: what requests wait for, and what was kept for them.
    awaited: (u64, u64),
    /// Lent for requests that waited and have not taken it yet, and until when it is kept for them.
    promised: (u64, Duration),
    /// The last answer was less than what was asked for.
    scarce: bool,
    /// Rounds by time in which nothing is kept at hand, since other gateways lack it.
    modest: u8,
    /// Somebody wants to know how the pool is.
    look: bool,
    spent: u64,
    refunded: u64,
    /// Spent without having been on lease.
    debt: u64,
    /// The most that may lie idle here, by the last answer.
    share: u64,
    /// Until then asking again is of no use.
    dry_until: Duration,
}

impl Slice {
    /// What is there beyond what open requests hold.
    #[must_use]
    pub const fn free(&self, held: u64) -> u64 {
        self.leased.saturating_sub(held).saturating_sub(self.debt)
    }

    /// All of it.
    #[must_use]
    pub const fn leased(&self) -> u64 {
        self.leased
    }

    /// A request took hold of `amount`; it stays part of the slice until it is posted or given up.
    pub const fn take(&mut self, amount: u64) {
        self.recent = self.recent.saturating_add(amount);
        self.promised.0 = self.promised.0.saturating_sub(amount);
    }

    /// A request used up `amount`, which is told in the next round; what was not there is owed.
    pub const fn spend(&mut self, amount: u64) {
        let lent = if amount < self.leased {
            amount
        } else {
            self.leased
        };
        self.take(amount);
        self.leased -= lent;
        self.spent = self.spent.saturating_add(lent);
        self.debt = self.debt.saturating_add(amount - lent);
    }

    /// Of what was spent, `amount` was not used after all. It goes to the store, which knows how full the pool is.
    pub const fn refund(&mut self, amount: u64) {
        self.refunded = self.refunded.saturating_add(amount);
    }

    /// A record told the store that `used` of the slice is settled.
    pub const fn settle(&mut self, used: u64) {
        self.leased = self.leased.saturating_sub(used);
    }

    /// Whether `amount` more is not at hand, and the store may have it.
    #[must_use]
    pub fn is_short(&self, amount: u64, held: u64, now: Duration) -> bool {
        self.free(held) < amount && !self.is_dry(now)
    }

    /// Lets the next round ask how the pool is, whatever else there is to tell.
    pub const fn look(&mut self) {
        self.look = true;
    }

    /// Whether the store has just said that it has no more.
    #[must_use]
    pub fn is_dry(&self, now: Duration) -> bool {
        now < self.dry_until
    }

    /// A request waits for `amount`.
    pub const fn want(&mut self, amount: u64) {
        self.need = self.need.saturating_add(amount);
        self.least = if self.least == 0 || amount < self.least {
            amount
        } else {
            self.least
        };
    }

    /// Whoever waited got nothing: for a while nobody needs to ask.
    pub fn dry(&mut self, now: Duration) {
        self.dry_until = now.saturating_add(LEASE_DRY);
    }

    /// Whether the next round should come soon: less is left than one usually needs.
    #[must_use]
    pub fn runs_low(&self, held: u64) -> bool {
        self.modest == 0 && self.free(held) < self.usual.min(self.share) / 2
    }

    /// What to tell and ask in a round; `None` where there is nothing. Whatever the line gives back is gone from the slice.
    pub fn line(&mut self, subject: &Subject, size: Size, held: u64, turn: &Turn) -> Option<Line> {
        let at_hand = self.measure(turn, subject);
        let free = self.free(held);
        let (wanted, least) = (
            std::mem::take(&mut self.need),
            std::mem::take(&mut self.least),
        );
        let owed = held.saturating_sub(self.leased).saturating_add(self.debt);
        let promised = match turn.now < self.promised.1 {
            true => self.promised.0.min(free),
            false => 0,
        };
        // Where the store has not enough, parts at several gateways are of use to nobody: all of it goes back, and whoever
        // asks when it is there gets the whole.
        let keep = match wanted > free - promised {
            true if self.scarce || self.modest > 0 => promised,
            true => free,
            false if self.modest > 0 => wanted + promised,
            false if free > at_hand.saturating_mul(2).max(wanted + promised) => {
                at_hand.max(wanted + promised)
            }
            false => free,
        };
        let for_these = keep - promised;
        self.promised.0 = promised;
        self.awaited = (wanted, for_these);
        let returned = free - keep;
        self.leased -= returned;
        let line = Line {
            subject: subject.clone(),
            size,
            spent: std::mem::take(&mut self.spent),
            refunded: std::mem::take(&mut self.refunded),
            returned,
            need: wanted.saturating_add(owed).saturating_sub(for_these),
            least: if owed > 0 {
                1
            } else {
                least.saturating_sub(for_these)
            },
            surplus: at_hand.saturating_sub(for_these.saturating_sub(wanted)),
        };
        let told = line.spent | line.refunded | line.returned;
        let asked = line.need | line.surplus;
        let look = std::mem::take(&mut self.look);
        (look || told | asked | free > 0).then_some(line)
    }

    /// What should be at hand, by what was taken lately and by what others lack.
    fn measure(&mut self, turn: &Turn, subject: &Subject) -> u64 {
        self.usual = match turn.is_regular {
            true => self.usual.midpoint(std::mem::take(&mut self.recent)),
            false => self.usual.max(self.recent),
        };
        if turn.called.contains(subject) {
            self.modest = ROUNDS_MODEST;
        } else if turn.is_regular {
            self.modest = self.modest.saturating_sub(1);
        }
        match self.modest {
            0 => (self.usual.saturating_mul(ROUNDS_AT_HAND)).min(self.share),
            _ => 0,
        }
    }

    /// Gives all of it back: nothing more is spent from it.
    #[must_use]
    pub fn give_up(self, subject: &Subject, size: Size) -> Option<Line> {
        let line = Line {
            subject: subject.clone(),
            size,
            spent: self.spent,
            refunded: self.refunded,
            returned: self.leased,
            need: 0,
            least: 0,
            surplus: 0,
        };
        (line.spent | line.refunded | line.returned > 0).then_some(line)
    }

    /// Takes in what the store said to a line that asked for `need`.
    pub fn answer(&mut self, answer: &Answer, now: Duration, need: u64) {
        let paid = self.debt.min(answer.granted);
        self.debt -= paid;
        self.spent = self.spent.saturating_add(paid);
        self.leased = self.leased.saturating_add(answer.granted - paid);
        let (awaited, kept) = std::mem::take(&mut self.awaited);
        // Parts that were kept and not made whole are of use to nobody.
        if awaited > 0 && answer.granted > paid {
            let lent = awaited.min(kept.saturating_add(answer.granted - paid));
            let all = self.promised.0.saturating_add(lent);
            self.promised = (all, now.saturating_add(LEASE_PROMISE));
        }
        self.share = answer.share;
        self.scarce = answer.granted < need;
        if answer.granted < need && answer.elsewhere == 0 {
            self.dry(now);
        }
    }

    /// The lease begins anew with what open requests hold, which is told in the same moment.
    pub fn enlist(&mut self, held: u64) {
        *self = Self {
            leased: held,
            usual: self.usual,
            share: self.share,
            debt: self.debt,
            ..Self::default()
        };
    }

    /// Whether nothing is left to tell, so that it may be forgotten.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        let told = self.leased | self.spent | self.refunded;
        !self.look && told | self.debt | self.usual | self.recent | self.need == 0
    }
}
