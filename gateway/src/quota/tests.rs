//! The handle under threads, and the guard's promises.

use std::thread;

use super::allocation::tests::grant;
use super::amount::Currency;
use super::book::tests::account;
use super::store::memory::MemoryLedger;
use super::*;

fn quota(tokens: u64) -> Quota {
    let mut book = Book::default();
    book.set_grant(grant("a", "acme", tokens));
    let options = Options {
        site: "here".into(),
        default_max_tokens: 16,
    };
    let ledger = Arc::new(MemoryLedger::default());
    Quota::new(book, ledger, Clock::manual(1_700_000_000), options)
}

fn tokens(prompt: u64, completion: u64) -> Tokens {
    Tokens {
        prompt,
        cached: 0,
        completion,
    }
}

fn spent(prompt: u64, completion: u64) -> Spent {
    Spent {
        tokens: tokens(prompt, completion),
        ..Spent::default()
    }
}

fn reserve(quota: &Quota, bound: Tokens) -> Result<Reservation, Refusal> {
    let slip = Slip {
        request: "r".into(),
        purpose: None,
    };
    quota.reserve(&account("acme"), &"m".into(), bound, slip)
}

fn left(quota: &Quota) -> u64 {
    quota.with_book(|book, at| book.allocations_of("acme", at)[0].left())
}

fn records(quota: &Quota) -> Vec<Record> {
    quota.ledger().records(None, 10_000).unwrap()
}

