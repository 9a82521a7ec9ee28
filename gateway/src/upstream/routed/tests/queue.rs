//! Requests that wait at the gateway while everyone has a line.

use super::fates::at;
use super::*;
use crate::fairness::Class;
use crate::upstream::UpstreamErrorKind::Overloaded;

/// A request of its own name and class.
fn called(id: &str, class: Class) -> GenerateRequest {
    GenerateRequest {
        id: id.into(),
        shown_id: id.into(),
        wishes: Arc::new(Wishes {
            class,
            ..Wishes::default()
        }),
        ..request(1, 3)
    }
}

impl World {
    fn is_full(&self, names: &[&'static str]) {
        *self.fates.full.lock().unwrap() = names.to_vec();
    }

    async fn ask(&self, request: GenerateRequest) -> Result<(), UpstreamErrorKind> {
        let routed = self.roster.model(MODEL);
        let events = routed.generate(Arc::new(request)).await.unwrap();
        Outcome::of(events.collect().await, 1).end.map(|_| ())
    }

    async fn until_waiting(&self, count: usize) {
        while self.roster.inner.queue.waiting() != count {
            tokio::task::yield_now().await;
        }
    }

    /// The requests that came anywhere, in order.
    fn came(&self) -> Vec<String> {
        let asked = self.fates.asked.lock().unwrap();
        asked.iter().map(|(_, r)| r.id.to_string()).collect()
    }
}

#[tokio::test]
async fn while_all_have_a_line_requests_wait_and_go_in_order_of_class() {
    let world = World::of(&["a", "b"], true, Options::default()).await;
    world.is_full(&["a", "b"]);
    let room = async {
        world.until_waiting(3).await;
        assert_eq!(world.came(), Vec::<String>::new());
        world.is_full(&[]);
    };
    let (first, second, third, ()) = tokio::join!(
        world.ask(called("batch", Class::Batch)),
        world.ask(called("one", Class::Interactive)),
        world.ask(called("two", Class::Interactive)),
        room
    );
    assert_eq!((first, second, third), (Ok(()), Ok(()), Ok(())));
    assert_eq!(world.came(), ["one", "two", "batch"]);
    assert_eq!(world.roster.inner.queue.waiting(), 0);
    assert_eq!(world.roster.in_flight(MODEL), 0);
}

#[tokio::test]
async fn who_may_go_only_where_there_is_no_room_holds_nobody_up() {
    let world = World::of(&["a", "b"], true, Options::default()).await;
    world.is_full(&["a"]);
    let bound = GenerateRequest {
        wishes: at(&["a"]),
        ..called("bound", Class::Interactive)
    };
    let room = async {
        world.until_waiting(1).await;
        assert_eq!(world.ask(called("free", Class::Batch)).await, Ok(()));
        assert_eq!(world.came(), ["free"]);
        world.is_full(&[]);
    };
    let (bound, ()) = tokio::join!(world.ask(bound), room);
    assert_eq!(bound, Ok(()));
    assert_eq!(world.asked(), ["b", "a"]);
}

#[tokio::test]
async fn the_line_is_bounded_and_a_client_that_leaves_is_out_of_it() {
    let options = Options {
        queue_max: 1,
        ..Options::default()
    };
    let world = World::of(&["a", "b"], true, options).await;
    world.is_full(&["a", "b"]);
    let routed = world.roster.model(MODEL);
    let request = Arc::new(called("one", Class::Interactive));
    let mut waiting = routed.generate(request).await.unwrap();
    assert!(futures::poll!(waiting.next()).is_pending());
    let refused = world.ask(called("two", Class::Interactive)).await;
    assert_eq!(refused, Err(Overloaded));
    drop(waiting);
    assert_eq!(world.roster.inner.queue.waiting(), 0);
    assert_eq!(world.came(), Vec::<String>::new());
}

#[tokio::test]
async fn only_the_first_server_lets_requests_wait_and_only_where_it_has_a_choice() {
    let two = World::of(&["a", "b"], true, Options::default()).await;
    two.is_full(&["a", "b"]);
    let inner = GenerateRequest {
        hops: 1,
        ..called("inner", Class::Interactive)
    };
    assert_eq!(two.ask(inner).await, Ok(()));
    let one = World::of(&["a"], true, Options::default()).await;
    one.is_full(&["a"]);
    assert_eq!(one.ask(called("alone", Class::Interactive)).await, Ok(()));
    let never = Options {
        queue_max: 0,
        ..Options::default()
    };
    let never = World::of(&["a", "b"], true, never).await;
    never.is_full(&["a", "b"]);
    assert_eq!(never.ask(called("plain", Class::Batch)).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn servers_that_are_full_for_ever_are_not_believed_for_ever() {
    let clock = Clock::of_runtime();
    let world = World::at(&["a", "b"], true, Options::default(), clock.clone()).await;
    world.is_full(&["a", "b"]);
    // Served by a thread that holds the time.
    world.ordain(std::iter::repeat_n(Fate::Slow(Pace::default()), 3));
    let began = clock.now();
    let (one, two, three) = tokio::join!(
        world.ask(called("one", Class::Interactive)),
        world.ask(called("two", Class::Interactive)),
        world.ask(called("three", Class::Batch)),
    );
    assert_eq!((one, two, three), (Ok(()), Ok(()), Ok(())));
    let waited = clock.now() - began;
    let all = 3 * crate::limits::QUEUE_AGES;
    assert!(waited > all / 4 && waited < 2 * all, "{waited:?}");
}
