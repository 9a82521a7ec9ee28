//! What each part does to a decision.

use super::super::decision::Reason;
use super::super::options::{Ejection, Policy};
use super::super::residency::allow_list;
use super::super::{End, Served};
use super::*;
use crate::limits::{DECISION_BEST_MAX, HOPS_MAX};

fn no_extra() -> Extra<'static> {
    Extra::default()
}

/// Places a request, lets it succeed or fail at once, and says where it went.
fn run(router: &mut Router, end: End, now: Duration) -> CandidateId {
    let mut placed = place(router, &no_extra(), now).unwrap();
    if let End::Done(_) = end {
        router.first_content(&mut placed.ticket, &[], now + ms(100));
    }
    router.ended(placed.ticket, end, now + ms(100));
    placed.candidate
}

fn well() -> End {
    End::Done(Served::default())
}

#[test]
fn every_filter_is_counted_by_its_reason() {
    let (mut router, ids) = router(Options::default(), 6);
    let mut told = idle();
    told.ready = false;
    router.observe(ids[0], told, s(0));
    let mut told = idle();
    told.walltime_left = Some(s(1));
    router.observe(ids[1], told, s(0));
    let mut told = idle();
    told.experimental = true;
    router.observe(ids[2], told, s(0));
    let sites: Vec<String> = ["a", "b", "c", "d", "e"].map(str::to_owned).into();
    let rules = Rules {
        sites: allow_list(&sites),
        ..Rules::default()
    };
    let extra = Extra {
        rules: Some(&rules),
        tried: &["d".into()],
        ..no_extra()
    };
    let placed = place(&mut router, &extra, s(0)).unwrap();
    assert_eq!(placed.candidate, ids[4]);
    for reason in [
        Reason::NotReady,
        Reason::Walltime,
        Reason::Experimental,
        Reason::Tried,
        Reason::Residency,
    ] {
        assert_eq!(placed.decision.filtered.of(reason), 1, "{reason:?}");
    }
    assert_eq!(placed.decision.eligible, 1);
}

#[test]
fn a_request_that_crossed_enough_servers_goes_to_no_further_one() {
    let (mut router, ids) = router(Options::default(), 1);
    let facts = Facts {
        hop: true,
        ..Facts::new("far", "far", "", "m")
    };
    let far = router.add(facts, s(0)).unwrap();
    router.observe(far, idle(), s(0));
    let extra = Extra {
        hops: HOPS_MAX,
        ..no_extra()
    };
    let placed = place(&mut router, &extra, s(0)).unwrap();
    assert_eq!(placed.candidate, ids[0]);
    assert_eq!(placed.decision.filtered.of(Reason::Hops), 1);
}

#[test]
fn a_stream_goes_on_only_under_its_one_digest() {
    let (mut router, ids) = router(Options::default(), 3);
    for (id, digests) in ids.iter().zip([vec!["x"], vec!["x", "y"], vec!["y"]]) {
        let numerics = digests.into_iter().map(str::to_owned).collect();
        let figures = Figures { numerics, ..idle() };
        router.observe(*id, figures, s(0));
    }
    let extra = Extra {
        attempt: Some(Attempt::Resume),
        numerics: Some("y"),
        ..no_extra()
    };
    let placed = place(&mut router, &extra, s(0)).unwrap();
    assert_eq!(placed.candidate, ids[2]);
    assert_eq!(placed.decision.filtered.of(Reason::Numerics), 2);
}

#[test]
fn the_terms_of_the_cost_are_those_of_the_design() {
    let (mut router, ids) = router(
        Options {
            carbon_s_per_gram: 2.0,
            ..Options::default()
        },
        1,
    );
    let figures = Figures {
        rtt: Some(ms(30)),
        queued_tokens: 5_000,
        running: 10,
        decode_tokens_per_s: 200.0,
        kv_tokens_free: 50_000,
        joules_per_token: Some(36.0),
        grams_per_kwh: Some(100.0),
        ..idle()
    };
    router.observe(ids[0], figures, s(0));
    let placed = place(&mut router, &no_extra(), s(0)).unwrap();
    let terms = placed.decision.pick.as_ref().unwrap().terms;
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} is not {b}: {terms:?}");
    near(terms.rtt, 0.03);
    near(terms.wait, 0.5);
    near(terms.prefill, 0.1);
    // 100 tokens of 10 / 200 s each, and one sequence more than they were measured beside.
    near(terms.decode, 100.0 * 0.05 * (0.5 + 0.5 * 11.0 / 10.0));
    let used: f64 = (50_000.0 + 1_000.0 + 100.0) / 100_000.0;
    near(terms.pressure, 0.15 * used / (1.0 - used));
    // 100 tokens of 36 J are a thousandth of a kWh, which is a tenth of a gram.
    near(terms.carbon, 0.2);
    near(terms.failures + terms.stale, 0.0);
}

