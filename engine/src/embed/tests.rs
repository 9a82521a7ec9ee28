//! Embedders on a device: answers, bounds, neighbours, failures.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::random::splitmix64;
use crate::tests::threads::{TIMEOUT, options};

const WIDTH: u32 = 4;

fn embed_options() -> EmbedOptions {
    EmbedOptions {
        clock: options(1, 1).clock,
        step_tokens_max: 16,
        pass_target: TIMEOUT,
        requests_max: 8,
        queue_tokens_max: 10_000,
        stall_after: TIMEOUT,
    }
}

fn sim() -> EmbedderOptions {
    EmbedderOptions::Sim(SimEmbedOptions {
        width: WIDTH,
        tokens_max: 64,
        step_base: Duration::ZERO,
        token: Duration::ZERO,
    })
}

async fn reach(handle: &EmbedHandle, wanted: impl FnMut(&EngineState) -> bool) {
    let mut state = handle.watch_state();
    let reached = tokio::time::timeout(TIMEOUT, state.wait_for(wanted)).await;
    reached.expect("in time").expect("it tells its state");
}

async fn start(embedder: EmbedderOptions) -> EmbedHandle {
    let handle = EmbedHandle::start_on(&Device::start(), 1, embed_options(), embedder);
    reach(&handle, |state| *state == EngineState::Ready).await;
    handle
}

fn row(ids: &[u32]) -> Arc<[u32]> {
    Arc::from(ids)
}

/// The documented formula, written anew.
fn formula(ids: &[u32]) -> Vec<f32> {
    let mut h = 0;
    for id in ids {
        h = splitmix64(h ^ u64::from(*id));
    }
    let raw: Vec<f64> = (0..u64::from(WIDTH))
        .map(|j| 2.0 * (splitmix64(h.wrapping_add(j)) >> 11) as f64 / 2.0_f64.powi(53) - 1.0)
        .collect();
    let length = raw.iter().map(|x| x * x).sum::<f64>().sqrt();
    raw.iter().map(|x| (x / length) as f32).collect()
}

fn near(ours: &[f32], theirs: &[f32]) -> bool {
    ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| (a - b).abs() < 1e-6)
}

#[tokio::test]
async fn every_text_gets_its_own_vector_in_its_place() {
    let handle = start(sim()).await;
    let inputs: Vec<Arc<[u32]>> = (0..300)
        .map(|i| row(&vec![i; 1 + i as usize % 40]))
        .collect();
    let many = handle.embed(inputs.clone(), None).unwrap();
    let one = handle.embed(vec![row(&[5, 6])], None).unwrap();
    assert!(near(&one.wait().await.unwrap()[0], &formula(&[5, 6])));
    let vectors = many.wait().await.unwrap();
    assert_eq!(vectors.len(), inputs.len());
    for (ids, vector) in inputs.iter().zip(&vectors) {
        assert!(near(vector, &formula(ids)), "{ids:?}");
    }
    let length: f32 = vectors[0].iter().map(|x| x * x).sum();
    assert!((length - 1.0).abs() < 1e-5);
}

#[tokio::test]
async fn what_no_model_could_take_is_refused_by_name() {
    let handle = start(sim()).await;
    let refused = |inputs| handle.embed(inputs, None).unwrap_err();
    assert!(matches!(refused(vec![]), SubmitError::Invalid(_)));
    assert!(matches!(refused(vec![row(&[])]), SubmitError::Invalid(_)));
    assert!(matches!(
        refused(vec![row(&[u32::MAX])]),
        SubmitError::Invalid(_)
    ));
    let many = vec![row(&[1]); EMBED_INPUTS_MAX + 1];
    assert!(matches!(refused(many), SubmitError::Invalid(_)));
    let long = refused(vec![row(&[1]), row(&[1; 65])]);
    let context = 64;
    assert_eq!(
        long,
        SubmitError::PromptTooLong {
            prompt: 65,
            context
        }
    );
    let late = handle.embed(vec![row(&[1])], Some(Duration::ZERO));
    assert_eq!(late.unwrap_err(), SubmitError::DeadlineExceeded);
}

