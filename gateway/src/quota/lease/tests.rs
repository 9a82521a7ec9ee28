//! Gateways that share a store, in simulated time: answers come late or never, gateways pause, crash and are cut off, and at
//! every moment nothing is spent twice.

mod model;
mod store;

use super::pool::{Pool, Round};
use super::slice::{Slice, Turn};
use super::*;
use model::{Faults, World};

const S: Duration = Duration::from_secs(1);

fn line(size: Size, need: u64, surplus: u64) -> Line {
    Line {
        subject: Subject::allocation("a".into(), 0),
        size,
        spent: 0,
        refunded: 0,
        returned: 0,
        need,
        least: 1,
        surplus,
    }
}

fn stock(amount: u64) -> Size {
    Size::Stock {
        amount,
        overdraft: 0,
        carry_over_percent: 0,
    }
}

fn round(now: Duration) -> Round {
    Round { now, gateways: 3 }
}

#[test]
fn those_who_wait_come_first_and_surplus_shrinks_with_what_is_left() {
    let (mut pool, mut mine, mut other) = (Pool::default(), 0, 0);
    let answer = pool.exchange(&line(stock(1_000), 100, 1_000), &mut mine, round(S));
    assert_eq!(
        (answer.granted, answer.free, mine),
        (100 + 900 / 6, 750, 250)
    );
    let answer = pool.exchange(&line(stock(1_000), 740, 1_000), &mut other, round(S));
    assert_eq!(
        (answer.granted, answer.free, answer.elsewhere),
        (741, 9, 250)
    );
    let answer = pool.exchange(&line(stock(1_000), 100, 0), &mut other, round(S));
    assert_eq!((answer.granted, answer.free), (9, 0));
    pool.post(300, 0, &mut other);
    assert_eq!((pool.posted, pool.leased, other), (300, 700, 450));
    assert!(pool.holds_l1(stock(1_000)));
}

#[test]
fn parts_that_are_of_use_to_nobody_come_together() {
    let (mut pool, mut mine, mut other) = (Pool::default(), 0, 0);
    pool.exchange(&line(stock(100), 30, 0), &mut mine, round(S));
    let whole = |returned| Line {
        returned,
        least: 100,
        ..line(stock(100), 300, 0)
    };
    assert_eq!(pool.exchange(&whole(0), &mut other, round(S)).granted, 0);
    assert_eq!(pool.exchange(&whole(30), &mut mine, round(S)).granted, 100);
}

#[test]
fn nobody_gets_a_surplus_of_what_another_lacks() {
    let (mut pool, mut mine, mut other) = (Pool::default(), 0, 0);
    pool.exchange(&line(stock(100), 30, 0), &mut mine, round(S));
    let whole = Line {
        least: 100,
        ..line(stock(100), 100, 60)
    };
    let answer = pool.exchange(&whole, &mut other, round(S));
    assert_eq!((answer.granted, answer.free), (0, 70));
    assert!(answer.lacks(&whole));
}

#[test]
fn one_that_is_called_gives_back_all_but_what_was_just_lent_to_those_who_wait() {
    let subject = Subject::allocation("a".into(), 0);
    let turn = |ms, is_called: bool| Turn {
        now: Duration::from_millis(ms),
        is_regular: false,
        called: is_called.then(|| subject.clone()).into_iter().collect(),
    };
    let (mut pool, mut mine, mut slice) = (Pool::default(), 0, Slice::default());
    let mut tell = |slice: &mut Slice, turn: &Turn| {
        let line = slice.line(&subject, stock(1_000), 0, turn)?;
        let answer = pool.exchange(&line, &mut mine, round(turn.now));
        slice.answer(&answer, turn.now, line.need);
        Some((line.returned, line.surplus))
    };
    // Two wait; one of them takes what it needs.
    slice.want(100);
    slice.want(100);
    assert_eq!(tell(&mut slice, &turn(0, false)), Some((0, 0)));
    assert_eq!(slice.free(0), 200);
    slice.spend(100);
    // The other may still come for its part.
    assert_eq!(tell(&mut slice, &turn(10, true)), Some((0, 0)));
    assert_eq!(slice.free(0), 100);
    // Where it does not, the call still holds.
    assert_eq!(tell(&mut slice, &turn(110, false)), Some((100, 0)));
    assert_eq!((slice.free(0), slice.leased()), (0, 0));
}

#[test]
fn what_is_settled_without_a_lease_is_recorded_as_excess() {
    let (mut pool, mut mine) = (Pool::default(), 0);
    pool.exchange(&line(stock(100), 100, 0), &mut mine, round(S));
    pool.take_back(100, &mut mine);
    let mut other = 0;
    pool.exchange(&line(stock(100), 100, 0), &mut other, round(S));
    pool.post(30, 0, &mut mine);
    assert_eq!((pool.posted, pool.excess), (30, 30));
    assert!(pool.holds_l1(stock(100)));
}

#[test]
fn a_rate_and_what_is_out_of_it_on_lease_are_never_more_than_a_minutes_worth() {
    let size = Size::Flow { per_minute: 60 };
    let (mut pool, mut mine, mut other) = (Pool::default(), 0, 0);
    let ask = |need| line(size, need, 0);
    assert_eq!(pool.exchange(&ask(60), &mut mine, round(S)).granted, 60);
    // After a minute the bucket is full again, but all of its first content may still be spent.
    assert_eq!(
        pool.exchange(&ask(60), &mut other, round(61 * S)).granted,
        0
    );
    let used = Line {
        spent: 20,
        ..ask(0)
    };
    pool.exchange(&used, &mut mine, round(61 * S));
    assert_eq!(
        pool.exchange(&ask(60), &mut other, round(61 * S)).granted,
        20
    );
    let back = Line {
        spent: 0,
        returned: 40,
        ..ask(0)
    };
    pool.exchange(&back, &mut mine, round(61 * S));
    assert_eq!(
        pool.exchange(&ask(60), &mut mine, round(61 * S)).granted,
        40
    );
    let answer = pool.exchange(&ask(1), &mut mine, round(61 * S));
    assert_eq!(answer.full_in, 40 * S);
}

#[test]
fn while_answers_only_come_late_nothing_is_ever_admitted_beyond_what_there_is() {
    for seed in seeds() {
        World::new(seed, Faults::Late).live(120);
    }
}

#[test]
fn pauses_crashes_and_a_store_that_is_away_cost_no_more_than_what_was_cut_off() {
    for seed in seeds() {
        World::new(seed, Faults::All).live(120);
    }
}

#[test]
fn at_the_end_of_a_budget_nothing_is_stranded() {
    for seed in seeds() {
        World::new(seed, Faults::None).spends_all();
    }
}

fn seeds() -> std::ops::Range<u64> {
    let worlds = std::env::var("HANSA_SOAK_LEASES");
    0..worlds.map_or(12, |text| text.parse().unwrap())
}
