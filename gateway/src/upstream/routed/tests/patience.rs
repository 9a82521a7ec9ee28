//! Requests that do not give up too early: upstreams that fall silent, and upstreams that all fail and come back.

use super::*;
use crate::route::decision::Attempt;
use crate::upstream::UpstreamErrorKind::{Overloaded, ShuttingDown, Unreachable};

fn attempts(world: &World) -> Vec<Attempt> {
    let kept = world.roster.decisions().get("r", Duration::ZERO).unwrap();
    kept.iter().map(|decision| decision.attempt).collect()
}

#[tokio::test]
async fn who_waits_for_a_silent_one_is_served_by_another() {
    let world = World::of_three().await;
    let request = request(1, 5);
    let whole = world.run(&request).await;
    world.ordain([Fate::Hang]);
    let falls_silent = async {
        while world.asked().is_empty() {
            tokio::task::yield_now().await;
        }
        world.fates.silent.send_replace(true);
    };
    let (outcome, ()) = tokio::join!(world.run(&request), falls_silent);
    assert_eq!(outcome, whole);
    let asked = world.asked();
    assert_eq!(asked.len(), 2);
    assert_ne!(asked[0], asked[1]);
    assert_eq!(attempts(&world), [Attempt::First, Attempt::Move]);
}

#[tokio::test]
async fn a_silent_one_that_speaks_again_may_still_win() {
    let world = World::of(&["a"], true, Options::default()).await;
    world.fates.silent.send_replace(true);
    // There is nobody else to ask.
    assert!(world.run(&request(1, 5)).await.end.is_ok());
    assert_eq!(world.asked(), ["a"]);
}

/// Two of three break every connection for a while and the third leaves.
#[tokio::test]
async fn a_stream_whom_nobody_takes_waits_for_the_first_that_comes_back() {
    let options = Options {
        resumes_max: 16,
        ..Options::default()
    };
    let world = World::of(&["a", "b", "c"], true, options).await;
    let request = request(1, 20);
    let whole = world.run(&request).await;
    world.ordain([
        Fate::Break(3, None),
        Fate::Break(4, None),
        Fate::Refuse(ShuttingDown),
        Fate::Break(0, None),
        Fate::Refuse(Unreachable),
        Fate::Refuse(Unreachable),
        Fate::Refuse(Unreachable),
    ]);
    assert_eq!(world.run(&request).await, whole);
    assert_eq!(world.asked().len(), 8);
}

#[tokio::test]
async fn a_request_whose_connections_died_everywhere_is_tried_again_and_one_that_was_refused_is_not()
 {
    let world = World::of(&["a", "b"], true, Options::default()).await;
    let request = request(1, 5);
    let whole = world.run(&request).await;
    let died = || Fate::Refuse(Unreachable);
    world.ordain([died(), died(), died()]);
    assert_eq!(world.run(&request).await, whole);
    // It may be what kills them: there is an end to it.
    world.ordain([died(), died(), died(), died(), died()]);
    assert_eq!(world.run(&request).await.end, Err(Unreachable));
    assert_eq!(world.asked().len(), 4);
    world.ordain([Fate::Refuse(Overloaded), Fate::Refuse(Overloaded)]);
    assert_eq!(world.run(&request).await.end, Err(Overloaded));
    assert_eq!(world.asked().len(), 2);
}
