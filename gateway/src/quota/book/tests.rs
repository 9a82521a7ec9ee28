//! The book under random use, and the choices that it makes.

use proptest::prelude::*;

use super::*;
use crate::quota::allocation::tests::grant;
use crate::quota::invariants;
use crate::route::means::Means;

pub(in crate::quota) fn account(project: &str) -> Arc<Account> {
    let organisation = project.split('/').next().unwrap_or_default();
    Arc::new(Account {
        key: format!("key of {project}").into(),
        project: project.contains('/').then(|| project.into()),
        organisation: organisation.into(),
    })
}

pub(in crate::quota) fn claim(project: &str, prompt: u64, completion: u64) -> Claim {
    Claim {
        account: account(project),
        model: "m".into(),
        site: "here".into(),
        bound: Tokens {
            prompt,
            cached: 0,
            completion,
        },
    }
}

fn spent(prompt: u64, completion: u64) -> Spent {
    let tokens = Tokens {
        prompt,
        cached: 0,
        completion,
    };
    Spent {
        tokens,
        ..Spent::default()
    }
}

fn at(seconds: i64) -> Moment {
    Moment {
        now: Duration::from_secs(seconds.unsigned_abs()),
        unix_s: seconds,
    }
}

fn id() -> ChargeId {
    ChargeId::new_v4()
}

fn exhausted(allocation: &str) -> Result<(), Refusal> {
    Err(Refusal::Exhausted {
        allocation: allocation.into(),
    })
}

fn left(book: &Book, allocation: &str) -> u64 {
    book.allocations[allocation].left()
}

#[test]
fn project_and_organisation_are_both_drawn_from_or_neither() {
    let mut book = Book::default();
    book.set_grant(grant("org", "acme", 100));
    book.set_grant(grant("project", "acme/a", 60));
    assert_eq!(book.reserve(id(), claim("acme/a", 30, 30), at(0)), Ok(()));
    assert_eq!(
        book.reserve(id(), claim("acme/a", 1, 0), at(0)),
        exhausted("project")
    );
    assert_eq!(
        book.reserve(id(), claim("acme/b", 41, 0), at(0)),
        exhausted("org")
    );
    assert_eq!(book.reserve(id(), claim("acme/b", 40, 0), at(0)), Ok(()));
    assert_eq!(book.reserve(id(), claim("other", 999, 0), at(0)), Ok(()));
    assert_eq!(invariants::all(&book), Ok(()));
}

#[test]
fn a_charge_is_settled_once() {
    let mut book = Book::default();
    book.set_grant(grant("a", "acme", 100));
    let charge = id();
    book.reserve(charge, claim("acme", 50, 50), at(0)).unwrap();
    let posted = book.post(charge, spent(50, 5), at(1)).unwrap();
    assert_eq!(posted.amounts.tokens, 55);
    let total = Total {
        posted: 55,
        excess: 0,
    };
    assert_eq!(posted.drawn, [("a".into(), 0, total)]);
    assert!(book.post(charge, spent(50, 5), at(1)).is_none());
    assert!(!book.void(charge, at(1)));
    assert_eq!(left(&book, "a"), 45);
    let charge = id();
    book.reserve(charge, claim("acme", 45, 0), at(2)).unwrap();
    assert!(book.void(charge, at(2)));
    assert!(book.post(charge, spent(45, 0), at(2)).is_none());
    assert_eq!(left(&book, "a"), 45);
}

#[test]
fn a_look_at_another_site_does_not_let_what_is_held_go_over_into_the_next_period() {
    let mut book = Book::default();
    book.set_grant(Grant {
        renew_days: 30,
        carry_over_percent: 100,
        ..grant("a", "acme", 100)
    });
    let charge = id();
    book.reserve(charge, claim("acme", 60, 0), at(0)).unwrap();
    let next = at(30 * 24 * 60 * 60);
    assert_eq!(book.means(charge, &"there".into(), next), Means::Any);
    // 40 were left, and the 60 count in the new period.
    assert_eq!(left(&book, "a"), 100 + 40 - 60);
    assert_eq!(invariants::all(&book), Ok(()));
}

