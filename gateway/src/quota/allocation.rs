//! One allocation: so much of one currency, for one tenant, at one site or any, in one period.
//!
//! What is open and what is settled are kept apart, so that parallel requests can never spend the same twice: a request
//! holds its upper bound before it begins and posts what it really used when it ends. Wall time decides which period it
//! is; a period that has begun is never begun again, whatever the clock does.

mod shared;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::amount::Currency;
use super::lease::Size;
use super::lease::slice::Slice;
use crate::limits::CARRIED_PERIODS_MAX;

/// What an operator grants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Its name in records and messages.
    pub id: Arc<str>,
    /// The organisation, or the project as `organisation/project`.
    pub tenant: Arc<str>,
    /// The site that it is good for; `None` for any.
    #[serde(default)]
    pub site: Option<Arc<str>>,
    /// What it is counted in.
    pub currency: Currency,
    /// How much in each period, in smallest units.
    pub amount: u64,
    /// How much more may be spent, in smallest units.
    #[serde(default)]
    pub overdraft: u64,
    /// Percent of `amount` from which answers carry a warning.
    #[serde(default = "no_warning")]
    pub soft_percent: u8,
    /// First second, since the epoch.
    #[serde(default)]
    pub start_s: i64,
    /// First second after it.
    #[serde(default = "never")]
    pub end_s: i64,
    /// Days after which it begins anew; 0 for one period from start to end.
    #[serde(default)]
    pub renew_days: u32,
    /// Percent of what is left that goes over into the next period.
    #[serde(default)]
    pub carry_over_percent: u8,
}

const fn no_warning() -> u8 {
    100
}

const fn never() -> i64 {
    i64::MAX
}

impl Grant {
    /// The number of the period at `unix_s`.
    fn period_at(&self, unix_s: i64) -> u64 {
        let length_s = u64::from(self.renew_days) * 86_400;
        let since_s = u64::try_from(unix_s.saturating_sub(self.start_s)).unwrap_or(0);
        since_s.checked_div(length_s).unwrap_or(0)
    }

    /// When the period after number `period` begins, where there is one.
    fn next_at(&self, period: u64) -> Option<i64> {
        let length_s = u64::from(self.renew_days).checked_mul(86_400)?;
        let seconds = i64::try_from(period.checked_add(1)?.checked_mul(length_s)?).ok()?;
        let next = self.start_s.checked_add(seconds)?;
        (length_s > 0 && next < self.end_s).then_some(next)
    }
}

/// What a ledger's records of one allocation and period add up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Total {
    /// Settled.
    pub posted: u64,
    /// Of that, beyond what had been reserved.
    pub excess: u64,
}

/// What is settled of an allocation in its present period.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Balance {
    /// Number of the period.
    pub period: u64,
    /// Carried over into it.
    pub carried: u64,
    /// Settled in it.
    pub posted: u64,
    /// Of that, what requests used beyond what they had reserved: a recorded overdraft.
    pub excess: u64,
}

/// A grant and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    grant: Grant,
    balance: Balance,
    reserved: u64,
    /// Where gateways share it: what this one may spend. The balance is then that of all, as of the last round.
    slice: Option<Box<Slice>>,
    /// What the slice had of the period before, and its number.
    past: Option<(u64, Box<Slice>)>,
}

impl Allocation {
    /// A grant of which nothing is spent.
    #[must_use]
    pub fn new(grant: Grant) -> Self {
        Self {
            grant,
            balance: Balance::default(),
            reserved: 0,
            slice: None,
            past: None,
        }
    }

    /// What no gateway has spent or holds for its requests, as far as is known here.
    #[must_use]
    pub const fn unspent(&self) -> u64 {
        self.capacity().saturating_sub(self.committed())
    }

    /// What was granted.
    #[must_use]
    pub const fn grant(&self) -> &Grant {
        &self.grant
    }

    /// What is settled.
    #[must_use]
    pub const fn balance(&self) -> Balance {
        self.balance
    }

    /// What open requests hold.
    #[must_use]
    pub const fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Another grant in its place; what is spent and held stays.
    pub fn change(&mut self, grant: Grant) {
        self.grant = grant;
        self.record_excess();
    }

    /// Whether it may be spent at this moment.
    #[must_use]
    pub const fn is_open(&self, unix_s: i64) -> bool {
        self.grant.start_s <= unix_s && unix_s < self.grant.end_s
    }

