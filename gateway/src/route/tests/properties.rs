//! What holds whatever happens.

use std::collections::HashMap;

use proptest::prelude::*;

use super::super::residency::{Barred, Purpose, allow_list};
use super::super::{End, Served, Ticket};
use super::*;

/// One thing that happens to the router.
#[derive(Debug, Clone)]
enum Step {
    Place { attempt: usize, tried: Vec<usize> },
    First(usize),
    End(usize, usize),
    Observe { who: usize, figures: Figures },
    Wait(u64),
}

const ATTEMPTS: [Attempt; 5] = [
    Attempt::First,
    Attempt::Retry,
    Attempt::Move,
    Attempt::Hedge,
    Attempt::Resume,
];

fn step() -> impl Strategy<Value = Step> {
    let figures = (
        any::<bool>(),
        any::<u32>(),
        any::<u64>(),
        0.0..1e12_f64,
        any::<u64>(),
    );
    let figures = figures.prop_map(|(ready, running, tokens, rate, sequence)| Figures {
        ready,
        sequence: sequence % 100,
        running,
        waiting: running / 3,
        queued_tokens: tokens,
        kv_tokens_total: tokens / 2,
        kv_tokens_free: tokens / 5,
        prefill_tokens_per_s: rate,
        decode_tokens_per_s: rate / 2.0,
        ..Figures::default()
    });
    prop_oneof![
        4 => (0..5_usize, prop::collection::vec(0..6_usize, 0..3))
            .prop_map(|(attempt, tried)| Step::Place { attempt, tried }),
        2 => (0..20_usize).prop_map(Step::First),
        3 => (0..20_usize, 0..4_usize).prop_map(|(which, how)| Step::End(which, how)),
        1 => (0..6_usize, figures).prop_map(|(who, figures)| Step::Observe { who, figures }),
        1 => (0..5_000_u64).prop_map(Step::Wait),
    ]
}

fn candidate(index: usize) -> Facts {
    let names = ["a", "b", "c", "d", "e", "f"];
    let countries = [
        Some("FI"),
        Some("SE"),
        None,
        Some("FI"),
        Some("DE"),
        Some("FI"),
    ];
    let name = names[index];
    Facts {
        country: countries[index].map(Arc::from),
        experimental: index == 3,
        purposes: if index == 5 {
            vec![Purpose::Pilot]
        } else {
            Vec::new()
        },
        ..Facts::new(name, name, "", "m")
    }
}

fn end(how: usize) -> End {
    match how {
        0 => End::Left,
        1 => End::Failed,
        2 => End::Overloaded(Some(s(3))),
        _ => End::Done(Served {
            prompt_bytes: 4_000,
            prompt_tokens: 1_000,
            output_tokens: 50.0,
            tpot_s: Some(0.02),
        }),
    }
}

proptest! {
    /// I4, I10 and finite costs, over every order of sending, failing, moving, hedging and hearing.
    #[test]
    fn residency_holds_and_accounts_balance(
        steps in prop::collection::vec(step(), 1..150),
        policy in 0..5_usize,
        nordic in any::<bool>(),
        opted_in in any::<bool>(),
    ) {
        use hansa_config::schema::Policy::{Cost, LeastLoad, Prefix, RoundRobin, Weighted};
        let policy = [Cost, RoundRobin, LeastLoad, Prefix, Weighted][policy];
        let mut router = Router::new(Options { policy, ..Options::default() }, 3);
        let ids: Vec<CandidateId> = (0..6)
            .map(|index| {
                let id = router.add(candidate(index), s(0)).unwrap();
                router.observe(id, idle(), s(0));
                id
            })
            .collect();
        let countries: Vec<String> = ["FI", "SE"].map(str::to_owned).into();
        let rules = Rules {
            countries: if nordic { allow_list(&countries) } else { None },
            experimental: opted_in,
            ..Rules::default()
        };
        let mut now = Duration::ZERO;
        let mut open: Vec<Ticket> = Vec::new();
        let mut in_flight: HashMap<CandidateId, u32> = HashMap::new();
        for step in steps {
            match step {
                Step::Wait(by) => now += ms(by),
                Step::Observe { who, figures } => router.observe(ids[who], figures, now),
                Step::First(which) => {
                    if let Some(ticket) = open.get_mut(which) {
                        router.first_content(ticket, &[1, 2, 3], now);
                    }
                }
                Step::End(which, how) => {
                    if which < open.len() {
                        let ticket = open.swap_remove(which);
                        *in_flight.entry(ticket.candidate()).or_default() -= 1;
                        router.ended(ticket, end(how), now);
                    }
                }
                Step::Place { attempt, tried } => {
                    let tried: Vec<Arc<str>> =
                        tried.into_iter().map(|i| candidate(i).upstream).collect();
                    let extra = Extra {
                        attempt: Some(ATTEMPTS[attempt]),
                        rules: Some(&rules),
                        blocks: &[1, 2, 3],
                        session: Some(4),
                        tried: &tried,
                        ..Extra::default()
                    };
                    if let Ok(placed) = place(&mut router, &extra, now) {
                        let facts = candidate(placed.candidate.index());
                        prop_assert_eq!(rules.bar(&facts), None::<Barred>);
                        prop_assert!(!tried.contains(&facts.upstream));
                        for scored in &placed.decision.best {
                            prop_assert!(scored.cost.is_finite() && scored.cost >= 0.0);
                        }
                        *in_flight.entry(placed.candidate).or_default() += 1;
                        open.push(placed.ticket);
                    }
                }
            }
            for id in &ids {
                let expected = in_flight.get(id).copied().unwrap_or_default();
                prop_assert_eq!(router.in_flight(*id), expected);
            }
        }
    }
}

/// Upstreams that fail wholly see at most 1.2 times the requests and 10 a second more.
#[test]
fn retries_do_not_multiply_the_load_of_what_fails() {
    let (mut router, ids) = router(Options::default(), 5);
    let (mut ordinary, mut all) = (0.0, 0.0);
    let seconds = 60;
    for tick in 0..seconds * 200 {
        let now = ms(tick * 5);
        let mut tried: Vec<Arc<str>> = Vec::new();
        ordinary += 1.0;
        for attempt in [
            Attempt::First,
            Attempt::Retry,
            Attempt::Retry,
            Attempt::Retry,
        ] {
            let extra = Extra {
                attempt: Some(attempt),
                tried: &tried,
                ..Extra::default()
            };
            let Ok(placed) = place(&mut router, &extra, now) else {
                break;
            };
            all += 1.0;
            let upstream = router
                .facts(placed.candidate)
                .map(|f| Arc::clone(&f.upstream));
            tried.extend(upstream);
            router.ended(placed.ticket, End::Overloaded(None), now + ms(1));
        }
    }
    let bound = 1.2 * ordinary + 10.0 * (seconds as f64 + 1.0) * ids.len() as f64;
    assert!(all <= bound, "{all} > {bound} of {ordinary}");
    // And they are not forbidden either.
    assert!(all > 1.1 * ordinary, "{all} of {ordinary}");
}
