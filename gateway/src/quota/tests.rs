//! The handle under threads, and the guard's promises.

use std::thread;

use super::allocation::tests::grant;
use super::amount::Currency;
use super::book::tests::account;
use super::store::embedded::EmbeddedLedger;
use super::store::memory::MemoryLedger;
use super::*;
use crate::upstream::Usage;
use crate::upstream::purse::Purse;
use crate::upstream::usage::Finished;

fn quota(tokens: u64) -> Quota {
    let mut book = Book::default();
    book.set_grant(grant("a", "acme", tokens));
    let options = Options {
        site: "here".into(),
        home: "home".into(),
        default_max_tokens: 16,
        policy: None,
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
fn a_request_is_paid_where_it_goes_and_its_parts_go_together() {
    let quota = quota(1_000);
    let of_there = allocation::Grant {
        site: Some("there".into()),
        ..grant("there", "acme", 100)
    };
    quota.with_book(|book, _| book.set_grant(of_there));
    let reservation = reserve(&quota, tokens(30, 70)).unwrap();
    reservation.has_several_parts();
    // Routing has its own name for this server's site.
    assert_eq!(reservation.at(&"home".into()), Means::Any);
    assert_eq!(reservation.at(&"there".into()), Means::Own);
    assert!(Purse::move_to(&reservation, &"there".into()));
    assert_eq!(left(&quota), 1_000);
    assert_eq!(reservation.at(&"home".into()), Means::Nothing);
    assert_eq!(reservation.at(&"there".into()), Means::Own);
    reservation.settle(spent(30, 5), Outcome::Finished);
    let record = records(&quota).pop().unwrap();
    assert_eq!(&*record.site, "there");
    assert_eq!(&*record.drawn[0].allocation, "there");
}

#[test]
fn what_a_life_left_open_is_settled_by_the_next_one_once() {
    let ledger = Arc::new(EmbeddedLedger::on(redb::backends::InMemoryBackend::new()).unwrap());
    let live = || {
        let mut book = Book::default();
        book.set_grant(grant("a", "acme", 100));
        let options = Options {
            site: "here".into(),
            home: "home".into(),
            default_max_tokens: 16,
            policy: None,
        };
        let ledger = Arc::clone(&ledger) as Arc<dyn Ledger>;
        let quota = Quota::new(book, ledger, Clock::manual(1_700_000_000), options);
        quota.replay().unwrap();
        quota
    };
    let usage = |completion_tokens| Usage {
        prompt_tokens: 10,
        completion_tokens,
        ..Usage::default()
    };
    let found = |charge: &Arc<str>, completion| Finished {
        id: "r".into(),
        charge: Arc::clone(charge),
        usage: usage(completion),
        site: Some("there".into()),
    };
    let first = live();
    let (settled, open) = (
        reserve(&first, tokens(10, 10)).unwrap(),
        reserve(&first, tokens(10, 10)).unwrap(),
    );
    let tags = [&settled, &open].map(|reservation| reservation.tag(0).unwrap());
    let (owner, run) = first.lives().unwrap();
    assert!(tags[0].starts_with(&format!("{owner}.{run}.")));
    settled.settle(spent(10, 3), Outcome::Finished);
    first.ledger().flush().unwrap();
    // It dies with one open.
    std::mem::forget(open);
    for _ in 0..2 {
        let next = live();
        assert_ne!(next.lives().unwrap().1, run);
        for (tag, completion) in [(&tags[0], 9), (&tags[1], 4)] {
            let settled = next.settle_found(vec![found(tag, completion)]);
            assert_eq!(settled.unwrap(), ["r".into()]);
        }
        assert_eq!(left(&next), 100 - 13 - 14);
        assert_eq!(next.with_book(|book, _| invariants::all(book)), Ok(()));
    }
    let all = records(&first);
    assert_eq!(all.len(), 2);
    let late = all.iter().find(|record| record.outcome == Outcome::Aborted);
    assert_eq!(&*late.unwrap().site, "there");
    assert_eq!(late.unwrap().began_s, 1_700_000_000, "when it was let in");
    let nonsense = first.settle_found(vec![found(&"nonsense".into(), 1)]);
    assert_eq!(nonsense.unwrap(), Vec::<Arc<str>>::new());
    // More than is left is charged all the same, and recorded as excess.
    let other = reserve(&first, tokens(10, 10)).unwrap();
    let next = live();
    // Two servers know of it: the one that did most is paid, and both are told.
    let tag = other.tag(1).unwrap();
    let settled = next.settle_found(vec![found(&tag, 900), found(&tag, 1_000)]);
    assert_eq!(settled.unwrap().len(), 2);
    assert_eq!(left(&next), 0);
    assert_eq!(next.with_book(|book, _| invariants::all(book)), Ok(()));
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
    let reservation = reservation.unwrap();
    Purse::served(&reservation, &"node".into(), Some(&"build".into()));
    reservation.settle(spent(10, 5), Outcome::Aborted);
    let record = records(&quota).pop().unwrap();
    let served = &record.served;
    assert_eq!(
        (served.node.as_deref(), served.build.as_deref()),
        (Some("node"), Some("build"))
    );
    assert_eq!(served.price.output, 2_000_000);
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
        home: "here".into(),
        default_max_tokens: 16,
        policy: None,
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

#[test]
fn charges_of_one_second_come_in_their_order_and_none_comes_twice() {
    let (one, other) = (Numbers::new(), Numbers::new());
    let at = |unix_s| Moment {
        unix_s,
        ..Moment::default()
    };
    let of = |numbers: &Numbers, unix_s| -> Vec<ChargeId> {
        (0..1_000).map(|_| numbers.next(at(unix_s))).collect()
    };
    let (early, late) = (of(&one, 1_700_000_000), of(&one, 1_700_000_001));
    assert!(early.is_sorted() && late.is_sorted());
    assert!(early.last() < late.first());
    let began = late[0].get_timestamp().unwrap().to_unix();
    assert_eq!(began, (1_700_000_001, 0));
    // Another server's are others.
    let others = of(&other, 1_700_000_000);
    assert!(!early.iter().any(|charge| others.contains(charge)));
}