#[test]
fn what_was_sent_counts_until_figures_show_it() {
    let (mut router, _) = router(
        Options {
            policy: Policy::LeastLoad,
            ..Options::default()
        },
        4,
    );
    let picks = |router: &mut Router, now| {
        let placed: Vec<_> = (0..8)
            .map(|_| place(router, &no_extra(), now).unwrap())
            .collect();
        let mut by_candidate = [0; 4];
        placed
            .iter()
            .for_each(|p| by_candidate[p.candidate.index()] += 1);
        by_candidate
    };
    // No figures come, and yet no two more go to one than to another.
    assert_eq!(picks(&mut router, s(1)), [2; 4]);
    assert_eq!(picks(&mut router, s(1)), [2; 4]);
}

#[test]
fn in_flight_returns_to_zero_and_the_router_to_its_first_choice() {
    let (mut router, ids) = router(Options::default(), 3);
    let placed: Vec<_> = (0..100)
        .map(|_| place(&mut router, &no_extra(), s(0)).unwrap())
        .collect();
    assert_eq!(ids.iter().map(|id| router.in_flight(*id)).sum::<u32>(), 100);
    for (index, mut placed) in placed.into_iter().enumerate() {
        let end = match index % 4 {
            0 => End::Left,
            1 => End::Failed,
            2 => End::Overloaded(None),
            _ => well(),
        };
        router.first_content(&mut placed.ticket, &[], s(1));
        router.ended(placed.ticket, end, s(1));
    }
    assert!(ids.iter().all(|id| router.in_flight(*id) == 0));
}

#[test]
fn one_that_fails_fast_attracts_nothing() {
    let ejection = Ejection {
        percent_max: 0,
        ..Options::default().ejection
    };
    // Not even where nothing is ever ejected.
    let (mut router, ids) = router(
        Options {
            ejection,
            ..Options::default()
        },
        4,
    );
    let mut bad = 0;
    for request in 0..1_000 {
        let now = ms(request * 10);
        let mut placed = place(&mut router, &no_extra(), now).unwrap();
        if placed.candidate == ids[0] {
            bad += 1;
            router.ended(placed.ticket, End::Failed, now + ms(1));
        } else {
            router.first_content(&mut placed.ticket, &[], now + ms(200));
            router.ended(placed.ticket, well(), now + ms(400));
        }
    }
    assert!(bad <= 5, "{bad} of 1,000 requests went to it");
}

#[test]
fn failures_eject_but_never_the_last() {
    let ejection = Ejection {
        failures: 2,
        ..Options::default().ejection
    };
    let options = Options {
        ejection,
        policy: Policy::RoundRobin,
        ..Options::default()
    };
    let (mut one, ids) = router(options.clone(), 1);
    (0..10).for_each(|_| assert_eq!(run(&mut one, End::Failed, s(1)), ids[0]));
    let (mut four, _) = router(options, 4);
    for _ in 0..40 {
        run(&mut four, End::Failed, s(1));
    }
    let placed = place(&mut four, &no_extra(), s(2)).unwrap();
    assert_eq!(placed.decision.filtered.of(Reason::Ejected), 2);
    assert_eq!(placed.decision.eligible, 2);
}

#[test]
fn a_session_and_a_prefix_draw_requests_to_who_knows_them() {
    let (mut router, _) = router(Options::default(), 5);
    let blocks = [1, 2, 3];
    let extra = Extra {
        blocks: &blocks,
        session: Some(99),
        ..no_extra()
    };
    let mut first = place(&mut router, &extra, s(0)).unwrap();
    router.first_content(&mut first.ticket, &[1, 2, 3, 99], ms(100));
    router.ended(first.ticket, well(), ms(500));
    for second in 1..20 {
        let placed = place(&mut router, &extra, s(second)).unwrap();
        assert_eq!(placed.candidate, first.candidate);
        let pick = placed.decision.pick.as_ref().unwrap();
        assert!(pick.cached_tokens > 700, "{pick:?}");
        router.ended(placed.ticket, End::Left, s(second));
    }
}

