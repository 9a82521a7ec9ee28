//! Streams whose upstream dies in the middle.

use super::*;
use crate::upstream::UpstreamErrorKind::{Internal, ShuttingDown, Unreachable};

#[tokio::test]
async fn a_stream_goes_on_elsewhere_and_its_client_sees_nothing_of_it() {
    let world = World::of_three().await;
    let request = request(2, 20);
    let whole = world.run(&request).await;
    assert_eq!(world.asked().len(), 1);
    // Two deltas a step and an event for each end: 43 events, so each of these is in the middle of something.
    for after in [1, 2, 3, 10, 39, 40, 41, 42] {
        for how in [None, Some(Unreachable), Some(ShuttingDown)] {
            world.ordain([Fate::Break(after, how.clone())]);
            assert_eq!(
                world.run(&request).await,
                whole,
                "after {after} events by {how:?}"
            );
            let asked = world.asked();
            assert_eq!(asked.len(), 2, "after {after} events by {how:?}");
            assert_ne!(asked[0], asked[1]);
        }
    }
}

#[tokio::test]
async fn it_goes_on_as_often_as_allowed_and_then_ends_with_an_error() {
    let world = World::of_three().await;
    let request = request(1, 20);
    let whole = world.run(&request).await;
    world.ordain([Fate::Break(3, None), Fate::Break(4, None)]);
    assert_eq!(world.run(&request).await, whole);
    assert_eq!(world.asked().len(), 3);
    world.ordain([
        Fate::Break(3, None),
        Fate::Break(4, None),
        Fate::Break(4, None),
    ]);
    let outcome = world.run(&request).await;
    assert_eq!(outcome.end, Err(Unreachable));
    assert!(whole.texts[0].starts_with(&outcome.texts[0]));
}

#[tokio::test]
async fn a_choice_that_ended_before_is_not_told_again() {
    let world = World::of_three().await;
    let mut request = request(2, 12);
    let whole = world.run(&request).await;
    // The fifth token of the first choice, without the space behind it.
    request.stop = vec![whole.texts[0][4 * 17..5 * 17 - 1].to_owned()];
    let stopped = world.run(&request).await;
    assert!(stopped.texts[0].len() < stopped.texts[1].len());
    for after in 9..22 {
        world.ordain([Fate::Break(after, None)]);
        assert_eq!(world.run(&request).await, stopped, "after {after} events");
    }
}

#[tokio::test]
async fn log_probabilities_go_on_with_their_tokens_or_the_stream_ends() {
    let world = World::of_three().await;
    let mut request = request(1, 12);
    request.logprobs = Some(1);
    let whole = world.run(&request).await;
    world.ordain([Fate::Break(5, None)]);
    assert_eq!(world.run(&request).await, whole);
    assert_eq!(world.asked().len(), 2);
}

#[tokio::test]
async fn an_echoed_prompt_is_told_once() {
    let world = World::of_three().await;
    let mut request = request(1, 12);
    request.echo = true;
    let whole = world.run(&request).await;
    for after in 1..8 {
        world.ordain([Fate::Break(after, None)]);
        assert_eq!(world.run(&request).await, whole, "after {after} events");
    }
    // Where one choice was told it and the other was not, nobody can go on.
    request.n = 2;
    world.ordain([Fate::Break(1, None)]);
    assert_eq!(world.run(&request).await.end, Err(Unreachable));
}

#[tokio::test]
async fn where_nothing_can_go_on_exactly_the_stream_ends_with_an_error() {
    let foreign = World::of(&["a", "b"], false, Options::default()).await;
    let alone = World::of(&["a"], true, Options::default()).await;
    let never = Options {
        resumes_max: 0,
        ..Options::default()
    };
    let switched_off = World::of(&["a", "b"], true, never).await;
    for world in [foreign, alone, switched_off] {
        world.ordain([Fate::Break(5, None)]);
        assert_eq!(world.run(&request(1, 20)).await.end, Err(Unreachable));
        assert_eq!(world.asked().len(), 1);
    }
    let world = World::of_three().await;
    let mut unwanted = request(1, 20);
    unwanted.wishes = Arc::new(Wishes {
        resume: false,
        ..Wishes::default()
    });
    world.ordain([Fate::Break(5, None)]);
    assert_eq!(world.run(&unwanted).await.end, Err(Unreachable));
    // A fault of the work itself would follow it anywhere.
    world.ordain([Fate::Break(5, Some(Internal))]);
    assert_eq!(world.run(&request(1, 20)).await.end, Err(Internal));
}

#[tokio::test]
async fn one_that_goes_on_with_something_else_is_not_believed() {
    let world = World::of_three().await;
    world.ordain([Fate::Break(5, None), Fate::Lie]);
    let outcome = world.run(&request(1, 20)).await;
    // The simulated model's ids are places, equal whatever the seed; a real one's differ. So what differs here is caught
    // only by a token that is out of place.
    assert!(outcome.end.is_ok() || outcome.end == Err(Internal));
    let mut seam = told_three().seam().1;
    let other = Event::Delta {
        choice: 0,
        text: "x".to_owned(),
        token_ids: vec![9],
        logprobs: Vec::new(),
    };
    assert_eq!(seam.meet(&other), crate::upstream::resume::Met::Different);
}

fn told_three() -> crate::upstream::resume::Told {
    let mut told = crate::upstream::resume::Told::nothing(&request(1, 20));
    for id in 0..3 {
        told.note(&Event::Delta {
            choice: 0,
            text: "t".to_owned(),
            token_ids: vec![id],
            logprobs: Vec::new(),
        });
    }
    told
}
