//! What stands in the store of one allocation, rate or bound: how much is settled, and how much is out on lease.
//!
//! Whoever changes a pool holds its lock in the store, reads it, lets this file do the sums and writes it back.

use std::time::Duration;

use super::{Answer, Line, Size};
use crate::quota::rate::Rate;

/// One pool. Amounts are in smallest units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pool {
    /// Settled.
    pub posted: u64,
    /// Of that, beyond what was lent for it.
    pub excess: u64,
    /// Carried over into its period.
    pub carried: u64,
    /// Out on lease, at all gateways.
    pub leased: u64,
    /// Moment at which a rate is full, in the store's time.
    pub full_at: Duration,
    /// What was left has gone over into a later period: nothing more is lent.
    pub is_closed: bool,
}

/// One round as the store sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Round {
    /// The store's time: what its grantors have counted.
    pub now: Duration,
    /// Gateways with a lease; 1 or more.
    pub gateways: u64,
}

impl Pool {
    /// Takes in what one gateway tells and lends it what it asks for, as far as that is there; `mine` is what that gateway
    /// has on lease. Those who wait come first; what would lie idle shrinks with what is left, so that at the end each
    /// gateway has just what its requests need.
    pub fn exchange(&mut self, line: &Line, mine: &mut u64, round: Round) -> Answer {
        let returned = line.returned.min(*mine);
        self.take_back(returned.saturating_add(line.spent), mine);
        self.refill(line.size, returned.saturating_add(line.refunded), round.now);
        let free = self.free(line.size, round.now);
        // What is of use to nobody there stays here, for one who has the rest.
        let need = match line.need <= free {
            true => line.need,
            false => free - free % line.least.max(1),
        };
        let share = (free - need) / round.gateways.max(1).saturating_mul(2);
        // Where somebody lacks something, the rest stays whole until what he lacks has come back.
        let granted = match need < line.need {
            true => need,
            false => need + line.surplus.min(share),
        };
        self.lend(line.size, granted, mine, round.now);
        Answer {
            subject: line.subject.clone(),
            granted,
            posted: self.posted,
            excess: self.excess,
            carried: self.carried,
            free: free - granted,
            elsewhere: self.leased.saturating_sub(*mine),
            share,
            full_in: self.full_at.saturating_sub(round.now),
            is_closed: self.is_closed,
        }
    }

    /// Lends what a gateway holds already, whether there is room for it or not; what goes beyond is recorded.
    pub fn adopt(&mut self, size: Size, amount: u64, mine: &mut u64) {
        *mine = mine.saturating_add(amount);
        self.leased = self.leased.saturating_add(amount);
        let beyond = self.posted.saturating_add(self.leased);
        let beyond = beyond.saturating_sub(self.capacity(size));
        if matches!(size, Size::Stock { .. }) {
            self.excess = self.excess.max(beyond);
        }
    }

    /// Settles what one gateway used, out of its lease.
    pub fn post(&mut self, used: u64, excess: u64, mine: &mut u64) {
        let unlent = used.saturating_sub(*mine);
        self.take_back(used, mine);
        self.posted = self.posted.saturating_add(used);
        self.excess = self.excess.saturating_add(excess.max(unlent));
    }

    /// Settles what a gateway that is gone had let in, out of nobody's lease; what of it is beyond what there is, which is
    /// recorded.
    pub fn post_late(&mut self, size: Size, used: u64) -> u64 {
        self.posted = self.posted.saturating_add(used);
        let beyond = self.posted.saturating_add(self.leased);
        let beyond = beyond.saturating_sub(self.capacity(size));
        let more = beyond.saturating_sub(self.excess);
        self.excess = self.excess.saturating_add(more);
        more
    }

    /// Takes back at most `amount` of what a gateway has on lease.
    pub fn take_back(&mut self, amount: u64, mine: &mut u64) {
        let back = amount.min(*mine);
        *mine -= back;
        self.leased = self.leased.saturating_sub(back);
    }

    /// L1 in the store: what is settled and what is out on lease stay within what there is, but for what is recorded.
    #[must_use]
    pub fn holds_l1(&self, size: Size) -> bool {
        let committed = self.posted.saturating_add(self.leased);
        committed <= self.capacity(size).saturating_add(self.excess)
    }

    fn capacity(&self, size: Size) -> u64 {
        match size {
            Size::Stock {
                amount, overdraft, ..
            } => amount
                .saturating_add(self.carried)
                .saturating_add(overdraft),
            Size::Flow { per_minute } => per_minute,
            Size::Slots { max } => max,
        }
    }

    fn free(&self, size: Size, now: Duration) -> u64 {
        let committed = self.posted.saturating_add(self.leased);
        let unlent = self.capacity(size).saturating_sub(committed);
        match size {
            // What is out on lease can be spent at any moment: with what is left here it must not be more than a full bucket.
            Size::Flow { per_minute } => unlent.min(self.bucket(per_minute).remaining(now)),
            Size::Stock { .. } if self.is_closed => 0,
            Size::Stock { .. } | Size::Slots { .. } => unlent,
        }
    }

    fn lend(&mut self, size: Size, amount: u64, mine: &mut u64, now: Duration) {
        *mine = mine.saturating_add(amount);
        self.leased = self.leased.saturating_add(amount);
        if let Size::Flow { per_minute } = size {
            let mut bucket = self.bucket(per_minute);
            bucket.take(amount, now);
            self.full_at = bucket.full_at();
        }
    }

    fn refill(&mut self, size: Size, amount: u64, now: Duration) {
        if let (Size::Flow { per_minute }, 1..) = (size, amount) {
            let mut bucket = self.bucket(per_minute);
            bucket.give_back(amount, now, now);
            self.full_at = bucket.full_at();
        }
    }

    const fn bucket(&self, per_minute: u64) -> Rate {
        Rate::full_from(per_minute, self.full_at)
    }
}
