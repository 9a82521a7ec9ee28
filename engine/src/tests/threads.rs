//! The engine's real thread, over the simulated model.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use super::around::{Around, Stepped};
use super::model::{HashModel, PANICS, after_text, completion, ids_of, submission, text_of};
use crate::api::{EngineError, EngineState, Event, Stats, Submission, SubmitError};
use crate::limits::EVENTS_MAX;
use crate::runner::RunnerError;
use crate::sim_runner::token_text;
use crate::{EngineHandle, EngineOptions, EventStream, RunnerOptions, SimOptions};

/// Far longer than anything here takes: a test that gets there has failed.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) fn options(sequences_max: u32, queue_max: u32) -> EngineOptions {
    #[expect(clippy::disallowed_methods, reason = "the tests bring the clock")]
    let start = Instant::now();
    EngineOptions {
        clock: Arc::new(move || start.elapsed()),
        sequences_max,
        step_tokens_max: 256,
        queue_max,
        block_size: 16,
        context_max: None,
        kv_bytes_max: 1 << 20,
        inter_token_target: Duration::from_millis(50),
        draft_tokens_max: 8,
        queue_tokens_max: 1 << 20,
        stall_after: Duration::from_secs(30),
    }
}

fn sim(step_base: Duration) -> SimOptions {
    SimOptions {
        context_len: 4096,
        step_base,
        prefill_token: Duration::ZERO,
        decode_sequence: Duration::ZERO,
        kv_bytes_per_token: 64,
    }
}

async fn start(options: EngineOptions, step_base: Duration) -> EngineHandle {
    let engine = EngineHandle::start(options, RunnerOptions::Sim(sim(step_base)));
    reach(&engine, |state| *state == EngineState::Ready).await;
    engine
}

pub(super) async fn reach(engine: &EngineHandle, wanted: impl FnMut(&EngineState) -> bool) {
    let mut state = engine.watch_state();
    let reached = tokio::time::timeout(TIMEOUT, state.wait_for(wanted)).await;
    reached
        .expect("in time")
        .expect("the engine tells its state");
}

async fn settle(engine: &EngineHandle, wanted: impl FnMut(&Stats) -> bool) {
    let mut stats = engine.watch_stats();
    let settled = tokio::time::timeout(TIMEOUT, stats.wait_for(wanted)).await;
    settled
        .expect("in time")
        .expect("the engine tells its figures");
}

fn is_at_rest(stats: &Stats) -> bool {
    stats.blocks_free == stats.blocks_total && stats.running == 0 && stats.waiting == 0
}

pub(super) async fn read_all(stream: &mut EventStream) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(event) = tokio::time::timeout(TIMEOUT, stream.recv())
        .await
        .expect("in time")
    {
        events.push(event);
    }
    events
}

fn formula(seed: u64, choice: u32, tokens: u32) -> String {
    (0..tokens)
        .map(|index| token_text(seed, choice, index))
        .collect()
}

#[tokio::test]
async fn text_is_the_formula_for_each_seed_and_choice() {
    let engine = start(options(8, 8), Duration::ZERO).await;
    let mut stream = engine
        .submit(Submission {
            n: 3,
            ..submission(7, 40, 100)
        })
        .unwrap();
    let events = read_all(&mut stream).await;
    for choice in 0..3 {
        assert_eq!(text_of(&events, choice), formula(7, choice, 100));
    }
    assert_eq!(
        engine.text().unwrap().vocab_size(),
        crate::limits::SIM_VOCAB_SIZE
    );
}

#[tokio::test]
async fn a_prompt_that_holds_the_answer_is_guessed_and_the_text_is_still_the_formula() {
    let engine = start(options(8, 8), Duration::ZERO).await;
    let asked = Submission {
        prompt: (0..500).collect(),
        n: 2,
        ..submission(7, 1, 400)
    };
    let mut stream = engine.submit(asked).unwrap();
    let events = read_all(&mut stream).await;
    for choice in 0..2 {
        assert_eq!(text_of(&events, choice), formula(7, choice, 400));
    }
    settle(&engine, is_at_rest).await;
    let stats = engine.stats();
    // However long the steps seem to take, some guesses are tried.
    assert!(stats.accepted_tokens > 0, "{stats:?}");
    assert_eq!(stats.accepted_tokens, stats.drafted_tokens);
}

#[tokio::test]
async fn preempted_sequences_say_the_same() {
    // 16384 tokens of cache for 8 sequences that end with 3010 each.
    let engine = start(options(8, 8), Duration::ZERO).await;
    let mut streams: Vec<_> = (0..8)
        .map(|id| engine.submit(submission(id, 10, 3000)).unwrap())
        .collect();
    let readers = streams.iter_mut().map(read_all);
    let all: Vec<Vec<Event>> = futures_join(readers).await;
    for (seed, events) in all.iter().enumerate() {
        assert_eq!(text_of(events, 0), formula(seed as u64, 0, 3000));
    }
    assert!(engine.stats().preemptions > 0);
}