#[test]
fn a_silent_candidate_is_taken_for_busy() {
    let (mut router, ids) = router(Options::default(), 2);
    router.observe(ids[1], idle(), s(20));
    let placed = place(&mut router, &no_extra(), s(20)).unwrap();
    assert_eq!(placed.candidate, ids[1]);
    let other = &placed.decision.best[1];
    assert!(other.terms.stale > 9.0, "{other:?}");
}

#[test]
fn who_was_never_tried_is_tried_while_the_others_do_well() {
    let (mut router, ids) = router(Options::default(), 3);
    let fast = End::Done(Served {
        output_tokens: 100.0,
        tpot_s: Some(0.005),
        ..Served::default()
    });
    let picks: Vec<CandidateId> = (0..60).map(|i| run(&mut router, fast, s(i / 60))).collect();
    for id in ids {
        let count = picks.iter().filter(|pick| **pick == id).count();
        assert!(count >= 10, "{id:?} got {count} of 60");
    }
}

/// Ten requests that go to whoever is not `tried`, each with its first content after a while and so many seconds a token.
fn serve_ten(router: &mut Router, tried: &str, first_ms: u64, tpot_s: f64) {
    let tried = [Arc::from(tried)];
    let extra = Extra {
        tried: &tried,
        ..no_extra()
    };
    for second in 0..10 {
        let mut placed = place(router, &extra, s(second)).unwrap();
        router.first_content(&mut placed.ticket, &[], s(second) + ms(first_ms));
        let served = Served {
            output_tokens: 100.0,
            tpot_s: Some(tpot_s),
            ..Served::default()
        };
        router.ended(placed.ticket, End::Done(served), s(second + 9));
    }
}

#[test]
fn who_was_slow_in_company_is_not_shunned_once_it_idles() {
    let (mut router, ids) = router(Options::default(), 2);
    let report = |sequence, running, queued_tokens| Figures {
        sequence,
        running,
        queued_tokens,
        ..idle()
    };
    ids.iter()
        .for_each(|id| router.observe(*id, report(1, 64, 0), s(0)));
    serve_ten(&mut router, "b", 8_000, 0.05);
    serve_ten(&mut router, "a", 200, 0.02);
    // Eight seconds of prompts wait at the one, and nothing at the other.
    router.observe(ids[0], report(2, 0, 0), s(20));
    router.observe(ids[1], report(2, 64, 80_000), s(20));
    assert_eq!(
        place(&mut router, &no_extra(), s(20)).unwrap().candidate,
        ids[0]
    );
    // While it has company, what was learnt of it counts.
    router.observe(ids[0], report(3, 60, 0), s(21));
    router.observe(ids[1], report(3, 64, 80_000), s(21));
    assert_eq!(
        place(&mut router, &no_extra(), s(21)).unwrap().candidate,
        ids[1]
    );
}

#[test]
fn a_line_before_many_nodes_is_worked_off_by_all_of_them() {
    let (mut router, ids) = router(Options::default(), 1);
    let ten_nodes = |sequence, queued_tokens| Figures {
        sequence,
        queued_tokens,
        prefill_tokens_per_s: 100_000.0,
        ..idle()
    };
    router.observe(ids[0], ten_nodes(1, 0), s(0));
    // A prompt is computed by one of them: 1,000 tokens in a tenth of a second.
    for second in 0..30 {
        run(&mut router, well(), s(second));
    }
    router.observe(ids[0], ten_nodes(2, 50_000), s(30));
    let placed = place(&mut router, &no_extra(), s(30)).unwrap();
    let terms = placed.decision.pick.as_ref().unwrap().terms;
    assert!((terms.wait - 0.5).abs() < 0.05, "{terms:?}");
    assert!((terms.prefill - 0.1).abs() < 0.02, "{terms:?}");
}

#[test]
fn figures_that_are_no_news_change_nothing() {
    let (mut router, ids) = router(Options::default(), 1);
    let report = |sequence, queued_tokens| Figures {
        sequence,
        queued_tokens,
        ..idle()
    };
    router.observe(ids[0], report(5, 0), s(1));
    router.observe(ids[0], report(4, 90_000), s(1));
    let placed = place(&mut router, &no_extra(), s(1)).unwrap();
    assert!(placed.decision.pick.as_ref().unwrap().terms.wait < 0.01);
}