#[test]
fn of_a_thousand_parallel_requests_a_budget_for_ten_admits_ten() {
    for _ in 0..100 {
        let quota = quota(10 * 100);
        let admitted: usize = thread::scope(|scope| {
            let ask = || {
                let asked = (0..250).filter(|_| {
                    let Ok(reservation) = reserve(&quota, tokens(40, 60)) else {
                        return false;
                    };
                    reservation.settle(spent(40, 60), Outcome::Finished)
                });
                asked.count()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            let joined = threads.into_iter().map(|thread| thread.join().unwrap());
            joined.sum()
        });
        assert_eq!(admitted, 10);
        assert_eq!(records(&quota).len(), 10);
        assert_eq!(left(&quota), 0);
        assert_eq!(quota.with_book(|book, _| invariants::all(book)), Ok(()));
    }
}

#[test]
fn of_many_who_settle_one_guard_one_does() {
    let quota = quota(1_000);
    let reservation = reserve(&quota, tokens(50, 50)).unwrap();
    let settled: usize = thread::scope(|scope| {
        let threads = (0..8).map(|index| {
            let reservation = &reservation;
            scope.spawn(move || match index % 2 {
                0 => reservation.settle(spent(50, 10), Outcome::Finished),
                _ => reservation.settle(spent(50, 10), Outcome::Aborted),
            })
        });
        let threads: Vec<_> = threads.collect();
        let joined = threads.into_iter().map(|thread| thread.join().unwrap());
        joined.filter(|first| *first).count()
    });
    assert_eq!(settled, 1);
    drop(reservation);
    assert_eq!(left(&quota), 940);
    assert_eq!(records(&quota).len(), 1);
}

#[test]
fn a_guard_that_is_lost_keeps_its_debit_and_says_so() {
    let quota = quota(1_000);
    drop(reserve(&quota, tokens(30, 70)).unwrap());
    assert_eq!(left(&quota), 900);
    let record = records(&quota).pop().unwrap();
    assert_eq!(record.outcome, Outcome::Abandoned);
    assert!(record.estimated);
    assert_eq!(record.tokens, tokens(30, 70));
}

#[test]
fn a_void_leaves_no_trace() {
    let quota = quota(100);
    let reservation = reserve(&quota, tokens(30, 70)).unwrap();
    assert!(reservation.void());
    assert!(!reservation.settle(spent(30, 1), Outcome::Finished));
    drop(reservation);
    assert_eq!(left(&quota), 100);
    assert_eq!(records(&quota), []);
}

#[test]
fn sites_without_enough_left_are_told_apart() {
    let quota = quota(1_000);
    let of_there = allocation::Grant {
        site: Some("there".into()),
        ..grant("there", "other", 10)
    };
    quota.with_book(|book, _| book.set_grant(of_there));
    let has_left =
        |tenant: &str, site: &str| quota.has_left(&account(tenant), &"m".into(), &site.into());
    assert!(has_left("acme", "here") && has_left("acme", "there"));
    assert!(has_left("other", "there") && !has_left("other", "here"));
    assert!(has_left("nobody", "here"));
}

#[test]
fn a_record_says_who_what_and_how_much() {
    let quota = quota(1_000);
    quota.with_book(|book, _| {
        book.set_grant(allocation::Grant {
            currency: Currency::Money,
            ..grant("money", "acme", 1_000_000)
        });
        let price = amount::Price {
            input: 1_000_000,
            cached: 0,
            output: 2_000_000,
        };
        book.set_price("m".into(), None, price);
    });
    let account = account("acme/a");
    let slip = Slip {
        request: "req-1".into(),
        purpose: Some("research".into()),
    };
    let reservation = quota.reserve(&account, &"m".into(), tokens(10, 90), slip);
    quota
        .shared
        .clock
        .advance(std::time::Duration::from_millis(1_500));
    reservation.unwrap().settle(spent(10, 5), Outcome::Aborted);
    let record = records(&quota).pop().unwrap();
    assert_eq!(&*record.request, "req-1");
    assert_eq!(record.project.as_deref(), Some("acme/a"));
    assert_eq!(record.purpose.as_deref(), Some("research"));
    assert_eq!((record.began_s, record.took_ms), (1_700_000_000, 1_500));
    assert_eq!(record.amounts.money_micros, 20);
    let drawn: Vec<_> = record
        .drawn
        .iter()
        .map(|d| (&*d.allocation, d.total.posted))
        .collect();
    assert_eq!(drawn, [("a", 15), ("money", 20)]);
    let json = serde_json::to_string(&record).unwrap();
    assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
}

/// A quota of 1,000 tokens in 30 days and 60 requests a minute, kept in `file`.
fn kept_in(file: &std::path::Path, clock: &Clock) -> Quota {
    let mut book = Book::default();
    book.set_grant(allocation::Grant {
        renew_days: 30,
        ..grant("a", "acme", 1_000)
    });
    let limits = meter::Limits {
        requests_per_minute: Some(60),
        ..meter::Limits::default()
    };
    let scope = charge::Scope::Tenant("acme".into());
    book.set_limits(scope, &limits, clock.now());
    let ledger = store::embedded::EmbeddedLedger::open(file).unwrap();
    let options = Options {
        site: "here".into(),
        default_max_tokens: 16,
    };
    let quota = Quota::new(book, Arc::new(ledger), clock.clone(), options);
    quota.replay().unwrap();
    quota
}

#[test]
fn clock_steps_pauses_and_restarts_open_no_period_twice_and_lift_no_rate() {
    const PERIOD_S: i64 = 30 * 86_400;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ledger.redb");
    // Some minutes before a period ends, so that steps go over its end and back again.
    let clock = Clock::manual(600 * PERIOD_S - 200);
    let mut quota = kept_in(&file, &clock);
    let (mut number, mut since, mut admitted) = (7_u64, clock.now(), 0_u64);
    for _ in 0..4_000 {
        number = number
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        match (number >> 33) % 200 {
            0 => clock.step(300),
            1 => clock.step(-300),
            2 => clock.advance(std::time::Duration::from_secs(10)),
            3 => {
                drop(quota);
                quota = kept_in(&file, &clock);
                // Rates are of the moment: a restart gives a whole minute's anew.
                (since, admitted) = (clock.now(), 0);
            }
            _ => clock.advance(std::time::Duration::from_millis(20)),
        }
        if let Ok(held) = reserve(&quota, tokens(1, 4)) {
            admitted += 1;
            held.settle(spent(1, (number >> 40) % 5), Outcome::Finished);
        }
        let minutes = (clock.now() - since).as_secs_f64() / 60.0;
        assert!(
            admitted as f64 <= 60.0 + 60.0 * minutes + 1.0,
            "{admitted} in {minutes} minutes"
        );
        assert_eq!(quota.with_book(|book, _| invariants::all(book)), Ok(()));
    }
    quota.ledger().flush().unwrap();
    let totals = quota.ledger().totals().unwrap();
    assert!(totals.len() >= 2, "no step went over the end of a period");
    for (of, total) in totals {
        assert!(
            total.posted <= 1_000 && total.excess == 0,
            "{of:?}: {total:?}"
        );
    }
}
