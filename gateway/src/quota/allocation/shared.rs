//! An allocation that several gateways share: what of it is on lease here, and what the store is told.

use std::sync::Arc;
use std::time::Duration;

use super::{Allocation, Balance};
use crate::quota::lease::slice::{Slice, Turn};
use crate::quota::lease::{Answer, Holding, Line, Subject};

impl Allocation {
    /// Shares it with other gateways: from now on only what is on lease can be reserved.
    pub fn share(&mut self) {
        self.slice.get_or_insert_default();
    }

    /// As it may be for all gateways together: spent where the store has just said so, and otherwise whole.
    #[must_use]
    pub fn guess(&self, now: Duration) -> Self {
        let balance = Balance {
            carried: self.balance.carried,
            ..Balance::default()
        };
        Self {
            reserved: if self.is_spent(now) { u64::MAX } else { 0 },
            balance,
            ..Self::new(self.grant.clone())
        }
    }

    /// Whether nothing is left here, and the store has just said that it has no more.
    #[must_use]
    pub fn is_spent(&self, now: Duration) -> bool {
        let slice = self.slice.as_ref();
        slice.is_some_and(|slice| slice.is_dry(now) && slice.free(self.reserved) == 0)
    }

    /// Its slice, where it is shared.
    pub fn slice_mut(&mut self) -> Option<&mut Slice> {
        self.slice.as_deref_mut()
    }

    /// Whether `amount` more is not at hand, and the store may have it.
    #[must_use]
    pub fn is_short(&self, amount: u64, now: Duration) -> bool {
        let slice = self.slice.as_ref();
        slice.is_some_and(|slice| slice.is_short(amount, self.reserved, now))
    }

    /// Whether a round should come soon.
    #[must_use]
    pub fn runs_low(&self) -> bool {
        let slice = self.slice.as_ref();
        slice.is_some_and(|slice| slice.runs_low(self.reserved))
    }

    /// What to tell the store in a round: of this period, and once of the one before.
    pub fn lines(&mut self, turn: &Turn) -> impl Iterator<Item = Line> + use<> {
        let (size, reserved) = (self.size(), self.reserved);
        let past = self.past.take().and_then(|(period, slice)| {
            let subject = Subject::allocation(Arc::clone(&self.grant.id), period);
            slice.give_up(&subject, size)
        });
        let subject = self.subject();
        let slice = self.slice.as_mut();
        let present = slice.and_then(|slice| slice.line(&subject, size, reserved, turn));
        past.into_iter().chain(present)
    }

    /// Gives back all that is on lease, also what open requests hold: the grant is no more.
    pub fn give_up(&mut self) -> Vec<Line> {
        let (size, subject) = (self.size(), self.subject());
        let slice = self.slice.take();
        let present = slice.and_then(|slice| slice.give_up(&subject, size));
        let past = self.lines(&Turn::default());
        present.into_iter().chain(past).collect()
    }

    /// What open requests hold, for a lease that begins anew.
    pub fn enlist(&mut self) -> Option<Holding> {
        self.past = None;
        let amount = self.reserved;
        self.slice.as_mut()?.enlist(amount);
        Some(Holding {
            subject: self.subject(),
            size: self.size(),
            amount,
        })
    }

    /// Takes in what the store said to a line that asked for `need`.
    pub fn answer(&mut self, answer: &Answer, now: Duration, need: u64) {
        if answer.subject.period != self.balance.period {
            return;
        }
        if let Some(slice) = &mut self.slice {
            slice.answer(answer, now, need);
            self.balance.posted = answer.posted;
            self.balance.excess = answer.excess;
            self.balance.carried = answer.carried;
        }
        if answer.is_closed {
            // By another gateway's clock the next one has begun, and what was left has gone over.
            self.roll_to(self.balance.period.saturating_add(1));
        }
    }

    /// Whether nothing is left to tell the store.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.past.is_none()
            && self.reserved == 0
            && self.slice.as_deref().is_none_or(Slice::is_idle)
    }

    fn subject(&self) -> Subject {
        Subject::allocation(Arc::clone(&self.grant.id), self.balance.period)
    }
}
