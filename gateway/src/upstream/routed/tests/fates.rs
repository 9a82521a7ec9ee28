//! Requests that fail before there is anything to see, and where they may never go.

use super::*;
use crate::route::decision::Attempt;
use crate::route::options::Hedge;
use crate::route::residency::allow_list;
use crate::upstream::UpstreamErrorKind::{
    Cancelled, Internal, NoSiteAllowed, NotReady, Overloaded, ShuttingDown, Unreachable,
};

pub(super) fn at(sites: &[&str]) -> Arc<Wishes> {
    let sites: Vec<String> = sites.iter().map(|site| (*site).to_owned()).collect();
    let rules = Rules {
        sites: allow_list(&sites),
        ..Rules::default()
    };
    Arc::new(Wishes {
        rules,
        ..Wishes::default()
    })
}

#[tokio::test]
async fn what_fails_before_its_first_content_is_done_by_another() {
    let world = World::of_three().await;
    let request = request(1, 5);
    let whole = world.run(&request).await;
    let refusals = [Overloaded, NotReady, Unreachable, ShuttingDown, Internal];
    let refusals = refusals.into_iter().map(Fate::Refuse);
    for fate in refusals.chain([Fate::Break(0, None)]) {
        world.ordain([fate.clone()]);
        assert_eq!(world.run(&request).await, whole, "{fate:?}");
        let asked = world.asked();
        assert_eq!(asked.len(), 2, "{fate:?}");
        assert_ne!(asked[0], asked[1], "{fate:?}");
    }
}

#[tokio::test]
async fn what_would_fail_everywhere_is_tried_once() {
    let world = World::of_three().await;
    world.ordain([Fate::Refuse(Cancelled)]);
    assert_eq!(world.run(&request(1, 5)).await.end, Err(Cancelled));
    assert_eq!(world.asked().len(), 1);
}

#[tokio::test]
async fn when_all_have_failed_the_last_error_is_told() {
    let world = World::of_three().await;
    world.ordain([Overloaded, Unreachable, Internal].map(Fate::Refuse));
    assert_eq!(world.run(&request(1, 5)).await.end, Err(Internal));
    let mut asked = world.asked();
    asked.sort();
    assert_eq!(asked, ["a", "b", "c"]);
}

#[tokio::test]
async fn a_silent_one_is_hedged_and_the_first_to_answer_wins() {
    let hedge = Hedge {
        after: Duration::from_millis(20),
        prompt_bytes_max: 1_000,
    };
    let options = Options {
        hedge: Some(hedge),
        ..Options::default()
    };
    let world = World::of(&["a", "b"], true, options).await;
    let request = request(1, 5);
    let whole = world.run(&request).await;
    world.ordain([Fate::Hang]);
    assert_eq!(world.run(&request).await, whole);
    let asked = world.asked();
    assert_eq!(asked.len(), 2);
    let serving = world.roster.decisions().serving("r").unwrap();
    assert_eq!(serving.attempt, Attempt::Hedge);
    assert_eq!(serving.place(), Some(asked[1].clone()));
}

#[tokio::test]
async fn a_client_that_leaves_leaves_nothing_in_flight() {
    let world = World::of_three().await;
    world.ordain([Fate::Hang]);
    let routed = world.roster.model(MODEL);
    let mut hanging = routed.generate(Arc::new(request(1, 5))).await.unwrap();
    assert_eq!(futures::poll!(hanging.next()), std::task::Poll::Pending);
    assert_eq!(world.roster.in_flight(MODEL), 1);
    drop(hanging);
    let mut live = routed.generate(Arc::new(request(1, 5_000))).await.unwrap();
    assert!(matches!(live.next().await, Some(Ok(Event::Delta { .. }))));
    assert_eq!(world.roster.in_flight(MODEL), 1);
    drop(live);
    assert_eq!(world.roster.in_flight(MODEL), 0);
}

