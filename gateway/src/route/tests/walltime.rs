//! Candidates that end: what still goes there.

use super::super::decision::Reason;
use super::*;

/// A candidate that takes a tenth of a second for a token and ends in `left`.
fn ending(left: u64) -> Figures {
    Figures {
        running: 1,
        decode_tokens_per_s: 10.0,
        walltime_left: Some(s(left)),
        ..idle()
    }
}

fn ask(router: &mut Router, max_tokens: u32) -> Result<Placement, Unplaced> {
    let open = Rules::default();
    let ask = Ask {
        attempt: Attempt::First,
        model: "m",
        prompt_bytes: 400,
        blocks: &[],
        session: None,
        max_tokens: Some(max_tokens),
        n: 1,
        rules: &open,
        hops: 0,
        tried: &[],
        numerics: None,
        allocation: &|_| Means::Any,
        time_left: None,
        waits: false,
    };
    router.place(&ask, Duration::ZERO)
}

#[test]
fn an_answer_that_may_outlast_a_candidate_goes_to_one_that_stays() {
    let (mut router, ids) = router(Options::default(), 2);
    router.observe(ids[0], ending(60), s(0));
    router.observe(ids[1], ending(3_600), s(0));
    for _ in 0..20 {
        let placed = ask(&mut router, 2_000).unwrap();
        assert_eq!(placed.candidate, ids[1]);
        assert_eq!(placed.decision.filtered.of(Reason::Walltime), 1);
    }
    let places: Vec<_> = (0..50)
        .map(|_| ask(&mut router, 10).unwrap().candidate)
        .collect();
    assert!(places.contains(&ids[0]), "short ones still go there");
}

#[test]
fn where_nobody_stays_long_enough_the_usual_length_decides() {
    let (mut router, ids) = router(Options::default(), 1);
    router.observe(ids[0], ending(120), s(0));
    assert_eq!(ask(&mut router, 100_000).unwrap().candidate, ids[0]);
    router.observe(ids[0], ending(10), s(0));
    let Err(Unplaced(decision)) = ask(&mut router, 100_000) else {
        panic!("placed where it cannot end");
    };
    assert_eq!(decision.filtered.of(Reason::Walltime), 1);
}

#[test]
fn the_time_that_is_left_passes_without_news() {
    let (mut router, ids) = router(Options::default(), 1);
    router.observe(ids[0], ending(30), s(0));
    let mut told = place(&mut router, &Extra::default(), s(1));
    assert!(told.is_ok());
    told = place(&mut router, &Extra::default(), s(25));
    assert!(told.is_err());
}