    /// Goes on to the period of this moment. What is held stays held and counts in the new one.
    pub fn roll(&mut self, unix_s: i64) {
        self.roll_to(self.grant.period_at(unix_s));
    }

    /// Counts what a ledger says was settled in `period`; the periods come in their order.
    pub fn replay(&mut self, period: u64, total: Total) {
        self.roll_to(period);
        self.balance.posted = self.balance.posted.saturating_add(total.posted);
        self.balance.excess = self.balance.excess.saturating_add(total.excess);
    }

    fn roll_to(&mut self, now: u64) {
        let passed = now.saturating_sub(self.balance.period);
        if passed == 0 {
            return;
        }
        let committed = self.committed();
        let carried = carry_over(self.size(), self.balance.carried, committed, passed);
        if let Some(slice) = &mut self.slice {
            self.past = Some((self.balance.period, std::mem::take(slice)));
        }
        self.balance = Balance {
            period: now,
            carried,
            posted: 0,
            excess: 0,
        };
        self.balance.excess = self.reserved.saturating_sub(self.capacity());
    }

    /// What can still be reserved, here and now.
    #[must_use]
    pub fn left(&self) -> u64 {
        match &self.slice {
            Some(slice) => slice.free(self.reserved),
            None => self.unspent(),
        }
    }

    /// Seconds since the epoch at which there will be more, where that is known.
    #[must_use]
    pub fn renews_at(&self) -> Option<i64> {
        self.grant.next_at(self.balance.period)
    }

    /// Whether a tenant should be warned.
    #[must_use]
    pub fn is_past_soft_limit(&self) -> bool {
        let spent = u128::from(self.committed()) * 100;
        let granted = u128::from(self.grant.amount.saturating_add(self.balance.carried));
        self.grant.soft_percent < 100 && spent >= granted * u128::from(self.grant.soft_percent)
    }

    /// Holds `amount`, which is left.
    pub fn hold(&mut self, amount: u64) {
        self.reserved = self.reserved.saturating_add(amount);
        if let Some(slice) = &mut self.slice {
            slice.take(amount);
        }
    }

    /// Takes over what open requests hold already, whether there is room for it or not.
    pub fn adopt(&mut self, held: u64) {
        self.hold(held);
        self.record_excess();
    }

    /// Records what is committed beyond what there is.
    pub fn record_excess(&mut self) {
        let beyond = self.committed().saturating_sub(self.capacity());
        self.balance.excess = self.balance.excess.max(beyond);
    }

    /// Gives up a hold.
    pub const fn release(&mut self, held: u64) {
        self.reserved = self.reserved.saturating_sub(held);
    }

    /// Turns a hold into what was really used.
    pub fn post(&mut self, held: u64, used: u64) -> Total {
        self.release(held);
        let excess = used.saturating_sub(held);
        self.balance.posted = self.balance.posted.saturating_add(used);
        self.balance.excess = self.balance.excess.saturating_add(excess);
        if let Some(slice) = &mut self.slice {
            slice.settle(used);
        }
        Total {
            posted: used,
            excess,
        }
    }

    /// L1: settled and held together stay within what is granted, but for what is recorded as excess.
    #[must_use]
    pub const fn holds_l1(&self) -> bool {
        self.committed() <= self.capacity().saturating_add(self.balance.excess)
    }

    /// How large it is, as the store needs to know.
    #[must_use]
    pub const fn size(&self) -> Size {
        Size::Stock {
            amount: self.grant.amount,
            overdraft: self.grant.overdraft,
            carry_over_percent: self.grant.carry_over_percent,
        }
    }

    const fn committed(&self) -> u64 {
        self.balance.posted.saturating_add(self.reserved)
    }

    const fn capacity(&self) -> u64 {
        let granted = self.grant.amount.saturating_add(self.balance.carried);
        granted.saturating_add(self.grant.overdraft)
    }
}

