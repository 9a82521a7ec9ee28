//! Who was slow for a while serves again, though others have room all the time.

use super::super::{End, Placement, Served};
use super::*;

/// A request that does not go to `tried`.
fn placed(router: &mut Router, tried: &str, now: Duration) -> Placement {
    let extra = Extra {
        tried: &[Arc::from(tried)],
        ..Extra::default()
    };
    place(router, &extra, now).unwrap()
}

/// It has its first content after `first_ms` and is over a second later.
fn serve(router: &mut Router, mut placed: Placement, now: Duration, first_ms: u64) {
    let first = now + ms(first_ms);
    router.first_content(&mut placed.ticket, &[], first);
    let served = Served {
        output_tokens: 100.0,
        tpot_s: Some(0.01),
        ..Served::default()
    };
    router.ended(placed.ticket, End::Done(served), first + s(1));
}

/// Who gets a request a second of those between two moments, all of them answered soon.
fn served(router: &mut Router, from_s: u64, to_s: u64) -> Vec<CandidateId> {
    let one = |second| {
        let placed = placed(router, "nobody", s(second));
        let candidate = placed.candidate;
        serve(router, placed, s(second), 100);
        candidate
    };
    (from_s..to_s).map(one).collect()
}

/// Seconds until the first content that a decision expects of a candidate.
fn promised(router: &mut Router, name: &str, now: Duration) -> f64 {
    let placed = placed(router, "nobody", now);
    let mut best = placed.decision.best.iter();
    let scored = best.find(|scored| &*scored.site == name).unwrap();
    scored.terms.first_content()
}

#[test]
fn an_answer_that_stood_still_is_held_against_its_candidate_for_half_a_minute_only() {
    let (mut router, ids) = router(Options::default(), 2);
    served(&mut router, 0, 20);
    let late = placed(&mut router, "b", s(30));
    serve(&mut router, late, s(30), 30_000);
    let meanwhile = served(&mut router, 62, 90);
    assert!(meanwhile.iter().all(|id| *id == ids[1]), "{meanwhile:?}");
    assert!(promised(&mut router, "a", s(90)) > 1.0);
    // Of those at once one finds out.
    let asking: Vec<Placement> = (0..3)
        .map(|_| placed(&mut router, "nobody", s(92)))
        .collect();
    let there = asking.iter().filter(|p| p.candidate == ids[0]).count();
    assert_eq!(there, 1);
    for placed in asking {
        serve(&mut router, placed, s(92), 100);
    }
    assert!(promised(&mut router, "a", s(94)) < 0.2);
}

#[test]
fn who_tells_that_it_is_slow_is_not_tried_to_find_out() {
    let (mut router, ids) = router(Options::default(), 2);
    let slow = Figures {
        prefill_tokens_per_s: 100.0,
        sequence: 1,
        ..idle()
    };
    router.observe(ids[0], slow, s(0));
    let all = served(&mut router, 0, 100);
    assert!(all.iter().all(|id| *id == ids[1]));
}