/// An embedder that waits for a word, fails on 7s, panics on 8s, and may break altogether.
struct Fragile {
    gate: Option<std::sync::Mutex<std::sync::mpsc::Receiver<()>>>,
    broken: AtomicBool,
    passes: AtomicUsize,
    padded_most: AtomicUsize,
}

impl Fragile {
    fn new(gate: Option<std::sync::mpsc::Receiver<()>>) -> Arc<Self> {
        Arc::new(Self {
            gate: gate.map(std::sync::Mutex::new),
            broken: AtomicBool::new(false),
            passes: AtomicUsize::new(0),
            padded_most: AtomicUsize::new(0),
        })
    }

    async fn start(self: &Arc<Self>) -> EmbedHandle {
        let own: Arc<dyn Embedder> = Arc::clone(self) as _;
        let device = Device::start();
        let handle = EmbedHandle::start_with(&device, 1, embed_options(), move || Ok(own));
        reach(&handle, |state| *state == EngineState::Ready).await;
        handle
    }
}

impl Embedder for Fragile {
    fn profile(&self) -> EmbedProfile {
        EmbedProfile {
            width: 1,
            tokens_max: 64,
            vocab_size: 10,
        }
    }

    fn encode(&self, _: &str) -> Result<Vec<u32>, TextError> {
        Ok(vec![1])
    }

    fn embed(&self, rows: &[Arc<[u32]>]) -> Result<Vec<Vec<f32>>, RunnerError> {
        let first = self.passes.fetch_add(1, Ordering::SeqCst) == 0;
        let longest = rows.iter().map(|row| row.len()).max().unwrap_or(0);
        self.padded_most
            .fetch_max(longest * rows.len(), Ordering::SeqCst);
        if let Some(gate) = self.gate.as_ref().filter(|_| !first) {
            let _ = gate.lock().unwrap().recv_timeout(TIMEOUT);
        }
        let has = |id: u32| rows.iter().any(|row| row.contains(&id));
        assert!(!has(8), "a fault of the model's own");
        if has(7) || self.broken.load(Ordering::SeqCst) {
            return Err(RunnerError::Step("no".to_owned()));
        }
        Ok(rows.iter().map(|row| vec![row[0] as f32]).collect())
    }
}

#[tokio::test]
async fn a_text_that_breaks_its_pass_ends_its_own_request_alone() {
    let handle = Fragile::new(None).start().await;
    for bad in [7, 8] {
        let asked = [row(&[1]), row(&[bad]), row(&[2])];
        let answers = asked.map(|ids| handle.embed(vec![row(&[3]), ids], None).unwrap());
        let mut outcomes = Vec::new();
        for answer in answers {
            outcomes.push(answer.wait().await);
        }
        assert_eq!(outcomes[0], Ok(vec![vec![3.0], vec![1.0]]));
        assert_eq!(outcomes[1], Err(EngineError::StepFailed));
        assert_eq!(outcomes[2], Ok(vec![vec![3.0], vec![2.0]]));
    }
    assert_eq!(handle.state(), EngineState::Ready);
}

#[tokio::test]
async fn an_embedder_on_which_nothing_works_gives_up_and_says_so() {
    let fragile = Fragile::new(None);
    let handle = fragile.start().await;
    fragile.broken.store(true, Ordering::SeqCst);
    for _ in 0..crate::limits::FAILED_STEPS_MAX {
        if let Ok(answer) = handle.embed(vec![row(&[1])], None) {
            assert_eq!(answer.wait().await, Err(EngineError::StepFailed));
        }
    }
    reach(
        &handle,
        |s| matches!(s, EngineState::Failed(why) if why.contains("restart")),
    )
    .await;
    let refused = handle.embed(vec![row(&[1])], None).unwrap_err();
    assert_eq!(refused, SubmitError::NotReady);
}

