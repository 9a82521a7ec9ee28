//! Where nobody is known to be well, a request finds out who is; not by more than retries may, and nowhere that it may not go.

use proptest::prelude::*;

use super::super::decision::Reason;
use super::super::options::{Ejection, Policy};
use super::super::residency::allow_list;
use super::super::{End, Served};
use super::*;

/// Of whom nothing is heard any more.
fn unheard() -> Figures {
    Figures {
        ready: false,
        unheard: true,
        ..idle()
    }
}

fn lost(count: usize) -> (Router, Vec<CandidateId>) {
    let (mut router, ids) = router(Options::default(), count);
    for id in &ids {
        router.observe(*id, unheard(), s(1));
    }
    (router, ids)
}

#[test]
fn whom_nobody_hears_of_is_asked_where_there_is_nobody_else() {
    let (mut router, ids) = lost(2);
    let placed = place(&mut router, &Extra::default(), s(2)).unwrap();
    assert!(placed.decision.in_doubt);
    assert_eq!(placed.decision.filtered.of(Reason::NotReady), 0);
    router.observe(ids[1], idle(), s(2));
    for _ in 0..10 {
        let placed = place(&mut router, &Extra::default(), s(2)).unwrap();
        assert_eq!(
            (placed.candidate, placed.decision.in_doubt),
            (ids[1], false)
        );
    }
}

#[test]
fn who_says_itself_that_it_takes_nothing_is_believed() {
    let (mut router, ids) = router(Options::default(), 1);
    let told = Figures {
        ready: false,
        ..idle()
    };
    router.observe(ids[0], told, s(1));
    let nobody = place(&mut router, &Extra::default(), s(2)).unwrap_err();
    assert_eq!(nobody.0.filtered.of(Reason::NotReady), 1);
}

#[test]
fn doubt_opens_no_way_that_rules_close() {
    let (mut router, ids) = lost(2);
    let rules = Rules {
        sites: allow_list(&["b".to_owned()]),
        ..Rules::default()
    };
    let extra = Extra {
        rules: Some(&rules),
        ..Extra::default()
    };
    assert_eq!(place(&mut router, &extra, s(2)).unwrap().candidate, ids[1]);
    let tried = Extra {
        tried: &["b".into()],
        ..extra
    };
    let nobody = place(&mut router, &tried, s(2)).unwrap_err();
    let filtered = &nobody.0.filtered;
    assert_eq!(
        (filtered.of(Reason::Residency), filtered.of(Reason::Tried)),
        (1, 1)
    );
    // Who has been sent somewhere waits for somebody that is well.
    for attempt in [
        Attempt::Hedge,
        Attempt::Move,
        Attempt::Resume,
        Attempt::Retry,
    ] {
        let other = Extra {
            attempt: Some(attempt),
            ..Extra::default()
        };
        assert!(place(&mut router, &other, s(2)).is_err(), "{attempt:?}");
    }
}

#[test]
fn who_serves_in_doubt_is_back() {
    let ejection = Ejection {
        failures: 1,
        percent_max: 100,
        ..Options::default().ejection
    };
    let (mut router, _) = router(
        Options {
            ejection,
            ..Options::default()
        },
        1,
    );
    let failed = place(&mut router, &Extra::default(), s(1)).unwrap();
    router.ended(failed.ticket, End::Failed, s(1));
    let mut placed = place(&mut router, &Extra::default(), s(2)).unwrap();
    assert!(placed.decision.in_doubt, "it is ejected");
    router.first_content(&mut placed.ticket, &[], s(2));
    router.ended(placed.ticket, End::Done(Served::default()), s(2));
    let placed = place(&mut router, &Extra::default(), s(3)).unwrap();
    assert!(!placed.decision.in_doubt);
}

proptest! {
    /// What is dead for certain gets no more than a fifth of its ordinary requests and ten a second.
    #[test]
    fn the_dead_are_not_stormed(gaps_ms in prop::collection::vec(0_u64..50, 1..400), count in 1_usize..4) {
        let (mut router, ids) = lost(count);
        let retry = router.options().retry;
        let (mut now, mut sent) = (s(10), vec![0.0; ids.len()]);
        for gap in gaps_ms {
            now += ms(gap);
            let mut tried: Vec<Arc<str>> = Vec::new();
            loop {
                let extra = Extra { tried: &tried, ..Extra::default() };
                let Ok(placed) = place(&mut router, &extra, now) else { break };
                prop_assert!(placed.decision.in_doubt);
                let place = ids.iter().position(|id| *id == placed.candidate).unwrap();
                sent[place] += 1.0;
                tried.push(Arc::clone(&router.facts(placed.candidate).unwrap().upstream));
                router.ended(placed.ticket, End::Failed, now);
            }
        }
        let allowed = retry.per_s * ((now - s(10)).as_secs_f64() + 1.0);
        prop_assert!(sent.iter().all(|sent| *sent <= allowed + 1.0), "{sent:?} of {allowed}");
        // And none of them is out for longer for it.
        ids.iter().for_each(|id| router.observe(*id, idle(), now));
        let placed = place(&mut router, &Extra::default(), now).unwrap();
        prop_assert!(!placed.decision.in_doubt);
        prop_assert_eq!(placed.decision.eligible as usize, ids.len());
    }
}

#[test]
fn a_detour_is_taken_where_there_is_no_other_way() {
    let options = Options {
        policy: Policy::RoundRobin,
        ..Options::default()
    };
    let (mut router, ids) = router(options, 2);
    let detour = Figures {
        detour: true,
        ..idle()
    };
    router.observe(ids[0], detour, s(1));
    for _ in 0..4 {
        let placed = place(&mut router, &Extra::default(), s(1)).unwrap();
        assert_eq!(placed.candidate, ids[1]);
        assert_eq!(placed.decision.filtered.of(Reason::Detour), 1);
    }
    let extra = Extra {
        tried: &["b".into()],
        ..Extra::default()
    };
    assert_eq!(place(&mut router, &extra, s(1)).unwrap().candidate, ids[0]);
}