/// I4: every fault at every moment, twice in a row, and no request reaches a site that is not allowed.
#[tokio::test]
async fn no_failure_sends_a_request_where_it_may_not_go() {
    let hedge = Hedge {
        after: Duration::from_millis(5),
        prompt_bytes_max: 1_000,
    };
    // Neither ejection nor the budget is to end a try before its time.
    let mut options = Options {
        hedge: Some(hedge),
        ..Options::default()
    };
    options.ejection.percent_max = 0;
    options.retry.per_s = 10_000.0;
    let world = World::of(&["a", "b", "c", "d"], true, options).await;
    let mut request = request(1, 10);
    request.wishes = at(&["b", "c"]);
    let faults = [
        Fate::Refuse(Overloaded),
        Fate::Refuse(Unreachable),
        Fate::Refuse(NotReady),
        Fate::Break(0, None),
        Fate::Break(4, None),
        Fate::Break(4, Some(ShuttingDown)),
        Fate::Break(4, Some(Internal)),
    ];
    for first in &faults {
        for second in &faults {
            world.ordain([first.clone(), second.clone()]);
            world.run(&request).await;
            let asked = world.asked();
            let allowed = |site: &String| site == "b" || site == "c";
            assert!(
                asked.iter().all(allowed),
                "{first:?}, {second:?}: {asked:?}"
            );
        }
    }
    world.ordain([Fate::Hang]);
    world.run(&request).await;
    assert!(!world.asked().iter().any(|site| site == "a" || site == "d"));
    let routed = world.roster.model(MODEL);
    let count = routed.count_tokens(Arc::new(request.clone()));
    assert!(count.await.is_ok());
    request.wishes = at(&["nowhere"]);
    assert_eq!(world.run(&request).await.end, Err(NoSiteAllowed));
    assert!(world.asked().is_empty());
}

#[tokio::test]
async fn what_a_server_allows_its_requests_cannot_widen() {
    let base = Rules::clone(&at(&["b"]).rules);
    let world = World::of(&["a", "b"], true, Options::default()).await;
    let roster = Roster::new(
        Options::default(),
        base,
        Arc::default(),
        Clock::system(),
        Metrics::new().unwrap(),
    );
    for upstream in ["a", "b"]
        .into_iter()
        .zip(world.roster.inner.upstreams(MODEL))
    {
        let facts = Facts::new(upstream.0, upstream.0, "", MODEL);
        roster.add(facts, upstream.1).unwrap();
    }
    let world = World { roster, ..world };
    let mut request = request(1, 5);
    world.run(&request).await;
    assert_eq!(world.asked(), ["b"]);
    let sent = world.fates.asked.lock().unwrap()[0].1.wishes.rules.clone();
    // Whoever is asked next learns of it too.
    assert_eq!(sent.sites, at(&["b"]).rules.sites);
    request.wishes = at(&["a"]);
    assert_eq!(world.run(&request).await.end, Err(NoSiteAllowed));
}

#[tokio::test]
async fn a_fleet_that_drains_says_so() {
    let world = World::of(&["a", "b"], true, Options::default()).await;
    let routed = world.roster.model(MODEL);
    assert_eq!(routed.status().readiness, Readiness::Ready);
    routed.drain(Duration::ZERO);
    assert_eq!(world.run(&request(1, 5)).await.end, Err(ShuttingDown));
}

#[tokio::test]
async fn every_request_leaves_its_decisions() {
    let world = World::of_three().await;
    world.ordain([Fate::Refuse(Overloaded), Fate::Break(3, None)]);
    world.run(&request(1, 20)).await;
    let decisions = world.roster.decisions();
    let kept = decisions.get("r", Duration::ZERO).unwrap();
    let attempts: Vec<Attempt> = kept.iter().map(|decision| decision.attempt).collect();
    assert_eq!(attempts, [Attempt::First, Attempt::Retry, Attempt::Resume]);
    let serving = decisions.serving("r").and_then(|decision| decision.place());
    assert_eq!(serving, world.asked().pop());
}