#[test]
fn a_site_spends_its_own_first_and_a_move_takes_the_share_along() {
    let mut book = Book::default();
    let of_site = |id: &str, site: &str, amount| Grant {
        site: Some(site.into()),
        ..grant(id, "acme", amount)
    };
    book.set_grant(grant("any", "acme", 100));
    book.set_grant(of_site("of here", "here", 50));
    book.set_grant(of_site("of there", "there", 30));
    let charge = id();
    book.reserve(charge, claim("acme", 40, 0), at(0)).unwrap();
    assert_eq!((left(&book, "any"), left(&book, "of here")), (100, 10));
    // 30 are too few there, so the move draws on what is good for any site.
    book.move_to(charge, &"there".into(), at(0)).unwrap();
    assert_eq!((left(&book, "any"), left(&book, "of here")), (60, 50));
    // It is there already, and holds what it holds.
    assert_eq!(book.move_to(charge, &"there".into(), at(0)), Ok(()));
    book.remove_grant("any");
    let refused = book.move_to(charge, &"elsewhere".into(), at(0));
    let site = "elsewhere".into();
    assert_eq!(refused, Err(Refusal::NotHere { site }));
    book.move_to(charge, &"here".into(), at(0)).unwrap();
    assert!(book.post(charge, spent(40, 0), at(0)).is_some());
    assert_eq!(left(&book, "of here"), 10);
    assert_eq!(invariants::all(&book), Ok(()));
}

#[test]
fn a_charge_that_nothing_pays_for_here_waits_for_a_site_that_does() {
    let mut book = Book::default();
    book.set_grant(Grant {
        site: Some("there".into()),
        ..grant("of there", "acme", 50)
    });
    assert_eq!(book.check(&claim("acme", 1, 0), at(0)), Ok(()));
    let not_here = |amount| claim("acme", amount, 0);
    let site = "here".into();
    let refused = book.reserve(id(), not_here(51), at(0));
    assert_eq!(refused, Err(Refusal::NotHere { site }));
    let charges = [id(), id()];
    for charge in charges {
        book.reserve(charge, not_here(40), at(0)).unwrap();
    }
    // Until it is placed it holds nothing, and here it cannot be.
    assert_eq!(left(&book, "of there"), 50);
    let mut means = |charge, site: &str| book.means(charge, &site.into(), at(0));
    assert_eq!(means(charges[0], "here"), Means::Nothing);
    assert_eq!(means(charges[0], "there"), Means::Own);
    book.move_to(charges[0], &"there".into(), at(0)).unwrap();
    // Its own hold does not stand in its way, and what it holds stands in that of others.
    assert_eq!(book.means(charges[0], &"there".into(), at(0)), Means::Own);
    assert_eq!(
        book.means(charges[1], &"there".into(), at(0)),
        Means::Nothing
    );
    let refused = book.move_to(charges[1], &"there".into(), at(0));
    assert_eq!(refused, exhausted("of there"));
    book.post(charges[0], spent(30, 0), at(0)).unwrap();
    book.void(charges[1], at(0));
    assert_eq!(left(&book, "of there"), 20);
    assert_eq!(invariants::all(&book), Ok(()));
}

#[test]
fn a_sites_bounds_count_those_that_are_there() {
    let mut book = Book::default();
    let limits = Limits {
        concurrent_max: Some(1),
        ..Limits::default()
    };
    for site in SITES {
        book.set_limits(Scope::Site(site.into()), &limits, Duration::ZERO);
    }
    let charges = [id(), id()];
    book.reserve(charges[0], claim("acme", 1, 1), at(0))
        .unwrap();
    book.move_to(charges[0], &"there".into(), at(0)).unwrap();
    // There is room here again, and none there.
    book.reserve(charges[1], claim("acme", 1, 1), at(0))
        .unwrap();
    assert_eq!(
        book.means(charges[1], &"there".into(), at(0)),
        Means::Nothing
    );
    assert!(book.move_to(charges[1], &"there".into(), at(0)).is_err());
    assert!(book.reserve(id(), claim("acme", 1, 1), at(0)).is_err());
    book.void(charges[0], at(0));
    assert_eq!(book.move_to(charges[1], &"there".into(), at(0)), Ok(()));
    assert_eq!(invariants::all(&book), Ok(()));
}

#[test]
fn money_is_held_at_the_dearest_and_posted_as_it_was() {
    let mut book = Book::default();
    let euros = Grant {
        currency: Currency::Money,
        ..grant("euros", "acme", 1_000)
    };
    book.set_grant(euros);
    let price = Price {
        input: 1_000_000,
        cached: 100_000,
        output: 2_000_000,
    };
    book.set_price("m".into(), None, price);
    let charge = id();
    book.reserve(charge, claim("acme", 200, 400), at(0))
        .unwrap();
    assert_eq!(left(&book, "euros"), 0);
    let tokens = Tokens {
        prompt: 200,
        cached: 100,
        completion: 10,
    };
    let spent = Spent {
        tokens,
        ..Spent::default()
    };
    let posted = book.post(charge, spent, at(0)).unwrap();
    assert_eq!(posted.amounts.money_micros, 100 + 10 + 20);
    assert_eq!(left(&book, "euros"), 870);
}