/// Polls all futures to their ends, one task.
async fn futures_join<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.map(Box::pin).collect();
    let mut outputs: Vec<_> = running.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, output) in running.iter_mut().zip(&mut outputs) {
            if output.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *output = Some(value);
            }
        }
        if outputs.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    outputs.into_iter().flatten().collect()
}

#[tokio::test]
async fn dropped_streams_leave_every_block_free() {
    let engine = start(options(16, 200), Duration::ZERO).await;
    for round in 0..50 {
        let mut streams: Vec<_> = (0..4)
            .map(|i| engine.submit(submission(round * 4 + i, 100, 2000)).unwrap())
            .collect();
        if round % 2 == 0 {
            streams[0].recv().await;
        }
    }
    settle(&engine, is_at_rest).await;
}

#[tokio::test]
async fn a_slow_reader_pauses_only_itself() {
    let engine = start(options(4, 4), Duration::ZERO).await;
    let mut slow = engine.submit(submission(1, 10, 1000)).unwrap();
    let mut quick = engine.submit(submission(2, 10, 1000)).unwrap();
    assert_eq!(text_of(&read_all(&mut quick).await, 0), formula(2, 0, 1000));
    let produced = engine.stats().decode_tokens - 1000;
    assert!(
        produced <= EVENTS_MAX as u64 + 1,
        "the slow one ran {produced} tokens ahead"
    );
    assert_eq!(text_of(&read_all(&mut slow).await, 0), formula(1, 0, 1000));
}

#[tokio::test]
async fn a_full_engine_refuses_at_once_and_takes_more_when_it_has_room() {
    let engine = start(options(2, 1), Duration::from_millis(1)).await;
    let mut streams: Vec<_> = (0..3)
        .map(|id| engine.submit(submission(id, 4, 1000)).unwrap())
        .collect();
    assert_eq!(
        engine.submit(submission(3, 4, 1)).unwrap_err(),
        SubmitError::QueueFull
    );
    streams.pop();
    settle(&engine, |stats| stats.running == 2 && stats.waiting == 0).await;
    engine.submit(submission(4, 4, 1)).unwrap();
}

#[tokio::test]
async fn a_drain_lets_work_finish_and_refuses_more() {
    let engine = start(options(4, 4), Duration::from_millis(1)).await;
    let mut stream = engine.submit(submission(1, 10, 20)).unwrap();
    engine.drain(TIMEOUT);
    assert_eq!(engine.state(), EngineState::Draining);
    assert_eq!(
        engine.submit(submission(2, 10, 20)).unwrap_err(),
        SubmitError::Draining
    );
    let events = read_all(&mut stream).await;
    assert_eq!(text_of(&events, 0), formula(1, 0, 20));
    assert!(matches!(events.last(), Some(Event::Done(_))));
    reach(&engine, |state| *state == EngineState::Stopped).await;
}

#[tokio::test]
async fn a_drain_without_grace_fails_what_runs_and_counts_it() {
    let engine = start(options(1, 4), Duration::from_millis(1)).await;
    let mut running = engine.submit(submission(1, 10, 4000)).unwrap();
    let mut waiting = engine.submit(submission(2, 10, 4000)).unwrap();
    running.recv().await.unwrap();
    engine.drain(Duration::ZERO);
    let events = read_all(&mut running).await;
    let Some(Event::Failed(EngineError::ShuttingDown, usage)) = events.last() else {
        panic!("{:?}", events.last());
    };
    assert_eq!(
        usage.completion_tokens as usize,
        ids_of(&events, 0).len() + 1
    );
    let events = read_all(&mut waiting).await;
    assert!(matches!(
        events[..],
        [Event::Failed(EngineError::ShuttingDown, _)]
    ));
    reach(&engine, |state| *state == EngineState::Stopped).await;
    assert!(is_at_rest(&engine.stats()));
}

#[tokio::test]
async fn a_step_that_panics_ends_its_own_and_the_engine_goes_on() {
    let model = || HashModel::new(100, 16, 1600);
    let engine = EngineHandle::start_with(options(4, 4), move |_| Ok(Box::new(model())));
    reach(&engine, |state| *state == EngineState::Ready).await;
    let bad = Submission {
        prompt: [PANICS].into(),
        ..submission(1, 1, 5)
    };
    let events = read_all(&mut engine.submit(bad).unwrap()).await;
    assert!(matches!(
        events[..],
        [Event::Failed(EngineError::StepFailed, _)]
    ));
    let good = submission(2, 10, 50);
    let events = read_all(&mut engine.submit(good.clone()).unwrap()).await;
    assert_eq!(ids_of(&events, 0), completion(&good, 0, 1600));
    settle(&engine, is_at_rest).await;
}

