//! Several models on one device: turns, failures, coming and going.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::around::{Around, Stepped};
use super::model::{HashModel, completion, ids_of, submission};
use super::threads::{TIMEOUT, options, reach, read_all};
use crate::api::{EngineState, Event};
use crate::device::Device;
use crate::runner::{Runner, RunnerError};
use crate::{EngineHandle, EngineOptions};

/// What the steps of several models see of each other.
#[derive(Default)]
struct Watch {
    inside: AtomicUsize,
    together: AtomicBool,
}

struct Fleet {
    device: Device,
    options: EngineOptions,
    watch: Arc<Watch>,
}

impl Fleet {
    fn new() -> Self {
        Self {
            device: Device::start(),
            options: options(8, 64),
            watch: Arc::default(),
        }
    }

    /// A model whose memory can be seen to go.
    async fn model(&self) -> (EngineHandle, Weak<()>) {
        let (held, watch) = (Arc::new(()), Arc::clone(&self.watch));
        let seen = Arc::downgrade(&held);
        let around = move |step: &mut dyn FnMut() -> Stepped| {
            let _mine = &held;
            if watch.inside.fetch_add(1, Ordering::SeqCst) > 0 {
                watch.together.store(true, Ordering::SeqCst);
            }
            let stepped = step();
            watch.inside.fetch_sub(1, Ordering::SeqCst);
            stepped
        };
        let load = move |_: &EngineOptions| Ok(Around::boxed(around));
        let engine = EngineHandle::start_with_on(&self.device, 1, self.options.clone(), load);
        reach(&engine, |state| *state == EngineState::Ready).await;
        (engine, seen)
    }
}

async fn serves(engine: &EngineHandle, id: u64) {
    let asked = submission(id, 10, 40);
    let events = read_all(&mut engine.submit(asked.clone()).unwrap()).await;
    assert_eq!(ids_of(&events, 0), completion(&asked, 0, 1600));
}

#[tokio::test]
async fn models_of_one_device_take_turns_and_say_what_they_say_alone() {
    let fleet = Fleet::new();
    let (a, _) = fleet.model().await;
    let (b, _) = fleet.model().await;
    let asked: Vec<_> = (0..4).map(|id| submission(id, 20, 60)).collect();
    let mut streams: Vec<_> = asked
        .iter()
        .flat_map(|s| [a.submit(s.clone()).unwrap(), b.submit(s.clone()).unwrap()])
        .collect();
    for (index, stream) in streams.iter_mut().enumerate() {
        let expected = completion(&asked[index / 2], 0, 1600);
        assert_eq!(ids_of(&read_all(stream).await, 0), expected);
    }
    assert!(
        !fleet.watch.together.load(Ordering::SeqCst),
        "two steps at once"
    );
    assert!(a.stats().steps > 0 && b.stats().steps > 0);
    assert_eq!(a.stats().blocks_total, 100, "each has a cache of its own");
}

#[tokio::test]
async fn a_model_that_fails_or_panics_takes_no_other_down() {
    let fleet = Fleet::new();
    let (good, _) = fleet.model().await;
    let fault = |_: &EngineOptions| Err(RunnerError::Load("the file is cut off".to_owned()));
    let broken = EngineHandle::start_with_on(&fleet.device, 1, fleet.options.clone(), fault);
    reach(
        &broken,
        |s| matches!(s, EngineState::Failed(why) if why.contains("cut off")),
    )
    .await;
    let panics = EngineHandle::start_with_on(&fleet.device, 1, fleet.options.clone(), |_| {
        panic!("a loader of our own")
    });
    reach(
        &panics,
        |s| matches!(s, EngineState::Failed(why) if why.contains("panicked")),
    )
    .await;

    let (clock, trap) = (
        Arc::clone(&fleet.options.clock),
        Arc::new(AtomicBool::new(false)),
    );
    let armed = Arc::clone(&trap);
    let trapped = EngineOptions {
        clock: Arc::new(move || {
            let on_device = std::thread::current().name() == Some("hansa-engine");
            assert!(
                !on_device || !armed.load(Ordering::SeqCst),
                "a fault of our own"
            );
            clock()
        }),
        ..fleet.options.clone()
    };
    let model = |_: &EngineOptions| Ok(Box::new(HashModel::new(100, 16, 1600)) as Box<dyn Runner>);
    let falls = EngineHandle::start_with_on(&fleet.device, 1, trapped, model);
    reach(&falls, |state| *state == EngineState::Ready).await;
    trap.store(true, Ordering::SeqCst);
    let mut stream = falls.submit(submission(1, 10, 5)).unwrap();
    assert!(matches!(
        read_all(&mut stream).await.last(),
        Some(Event::Failed(..))
    ));
    reach(&falls, |state| matches!(state, EngineState::Failed(_))).await;
    serves(&good, 7).await;
    assert_eq!(good.state(), EngineState::Ready);
}

#[tokio::test]
async fn a_model_moves_in_while_another_serves_and_its_memory_goes_with_it() {
    let fleet = Fleet::new();
    let (a, _) = fleet.model().await;
    let mut long = a.submit(submission(1, 10, 1500)).unwrap();
    long.recv().await.unwrap();
    let (b, held) = fleet.model().await;
    serves(&b, 2).await;
    let mut last = b.submit(submission(3, 10, 40)).unwrap();
    b.drain(TIMEOUT);
    assert!(matches!(
        read_all(&mut last).await.last(),
        Some(Event::Done(_))
    ));
    reach(&b, |state| *state == EngineState::Stopped).await;
    assert!(held.upgrade().is_none(), "the model is still in memory");
    assert!(matches!(
        read_all(&mut long).await.last(),
        Some(Event::Done(_))
    ));
    serves(&a, 4).await;
}

#[tokio::test]
async fn a_model_that_hangs_stalls_all_that_wait_for_its_device() {
    let fleet = Fleet::new();
    let (open, gate) = std::sync::mpsc::sync_channel::<()>(1);
    let quick = EngineOptions {
        stall_after: Duration::from_millis(40),
        ..fleet.options.clone()
    };
    let waits_first = move |step: &mut dyn FnMut() -> Stepped| {
        let _ = gate.recv_timeout(TIMEOUT);
        step()
    };
    let hangs = EngineHandle::start_with_on(&fleet.device, 1, quick.clone(), move |_| {
        Ok(Around::boxed(waits_first))
    });
    let waits = EngineHandle::start_with_on(&fleet.device, 1, quick, |_| {
        Ok(Box::new(HashModel::new(100, 16, 1600)))
    });
    reach(&hangs, |state| *state == EngineState::Ready).await;
    reach(&waits, |state| *state == EngineState::Ready).await;
    let stream = hangs.submit(submission(1, 10, 1)).unwrap();
    reach(&waits, |state| *state == EngineState::Stalled).await;
    drop(open);
    reach(&waits, |state| *state == EngineState::Ready).await;
    drop(stream);
    serves(&waits, 2).await;
}
