//! Several models on one device: turns, failures, coming and going.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::model::{HashModel, completion, ids_of, submission};
use super::threads::{TIMEOUT, options, reach, read_all};
use crate::api::{EngineState, Event};
use crate::device::Device;
use crate::runner::{RowOutcome, Runner, RunnerError, RunnerProfile, SampleRow};
use crate::{EngineHandle, EngineOptions};
use hansa_models::Batch;
use hansa_models::text::TextCodec;

/// What the steps of several models see of each other.
#[derive(Default)]
struct Watch {
    inside: AtomicUsize,
    together: AtomicBool,
    /// A name for each step, in order.
    steps: std::sync::Mutex<Vec<char>>,
}

/// A model that tells when it steps.
struct Told {
    name: char,
    model: HashModel,
    watch: Arc<Watch>,
    /// What is freed with the model.
    _held: Arc<()>,
}

impl Runner for Told {
    fn profile(&self) -> RunnerProfile {
        self.model.profile()
    }

    fn text(&self) -> Arc<dyn TextCodec> {
        self.model.text()
    }

    fn warm_up(&mut self, step_tokens_max: u32) -> Result<(), RunnerError> {
        self.model.warm_up(step_tokens_max)
    }

    fn step(
        &mut self,
        batch: &Batch,
        rows: &[SampleRow<'_>],
        outcomes: &mut Vec<RowOutcome>,
    ) -> Result<(), RunnerError> {
        if self.watch.inside.fetch_add(1, Ordering::SeqCst) > 0 {
            self.watch.together.store(true, Ordering::SeqCst);
        }
        self.watch.steps.lock().unwrap().push(self.name);
        let stepped = self.model.step(batch, rows, outcomes);
        self.watch.inside.fetch_sub(1, Ordering::SeqCst);
        stepped
    }
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
    async fn model(&self, name: char) -> (EngineHandle, std::sync::Weak<()>) {
        let (held, watch) = (Arc::new(()), Arc::clone(&self.watch));
        let seen = Arc::downgrade(&held);
        let engine =
            EngineHandle::start_with_on(&self.device, 1, self.options.clone(), move |_| {
                Ok(Box::new(Told {
                    name,
                    model: HashModel::new(100, 16, 1600),
                    watch,
                    _held: held,
                }))
            });
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
    let (a, _) = fleet.model('a').await;
    let (b, _) = fleet.model('b').await;
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
    let (good, _) = fleet.model('a').await;
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
    let (a, _) = fleet.model('a').await;
    let mut long = a.submit(submission(1, 10, 1500)).unwrap();
    long.recv().await.unwrap();
    let (b, held) = fleet.model('b').await;
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
    struct Hangs(HashModel, std::sync::mpsc::Receiver<()>);
    impl Runner for Hangs {
        fn profile(&self) -> RunnerProfile {
            self.0.profile()
        }
        fn text(&self) -> Arc<dyn TextCodec> {
            self.0.text()
        }
        fn warm_up(&mut self, _: u32) -> Result<(), RunnerError> {
            Ok(())
        }
        fn step(
            &mut self,
            batch: &Batch,
            rows: &[SampleRow<'_>],
            outcomes: &mut Vec<RowOutcome>,
        ) -> Result<(), RunnerError> {
            let _ = self.1.recv_timeout(TIMEOUT);
            self.0.step(batch, rows, outcomes)
        }
    }
    let quick = EngineOptions {
        stall_after: Duration::from_millis(40),
        ..fleet.options.clone()
    };
    let model = HashModel::new(100, 16, 1600);
    let hangs = EngineHandle::start_with_on(&fleet.device, 1, quick.clone(), move |_| {
        Ok(Box::new(Hangs(model, gate)))
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