#[test]
fn what_cannot_be_bounded_ahead_needs_something_left_and_records_its_excess() {
    let mut book = Book::default();
    let energy = Grant {
        currency: Currency::Joules,
        ..grant("energy", "acme", 100)
    };
    book.set_grant(energy);
    let (first, second) = (id(), id());
    for charge in [first, second] {
        book.reserve(charge, claim("acme", 1, 1), at(0)).unwrap();
    }
    let joules = Spent {
        millijoules: 80,
        ..spent(1, 1)
    };
    book.post(first, joules, at(0));
    book.post(second, joules, at(0));
    assert_eq!(book.allocations["energy"].balance().excess, 160);
    let refused = book.reserve(id(), claim("acme", 1, 1), at(0));
    assert_eq!(refused, exhausted("energy"));
    assert_eq!(invariants::all(&book), Ok(()));
}

#[test]
fn a_refusal_takes_nothing_from_any_scope() {
    let mut book = Book::default();
    let limits = Limits {
        requests_per_minute: Some(5),
        ..Limits::default()
    };
    book.set_limits(Scope::Model("m".into()), &limits, Duration::ZERO);
    book.set_grant(grant("a", "acme", 10));
    for _ in 0..100 {
        let refused = book.reserve(id(), claim("acme", 11, 0), at(0));
        assert_eq!(refused, exhausted("a"));
    }
    for _ in 0..5 {
        book.reserve(id(), claim("acme", 1, 0), at(0)).unwrap();
    }
    let refused = book.reserve(id(), claim("acme", 1, 0), at(0));
    assert!(matches!(refused, Err(Refusal::Limit { .. })), "{refused:?}");
    assert_eq!(left(&book, "a"), 5);
}

#[test]
fn the_ledgers_totals_come_back_after_a_restart() {
    let mut book = Book::default();
    let monthly = Grant {
        renew_days: 30,
        carry_over_percent: 50,
        ..grant("a", "acme", 1_000)
    };
    book.set_grant(monthly);
    let total = |posted| Total { posted, excess: 0 };
    book.replay("a", 0, total(400));
    book.replay("a", 1, total(100));
    book.replay("gone", 1, total(100));
    assert_eq!(left(&book, "a"), 1_000 + 300 - 100);
}

#[derive(Debug, Clone)]
enum Step {
    Reserve {
        tenant: usize,
        tokens: u64,
    },
    Post {
        which: usize,
        percent: u64,
    },
    Void(usize),
    Start(usize),
    Move {
        which: usize,
        site: usize,
    },
    Wait {
        seconds: u64,
        clock_step_s: i64,
    },
    Grant {
        which: usize,
        amount: u64,
        site: usize,
    },
    Revoke(usize),
    /// Of a tenant or, beyond these, of a site.
    Limit {
        tenant: usize,
        tokens: Option<u64>,
    },
}

const TENANTS: [&str; 3] = ["acme", "acme/a", "acme/b"];
const SITES: [&str; 2] = ["here", "there"];
const GRANTS: [&str; 4] = ["g0", "g1", "g2", "g3"];

fn step() -> impl Strategy<Value = Step> {
    let amount = prop_oneof![Just(0), 1..1_000_u64, Just(u64::MAX)];
    prop_oneof![
        4 => (0..3_usize, 0..200_u64).prop_map(|(tenant, tokens)| Step::Reserve { tenant, tokens }),
        3 => (0..9_usize, 0..150_u64).prop_map(|(which, percent)| Step::Post { which, percent }),
        1 => (0..9_usize).prop_map(Step::Void),
        1 => (0..9_usize).prop_map(Step::Start),
        1 => (0..9_usize, 0..2_usize).prop_map(|(which, site)| Step::Move { which, site }),
        1 => (0..9_000_000_u64, -300..300_i64)
            .prop_map(|(seconds, clock_step_s)| Step::Wait { seconds, clock_step_s }),
        1 => (0..4_usize, amount, 0..3_usize)
            .prop_map(|(which, amount, site)| Step::Grant { which, amount, site }),
        1 => (0..4_usize).prop_map(Step::Revoke),
        1 => (0..5_usize, prop::option::of(0..2_000_u64))
            .prop_map(|(tenant, tokens)| Step::Limit { tenant, tokens }),
    ]
}

/// A book at work, and the charges that are open in it.
#[derive(Default)]
struct Life {
    book: Book,
    open: Vec<(ChargeId, u64)>,
    at: Moment,
}