/// What goes over after `passed` periods, of which the first had `carried` and `committed`, and the others nothing more.
#[must_use]
pub fn carry_over(size: Size, mut carried: u64, mut committed: u64, passed: u64) -> u64 {
    let Size::Stock {
        amount,
        carry_over_percent,
        ..
    } = size
    else {
        return 0;
    };
    // After a few periods without spending the sum no longer changes by a whole unit, or grows by a whole grant.
    for _ in 0..passed.min(CARRIED_PERIODS_MAX) {
        let left = amount.saturating_add(carried).saturating_sub(committed);
        let share = u128::from(left) * u128::from(carry_over_percent.min(100)) / 100;
        carried = u64::try_from(share).unwrap_or(u64::MAX);
        committed = 0;
    }
    carried
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const DAY_S: i64 = 86_400;

    pub(in crate::quota) fn grant(id: &str, tenant: &str, amount: u64) -> Grant {
        Grant {
            id: id.into(),
            tenant: tenant.into(),
            site: None,
            currency: Currency::Tokens,
            amount,
            overdraft: 0,
            soft_percent: 80,
            start_s: 0,
            end_s: i64::MAX,
            renew_days: 0,
            carry_over_percent: 0,
        }
    }

    fn reserve(allocation: &mut Allocation, amount: u64) -> bool {
        let room = amount <= allocation.left();
        if room {
            allocation.hold(amount);
        }
        room
    }

    fn monthly(carry_over_percent: u8) -> Allocation {
        let grant = Grant {
            renew_days: 30,
            carry_over_percent,
            ..grant("a", "acme", 1_000)
        };
        Allocation::new(grant)
    }

    #[test]
    fn a_hold_is_spent_once_and_gives_back_what_it_did_not_use() {
        let mut allocation = Allocation::new(grant("a", "acme", 100));
        assert!(reserve(&mut allocation, 60));
        assert!(!reserve(&mut allocation, 41));
        assert!(reserve(&mut allocation, 40));
        allocation.post(60, 10);
        assert_eq!(allocation.left(), 50);
        allocation.release(40);
        assert_eq!(allocation.left(), 90);
        assert!(!allocation.is_past_soft_limit());
        assert!(reserve(&mut allocation, 70));
        assert!(allocation.is_past_soft_limit());
        assert!(allocation.holds_l1());
    }

    #[test]
    fn an_overdraft_extends_the_amount_and_an_excess_is_recorded() {
        let grant = Grant {
            overdraft: 10,
            ..grant("a", "acme", 100)
        };
        let mut allocation = Allocation::new(grant);
        assert!(reserve(&mut allocation, 110));
        assert!(!reserve(&mut allocation, 1));
        allocation.post(110, 150);
        assert_eq!(allocation.balance().excess, 40);
        assert_eq!(allocation.left(), 0);
        assert!(allocation.holds_l1());
    }

    #[test]
    fn a_new_period_carries_over_its_share_and_keeps_the_holds() {
        let mut allocation = monthly(50);
        assert!(reserve(&mut allocation, 200));
        allocation.post(200, 200);
        assert!(reserve(&mut allocation, 100));
        allocation.roll(30 * DAY_S);
        // Half of the 700 that were neither spent nor held.
        assert_eq!(allocation.balance().carried, 350);
        assert_eq!(allocation.left(), 1_350 - 100);
        assert_eq!(allocation.renews_at(), Some(60 * DAY_S));
        assert!(allocation.holds_l1());
    }

    #[test]
    fn periods_without_use_carry_over_one_after_the_other() {
        let mut allocation = monthly(50);
        allocation.roll(90 * DAY_S);
        assert_eq!(allocation.balance().carried, 875);
        let mut allocation = monthly(0);
        allocation.roll(i64::MAX);
        assert_eq!(allocation.balance().carried, 0);
    }

    #[test]
    fn a_clock_that_steps_back_opens_no_period_twice() {
        let mut allocation = monthly(0);
        allocation.roll(30 * DAY_S + 10);
        assert!(reserve(&mut allocation, 1_000));
        allocation.post(1_000, 1_000);
        for step_s in [-300, 300, -600] {
            allocation.roll(30 * DAY_S + 10 + step_s);
            assert_eq!(allocation.left(), 0, "after a step of {step_s} s");
        }
    }

    #[test]
    fn absurd_amounts_overflow_nothing() {
        let grant = Grant {
            overdraft: u64::MAX,
            carry_over_percent: 100,
            renew_days: u32::MAX,
            start_s: i64::MIN,
            ..grant("a", "acme", u64::MAX)
        };
        let mut allocation = Allocation::new(grant);
        assert!(reserve(&mut allocation, u64::MAX));
        allocation.post(u64::MAX, u64::MAX);
        allocation.roll(i64::MAX);
        assert!(allocation.holds_l1());
        let _ = allocation.renews_at();
    }
}