#[test]
fn a_record_holds_the_best_and_the_pick() {
    let (mut router, _) = router(
        Options {
            policy: Policy::RoundRobin,
            ..Options::default()
        },
        12,
    );
    let placed = place(&mut router, &no_extra(), s(0)).unwrap();
    let decision = &placed.decision;
    assert_eq!(
        (decision.best.len(), decision.eligible),
        (DECISION_BEST_MAX, 12)
    );
    assert!(decision.best.is_sorted_by_key(|scored| scored.cost));
    assert!(decision.pick.is_some());
    let nobody = Extra {
        numerics: Some("none"),
        ..no_extra()
    };
    let unplaced = place(&mut router, &nobody, s(0)).unwrap_err();
    assert_eq!((unplaced.0.eligible, unplaced.0.pick.clone()), (0, None));
}

#[test]
fn a_place_that_was_left_is_taken_again_once_nothing_is_in_flight_there() {
    let (mut router, ids) = router(Options::default(), 2);
    let tried = ["b".into()];
    let extra = Extra {
        tried: &tried,
        ..no_extra()
    };
    let placed = place(&mut router, &extra, s(0)).unwrap();
    router.remove(ids[0]);
    assert!(place(&mut router, &extra, s(0)).is_err());
    let new = |router: &mut Router| router.add(Facts::new("new", "new", "", "m"), s(0)).unwrap();
    assert_eq!(new(&mut router).index(), 2);
    router.ended(placed.ticket, End::Left, s(0));
    assert_eq!(new(&mut router), ids[0]);
}

/// A request of which `allocation` says where it is paid for.
fn paid<'a>(allocation: &'a (dyn Fn(&Facts) -> Means + Sync)) -> Extra<'a> {
    Extra {
        allocation: Some(allocation),
        ..Extra::default()
    }
}

#[test]
fn a_tenants_own_allocation_is_spent_first_and_where_nothing_is_left_nobody_goes() {
    let (mut router, ids) = router(Options::default(), 3);
    // The cheapest by far has nothing left, and the dearest an allocation of its own.
    for (id, queued) in ids.iter().zip([0, 1_000, 50_000]) {
        let queued_tokens = queued;
        let told = Figures {
            queued_tokens,
            ..idle()
        };
        router.observe(*id, told, s(0));
    }
    let own = |facts: &Facts| match &*facts.site {
        "a" => Means::Nothing,
        "b" => Means::Any,
        _ => Means::Own,
    };
    let placed = place(&mut router, &paid(&own), s(0)).unwrap();
    assert_eq!(placed.candidate, ids[2]);
    let filtered = &placed.decision.filtered;
    let counted = [Reason::Allocation, Reason::NotOwn].map(|reason| filtered.of(reason));
    assert_eq!(counted, [1, 1]);
    let spent = |facts: &Facts| match own(facts) {
        Means::Own => Means::Nothing,
        other => other,
    };
    let placed = place(&mut router, &paid(&spent), s(0)).unwrap();
    assert_eq!(placed.candidate, ids[1]);
    let nothing = place(&mut router, &paid(&|_| Means::Nothing), s(0));
    let filtered = nothing.unwrap_err().0.filtered;
    assert_eq!(filtered.of(Reason::Allocation), 3);
}

#[test]
fn carbon_steers_but_never_past_the_deadline() {
    let options = Options {
        carbon_s_per_gram: 1e6,
        ..Options::default()
    };
    let (mut router, ids) = router(options, 2);
    for (id, grams, queued_tokens) in [(ids[0], 10.0, 100_000), (ids[1], 500.0, 0)] {
        let told = Figures {
            joules_per_token: Some(1.0),
            grams_per_kwh: Some(grams),
            queued_tokens,
            ..idle()
        };
        router.observe(id, told, s(0));
    }
    let mut to = |time_left| {
        let extra = Extra {
            time_left,
            ..no_extra()
        };
        let placed = place(&mut router, &extra, s(0)).unwrap();
        let late = placed.decision.filtered.of(Reason::Late);
        router.ended(placed.ticket, End::Left, s(0));
        (placed.candidate, late)
    };
    // The clean one is ten seconds behind.
    assert_eq!(to(None), (ids[0], 0));
    assert_eq!(to(Some(s(60))), (ids[0], 0));
    assert_eq!(to(Some(s(8))), (ids[1], 1));
    // Where all are late the best of them still tries.
    assert_eq!(to(Some(ms(1))), (ids[0], 0));
}
