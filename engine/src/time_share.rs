//! Who takes the next turn on a device that several models share: fair shares of time by start-time fair queueing (Goyal,
//! Vin, Cheng, 1996).
//!
//! Each model has a clock of virtual time, which a turn advances by its duration divided by the model's weight; the one
//! that is furthest behind goes next. Who comes back to work after a pause is lifted to where those stand that worked:
//! a pause saves nothing up. Pure numbers; it must not know what a turn is.

use std::time::Duration;

/// One model's virtual time.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    clock_s: f64,
    weight: f64,
    active: bool,
}

/// The virtual time of the device: where the model stood that took the last turn. It never goes back.
#[derive(Debug, Default)]
pub(crate) struct TimeShare {
    now_s: f64,
}

impl Account {
    /// The account of a model with `weight` shares of the time, which has nothing to do yet.
    pub(crate) fn new(weight: u32) -> Self {
        Self {
            clock_s: 0.0,
            weight: f64::from(weight.max(1)),
            active: false,
        }
    }

    /// The model has nothing to do.
    pub(crate) fn rest(&mut self) {
        self.active = false;
    }
}

impl TimeShare {
    /// The model of `account` has work.
    pub(crate) fn wake(&self, account: &mut Account) {
        if !account.active {
            account.active = true;
            account.clock_s = account.clock_s.max(self.now_s);
        }
    }

    /// Whose turn it is; of equals the first. `None` where nobody has work.
    pub(crate) fn next<'a>(&self, accounts: impl Iterator<Item = &'a Account>) -> Option<usize> {
        let active = accounts.enumerate().filter(|(_, account)| account.active);
        let first = active.min_by(|(_, a), (_, b)| a.clock_s.total_cmp(&b.clock_s));
        first.map(|(index, _)| index)
    }

    /// The model of `account` took a turn.
    pub(crate) fn charge(&mut self, account: &mut Account, took: Duration) {
        self.now_s = self.now_s.max(account.clock_s);
        account.clock_s += took.as_secs_f64() / account.weight;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Turns of `took_ms` each for `total_ms`; the time that each model got.
    fn share(weights: &[u32], took_ms: &[u64], total_ms: u64) -> Vec<u64> {
        let mut device = TimeShare::default();
        let mut accounts: Vec<Account> = weights.iter().map(|w| Account::new(*w)).collect();
        for account in &mut accounts {
            device.wake(account);
        }
        let mut got = vec![0; weights.len()];
        while got.iter().sum::<u64>() < total_ms {
            let next = device.next(accounts.iter()).unwrap();
            device.charge(&mut accounts[next], Duration::from_millis(took_ms[next]));
            got[next] += took_ms[next];
        }
        got
    }

    #[test]
    fn time_is_shared_by_weight_however_long_the_turns_are() {
        let got = share(&[1, 1], &[100, 3], 10_000);
        assert!(got[0].abs_diff(got[1]) <= 100, "{got:?}");
        let got = share(&[3, 1], &[10, 10], 10_000);
        assert!(got[0].abs_diff(3 * got[1]) <= 60, "{got:?}");
    }

    #[test]
    fn a_pause_saves_nothing_up() {
        let mut device = TimeShare::default();
        let (mut busy, mut idle) = (Account::new(1), Account::new(1));
        device.wake(&mut busy);
        device.charge(&mut busy, Duration::from_secs(100));
        device.charge(&mut busy, Duration::from_secs(1));
        device.wake(&mut idle);
        let mut turns = [0, 0];
        for _ in 0..100 {
            let next = device.next([&busy, &idle].into_iter()).unwrap();
            let account = if next == 0 { &mut busy } else { &mut idle };
            device.charge(account, Duration::from_secs(1));
            turns[next] += 1;
        }
        assert!((49..=51).contains(&turns[0]), "{turns:?}");
    }

    #[test]
    fn nobody_takes_a_turn_where_nobody_has_work() {
        let device = TimeShare::default();
        assert_eq!(device.next([Account::new(1)].iter()), None);
        assert_eq!(device.next([].into_iter()), None);
    }

    proptest! {
        /// Whatever the others do, who always has work waits at most one turn of each of them beyond its own last one,
        /// while all weigh the same.
        #[test]
        fn nobody_starves(turns in prop::collection::vec((0_u64..50, 0_u8..8), 1..300)) {
            let mut device = TimeShare::default();
            let mut accounts = vec![Account::new(1); 4];
            let mut since = 0.0_f64;
            for (took_ms, active) in turns {
                device.wake(&mut accounts[0]);
                for (bit, account) in accounts[1..].iter_mut().enumerate() {
                    if active >> bit & 1 == 1 {
                        device.wake(account);
                    } else {
                        account.rest();
                    }
                }
                let next = device.next(accounts.iter()).unwrap();
                device.charge(&mut accounts[next], Duration::from_millis(took_ms));
                since = if next == 0 { 0.0 } else { since + took_ms as f64 };
                // Its own last turn of up to 50 ms put it behind; each other one may use that up, and one turn more.
                prop_assert!(since <= 3.0 * 100.0, "{since} ms");
            }
        }
    }
}