#[tokio::test]
async fn passes_and_the_line_are_bounded_and_who_leaves_costs_nothing() {
    let (open, gate) = std::sync::mpsc::sync_channel(1000);
    let fragile = Fragile::new(Some(gate));
    let handle = fragile.start().await;
    let ask = || handle.embed(vec![row(&[1; 5]); 20], None);
    let mut answers: Vec<_> = (0..8).map(|_| ask().unwrap()).collect();
    assert_eq!(ask().unwrap_err(), SubmitError::QueueFull);
    drop(answers.split_off(1));
    for _ in 0..100 {
        open.send(()).unwrap();
    }
    let first = answers.pop().unwrap().wait().await.unwrap();
    assert_eq!(first.len(), 20);
    assert!(fragile.padded_most.load(Ordering::SeqCst) <= 16);
    // The first pass held a text of some of the others, and nothing of them ran after they had left.
    let passes = fragile.passes.load(Ordering::SeqCst);
    assert!(passes <= 1 + 1 + 7, "{passes}");
    drop(open);
    ask().unwrap().wait().await.unwrap();
}

#[tokio::test]
async fn one_that_is_stopped_ends_before_its_next_pass_and_tells_what_it_took() {
    let (open, gate) = std::sync::mpsc::sync_channel(1000);
    let fragile = Fragile::new(Some(gate));
    let handle = fragile.start().await;
    // A pass holds three texts; the second request waits for the first's pass to end.
    let running = handle.embed(vec![row(&[1; 5]); 20], None).unwrap();
    let stopper = running.stopper();
    while fragile.passes.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    let waiting = handle.embed(vec![row(&[1; 5]); 20], None).unwrap();
    let waits = waiting.stopper();
    waits.stop();
    stopper.stop();
    assert_eq!(stopper.tokens(), 0, "its first pass is not over");
    open.send(()).unwrap();
    assert_eq!(running.wait().await, Err(EngineError::Aborted));
    assert_eq!(waiting.wait().await, Err(EngineError::Aborted));
    assert_eq!((stopper.tokens(), waits.tokens()), (15, 0));
    assert_eq!(handle.stats().prefill_tokens, 15);
    // One that is over is not disturbed.
    drop(open);
    let answer = handle.embed(vec![row(&[1; 5])], None).unwrap();
    let late = answer.stopper();
    assert_eq!(answer.wait().await.unwrap().len(), 1);
    late.stop();
    assert_eq!(late.tokens(), 5);
}

#[tokio::test]
async fn a_drain_ends_the_line_in_order() {
    let handle = start(sim()).await;
    let answer = handle.embed(vec![row(&[1, 2]); 50], None).unwrap();
    handle.drain(TIMEOUT);
    assert_eq!(answer.wait().await.unwrap().len(), 50);
    reach(&handle, |state| *state == EngineState::Stopped).await;
    let refused = handle.embed(vec![row(&[1])], None).unwrap_err();
    assert_eq!(refused, SubmitError::Draining);

    let (open, gate) = std::sync::mpsc::sync_channel(10);
    let handle = Fragile::new(Some(gate)).start().await;
    let answer = handle.embed(vec![row(&[1; 16]); 5], None).unwrap();
    handle.drain(Duration::ZERO);
    open.send(()).unwrap();
    assert_eq!(answer.wait().await, Err(EngineError::ShuttingDown));
}

#[tokio::test]
async fn it_ends_with_the_last_handle() {
    let handle = start(sim()).await;
    let mut state = handle.watch_state();
    drop(handle);
    let stopped = state.wait_for(|state| *state == EngineState::Stopped);
    tokio::time::timeout(TIMEOUT, stopped)
        .await
        .expect("in time")
        .expect("told");
}