impl Life {
    fn open(&self, which: usize) -> Option<(ChargeId, u64)> {
        self.open.get(which).copied()
    }

    fn go(&mut self, step: &Step) {
        let at = self.at;
        match *step {
            Step::Reserve { tenant, tokens } => {
                let charge = id();
                let claim = claim(TENANTS[tenant], tokens / 2, tokens - tokens / 2);
                if self.book.reserve(charge, claim, at).is_ok() {
                    self.open.push((charge, tokens));
                }
            }
            Step::Post { which, percent } => {
                if let Some((charge, tokens)) = self.open(which) {
                    let used = spent(0, tokens * percent / 100);
                    assert!(self.book.post(charge, used, at).is_some());
                    assert!(self.book.post(charge, used, at).is_none());
                    self.open.swap_remove(which);
                }
            }
            Step::Void(which) => {
                if let Some((charge, _)) = self.open(which) {
                    assert!(self.book.void(charge, at));
                    self.open.swap_remove(which);
                }
            }
            Step::Start(which) => self.book.started(self.open(which).unwrap_or_default().0),
            Step::Move { which, site } => {
                if let Some((charge, _)) = self.open(which) {
                    let site = SITES[site].into();
                    let means = self.book.means(charge, &site, at);
                    let moved = self.book.move_to(charge, &site, at);
                    assert!(moved.is_ok() || means == Means::Nothing);
                }
            }
            Step::Wait {
                seconds,
                clock_step_s,
            } => {
                self.at.now += Duration::from_secs(seconds);
                self.at.unix_s += i64::try_from(seconds).unwrap() + clock_step_s;
            }
            Step::Grant {
                which,
                amount,
                site,
            } => self.book.set_grant(Grant {
                site: SITES.get(site).map(|site| (*site).into()),
                renew_days: 30 * (which as u32 % 2),
                carry_over_percent: 50,
                ..grant(GRANTS[which], TENANTS[which % 3], amount)
            }),
            Step::Revoke(which) => {
                self.book.remove_grant(GRANTS[which]);
            }
            Step::Limit { tenant, tokens } => {
                let limits = Limits {
                    tokens_per_minute: tokens,
                    ..Limits::default()
                };
                let scope = match TENANTS.get(tenant) {
                    Some(tenant) => Scope::Tenant((*tenant).into()),
                    None => Scope::Site(SITES[tenant - TENANTS.len()].into()),
                };
                self.book.set_limits(scope, &limits, at.now);
            }
        }
    }
}

proptest! {
    #[test]
    fn every_promise_holds_after_every_step(steps in prop::collection::vec(step(), 1..80)) {
        let mut life = Life::default();
        for step in steps {
            life.go(&step);
            prop_assert_eq!(invariants::all(&life.book), Ok(()), "after {:?}", step);
        }
        while let Some((charge, _)) = life.open.pop() {
            life.book.void(charge, life.at);
        }
        for allocation in life.book.allocations() {
            prop_assert_eq!(allocation.reserved(), 0);
        }
    }
}

#[test]
fn where_gateways_share_allocations_at_other_sites_let_their_tenant_in() {
    let mut book = Book::default();
    book.share(Duration::from_secs(6));
    book.set_grant(Grant {
        site: Some("there".into()),
        ..grant("a", "acme", 100)
    });
    let claim = claim("acme", 1, 1);
    assert_eq!(book.check(&claim, at(1)), Ok(()), "a pick may find it");
    book.remove_grant("a");
    book.set_grant(Grant {
        site: Some("there".into()),
        end_s: 1,
        ..grant("a", "acme", 100)
    });
    let site = "here".into();
    assert_eq!(book.check(&claim, at(2)), Err(Refusal::NotHere { site }));
}

#[test]
fn while_the_store_is_away_nobody_is_told_that_nothing_is_left() {
    let mut book = Book::default();
    book.share(Duration::from_secs(6));
    book.set_grant(grant("a", "acme", 100));
    book.enlisted(at(1).now);
    let (id, claim) = (ChargeId::from_u128(1), claim("acme", 1, 1));
    let wish = book.whole(&claim);
    assert!(book.want(&wish, at(2)), "the store may have it");
    let refused = book.admit(id, claim.clone(), at(2));
    assert!(
        matches!(refused, Err(Refusal::Exhausted { .. })),
        "{refused:?}"
    );
    book.round_failed();
    assert!(!book.want(&wish, at(2)), "there is nobody to ask");
    assert_eq!(book.admit(id, claim, at(2)), Err(Refusal::Away));
}
