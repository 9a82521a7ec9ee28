//! What breaks, and what it costs: one sequence where one is at fault, the engine only where nothing works any more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::around::{Around, Stepped};
use super::model::{Bench, FAILS, PANICS, completion, ids_of, submission, take_all};
use super::threads::{TIMEOUT, options, reach, read_all};
use crate::api::{EngineError, EngineState, Event, Submission, SubmitError};
use crate::runner::RunnerError;
use crate::{EngineHandle, EngineOptions};

#[test]
fn of_a_step_that_fails_only_the_guilty_end() {
    for token in [PANICS, FAILS] {
        let mut bench = Bench::new(16, 200, 100);
        let good: Vec<Submission> = (0..6).map(|id| submission(id, 7, 20)).collect();
        let mut streams: Vec<_> = good.iter().map(|s| bench.submit(s.clone())).collect();
        let mut bad: Vec<_> = (10..12)
            .map(|id| Submission {
                prompt: [1, token, 2].into(),
                ..submission(id, 1, 5)
            })
            .map(|s| bench.submit(s))
            .collect();
        bench.finish();
        for stream in &mut bad {
            let events = take_all(stream);
            assert!(matches!(
                events[..],
                [Event::Failed(EngineError::StepFailed, _)]
            ));
        }
        for (asked, stream) in good.iter().zip(&mut streams) {
            let events = take_all(stream);
            assert_eq!(ids_of(&events, 0), completion(asked, 0, bench.context_len));
        }
    }
}

#[test]
fn bad_requests_one_after_another_do_not_end_the_engine() {
    let mut bench = Bench::new(4, 16, 40);
    for id in 0..20 {
        let bad = Submission {
            prompt: [PANICS].into(),
            ..submission(id, 1, 5)
        };
        let mut stream = bench.submit(bad);
        bench.finish();
        assert!(matches!(
            take_all(&mut stream)[..],
            [Event::Failed(EngineError::StepFailed, _)]
        ));
    }
    let good = submission(99, 7, 20);
    let mut stream = bench.submit(good.clone());
    bench.finish();
    assert_eq!(
        ids_of(&take_all(&mut stream), 0),
        completion(&good, 0, bench.context_len)
    );
}

/// An engine whose steps fail while `breaks` says so, and wait for a word from the gate where there is one.
async fn start(
    options: EngineOptions,
    breaks: &Arc<AtomicBool>,
    gate: Option<Receiver<()>>,
) -> EngineHandle {
    let breaks = Arc::clone(breaks);
    let around = move |step: &mut dyn FnMut() -> Stepped| {
        if let Some(gate) = &gate {
            let _ = gate.recv_timeout(TIMEOUT);
        }
        if breaks.load(Ordering::SeqCst) {
            return Err(RunnerError::Step("the device is gone".to_owned()));
        }
        step()
    };
    let engine = EngineHandle::start_with(options, move |_| Ok(Around::boxed(around)));
    reach(&engine, |state| *state == EngineState::Ready).await;
    engine
}

#[tokio::test]
async fn an_engine_on_which_nothing_works_gives_up_and_says_so() {
    let breaks = Arc::new(AtomicBool::new(false));
    let engine = start(options(1, 8), &breaks, None).await;
    breaks.store(true, Ordering::SeqCst);
    let mut streams: Vec<_> = (0..6)
        .filter_map(|id| engine.submit(submission(id, 10, 50)).ok())
        .collect();
    for stream in &mut streams {
        let events = read_all(stream).await;
        assert!(matches!(
            events.last(),
            Some(Event::Failed(EngineError::StepFailed, _))
        ));
    }
    reach(
        &engine,
        |state| matches!(state, EngineState::Failed(why) if why.contains("restart")),
    )
    .await;
    assert_eq!(
        engine.submit(submission(9, 10, 5)).unwrap_err(),
        SubmitError::NotReady
    );
}

#[tokio::test]
async fn a_step_that_hangs_stalls_the_engine_until_it_ends() {
    let (open, gate) = sync_channel(10_000);
    let never = Arc::new(AtomicBool::new(false));
    let stall_after = Duration::from_millis(40);
    let engine = start(
        EngineOptions {
            stall_after,
            ..options(4, 4)
        },
        &never,
        Some(gate),
    )
    .await;
    let asked = submission(1, 10, 5);
    let mut stream = engine.submit(asked.clone()).unwrap();
    reach(&engine, |state| *state == EngineState::Stalled).await;
    assert_eq!(
        engine.submit(submission(2, 10, 5)).unwrap_err(),
        SubmitError::NotReady
    );
    for _ in 0..100 {
        open.send(()).unwrap();
    }
    let events = read_all(&mut stream).await;
    assert_eq!(ids_of(&events, 0), completion(&asked, 0, 1600));
    reach(&engine, |state| *state == EngineState::Ready).await;
}

#[tokio::test]
async fn a_panic_of_the_engine_itself_is_not_told_as_a_shutdown() {
    let panics = Arc::new(AtomicBool::new(false));
    let inner = options(4, 4);
    let (clock, trap) = (Arc::clone(&inner.clock), Arc::clone(&panics));
    let options = EngineOptions {
        clock: Arc::new(move || {
            let on_engine = std::thread::current().name() == Some("hansa-engine");
            assert!(
                !on_engine || !trap.load(Ordering::SeqCst),
                "a fault of our own"
            );
            clock()
        }),
        ..inner
    };
    let (open, gate) = sync_channel(10_000);
    let engine = start(options, &Arc::new(AtomicBool::new(false)), Some(gate)).await;
    let mut stream = engine.submit(submission(1, 10, 50)).unwrap();
    panics.store(true, Ordering::SeqCst);
    open.send(()).unwrap();
    let events = read_all(&mut stream).await;
    assert!(
        matches!(
            events.last(),
            Some(Event::Failed(EngineError::StepFailed, _))
        ),
        "{events:?}"
    );
    reach(&engine, |state| matches!(state, EngineState::Failed(_))).await;
}

#[tokio::test]
async fn a_flood_of_prompt_tokens_is_refused_at_the_door() {
    let (open, gate) = sync_channel(10_000);
    let never = Arc::new(AtomicBool::new(false));
    let options = EngineOptions {
        queue_tokens_max: 1000,
        ..options(4, 1000)
    };
    let engine = start(options, &never, Some(gate)).await;
    let mut streams = Vec::new();
    let refused = loop {
        match engine.submit(submission(streams.len() as u64, 300, 5)) {
            Ok(stream) => streams.push(stream),
            Err(error) => break error,
        }
    };
    assert_eq!((streams.len(), refused), (3, SubmitError::QueueFull));
    let opener = Mutex::new(open);
    std::thread::spawn(move || {
        let open = opener.lock().unwrap();
        while open.send(()).is_ok() {}
    });
    for stream in &mut streams {
        assert!(matches!(
            read_all(stream).await.last(),
            Some(Event::Done(_))
        ));
    }
    // One that is larger than the whole line is served where nobody waits.
    let mut large = engine.submit(submission(9, 1500, 5)).unwrap();
    assert!(matches!(
        read_all(&mut large).await.last(),
        Some(Event::Done(_))
    ));
}

#[tokio::test]
async fn an_answer_that_comes_too_late_is_not_begun() {
    let engine = start(options(4, 4), &Arc::new(AtomicBool::new(false)), None).await;
    let late = Submission {
        deadline: Some(Duration::ZERO),
        ..submission(1, 10, 5)
    };
    assert_eq!(
        engine.submit(late).unwrap_err(),
        SubmitError::DeadlineExceeded
    );
}