#[tokio::test]
async fn an_engine_says_how_far_its_start_is_and_takes_nothing_before_it_is_ready() {
    let (loaded, load) = sync_channel::<()>(1);
    let (warmed, warm) = sync_channel::<()>(1);
    let engine = EngineHandle::start_with(options(4, 4), move |_| {
        let _ = load.recv_timeout(TIMEOUT);
        let plain = |step: &mut dyn FnMut() -> Stepped| step();
        Ok(Around::warming(plain, move || {
            let _ = warm.recv_timeout(TIMEOUT);
            Ok(())
        }))
    });
    let refused = || engine.submit(submission(1, 10, 5)).unwrap_err();
    assert_eq!(engine.state(), EngineState::Loading);
    assert_eq!(refused(), SubmitError::NotReady);
    loaded.send(()).unwrap();
    reach(&engine, |state| *state == EngineState::Warming).await;
    assert_eq!(refused(), SubmitError::NotReady);
    warmed.send(()).unwrap();
    reach(&engine, |state| *state == EngineState::Ready).await;
    let asked = submission(1, 10, 5);
    let events = read_all(&mut engine.submit(asked.clone()).unwrap()).await;
    assert_eq!(ids_of(&events, 0), completion(&asked, 0, 1600));
}

#[tokio::test]
async fn a_model_that_does_not_warm_up_is_not_served() {
    let engine = EngineHandle::start_with(options(4, 4), |_| {
        let plain = |step: &mut dyn FnMut() -> Stepped| step();
        let fault = || Err(RunnerError::Step("the card is gone".to_owned()));
        Ok(Around::warming(plain, fault))
    });
    let says_why = |state: &EngineState| matches!(state, EngineState::Failed(why) if why.contains("the card is gone"));
    reach(&engine, says_why).await;
}

#[tokio::test]
async fn a_model_that_does_not_load_says_why() {
    let fault = || RunnerError::Load("the file is cut off".to_owned());
    let engine = EngineHandle::start_with(options(4, 4), move |_| Err(fault()));
    reach(&engine, |s| {
        *s == EngineState::Failed("the file is cut off".to_owned())
    })
    .await;
    assert_eq!(
        engine.submit(submission(1, 1, 1)).unwrap_err(),
        SubmitError::NotReady
    );

    let tiny = EngineOptions {
        kv_bytes_max: 10,
        ..options(4, 4)
    };
    let engine = EngineHandle::start(tiny, RunnerOptions::Sim(sim(Duration::ZERO)));
    reach(
        &engine,
        |s| matches!(s, EngineState::Failed(why) if why.contains("raise the budget")),
    )
    .await;
}

#[tokio::test]
async fn the_thread_ends_with_the_last_handle() {
    let engine = start(options(4, 4), Duration::ZERO).await;
    let mut state = engine.watch_state();
    let stream = engine.submit(submission(1, 10, 4000)).unwrap();
    drop(engine);
    drop(stream);
    let stopped = state.wait_for(|state| *state == EngineState::Stopped);
    tokio::time::timeout(TIMEOUT, stopped)
        .await
        .expect("in time")
        .expect("the state is told");
}

#[tokio::test]
async fn a_thousand_disconnects_at_any_moment_leave_every_block_free() {
    let engine = start(options(8, 2000), Duration::ZERO).await;
    for round in 0..10 {
        let mut streams: Vec<_> = (0..100)
            .map(|i| {
                engine
                    .submit(after_text(i % 5, 60, round * 100 + i, 20, 60))
                    .unwrap()
            })
            .collect();
        // Some leave before their first token, some in the middle, some at the end. None has so much to say that it pauses.
        for (i, stream) in streams.iter_mut().enumerate() {
            for _ in 0..i % 7 * 10 {
                stream.recv().await;
            }
        }
        drop(streams);
    }
    settle(&engine, is_at_rest).await;
    let stats = engine.stats();
    assert!(stats.prefix_hit_tokens > 0 && stats.blocks_cached > 0);
    assert_eq!(stats.blocks_free, stats.blocks_total);
}

#[tokio::test]
async fn a_flood_stays_within_the_budget() {
    // The model has no slot beyond its blocks, and a write outside of them would be a panic.
    let model = || HashModel::new(50, 16, 800);
    let engine = EngineHandle::start_with(options(16, 500), move |_| Ok(Box::new(model())));
    reach(&engine, |state| *state == EngineState::Ready).await;
    let mut streams = Vec::new();
    let mut refused = 0;
    for id in 0..2000 {
        match engine.submit(submission(id, 1 + (id % 600) as u32, 100)) {
            Ok(stream) => streams.push(stream),
            Err(SubmitError::QueueFull) => refused += 1,
            Err(error) => panic!("{error}"),
        }
        let stats = engine.stats();
        assert!(stats.blocks_free <= stats.blocks_total && stats.blocks_total == 50);
        assert!(stats.running <= 16 && stats.running + stats.waiting <= 516);
    }
    assert!(refused > 0);
    let readers = streams.iter_mut().map(read_all);
    for events in futures_join(readers).await {
        assert!(matches!(events.last(), Some(Event::Done(_))));
    }
    settle(&engine, is_at_rest).await;
}
