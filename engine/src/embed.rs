//! Embedders: texts to vectors, in batches that take their turns on a device beside the models that generate.
//!
//! An [`EmbedHandle`] bounds what waits and hands requests to `batches`, which lives on the device's thread. An embedder keeps no state between
//! texts, so there is no cache and nothing to schedule but which texts go together.

mod batches;
#[cfg(feature = "candle")]
mod candle;
mod queue;
mod sim;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hansa_models::text::TextError;
use tokio::sync::{oneshot, watch};

use self::batches::Batches;
pub use self::queue::Stopper;
use self::queue::{Queue, Seat};
use self::sim::SimEmbedder;
use crate::api::{Clock, EngineError, EngineState, Stats, SubmitError};
use crate::device::{Device, Resident};
use crate::limits::EMBED_INPUTS_MAX;
use crate::loading;
#[cfg(feature = "candle")]
use crate::options::DeviceOptions;
use crate::options::LoadOn;
use crate::runner::RunnerError;
use crate::shared::Shared;
use crate::watchdog;

/// A model that makes vectors of texts. It is called from the device's thread, its tokenizer from any.
pub trait Embedder: Send + Sync {
    /// The model's bounds.
    fn profile(&self) -> EmbedProfile;

    /// Bytes of its weights in memory; none where it only simulates.
    fn weights_bytes(&self) -> u64 {
        0
    }

    /// Token ids of a text, the model's own marks included. A text beyond the model's context is not cut.
    ///
    /// # Errors
    /// [`TextError`]: the tokenizer's fault, or a text longer than any context.
    fn encode(&self, text: &str) -> Result<Vec<u32>, TextError>;

    /// A vector for each row of token ids, in their order. A row's vector depends on its own ids; what else is in the
    /// batch changes no more than rounding does (see [`EmbedProfile`]).
    ///
    /// # Errors
    /// [`RunnerError::Step`] where the pass failed; the caller may run the rows again one by one.
    fn embed(&self, rows: &[Arc<[u32]>]) -> Result<Vec<Vec<f32>>, RunnerError>;
}

/// Bounds of a loaded embedder. Of a normalised vector's numbers none moves by more than 1e-5 with the rows beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbedProfile {
    /// Numbers of a vector.
    pub width: u32,
    /// Tokens of a text, the model's own marks included.
    pub tokens_max: u32,
    /// Every token id is below it.
    pub vocab_size: u32,
}

/// Bounds of one embedder's engine.
#[derive(Clone)]
pub struct EmbedOptions {
    /// The clock that deadlines and step times are read from.
    pub clock: Clock,
    /// Tokens of one pass, the padding of shorter texts counted; a longer text passes alone.
    pub step_tokens_max: u32,
    /// How long a pass should take: the models that generate on the same device wait for its end.
    pub pass_target: Duration,
    /// Requests that may be in line or at work.
    pub requests_max: u32,
    /// Tokens that may be in line or at work; one request may exceed it where there is no other.
    pub queue_tokens_max: u64,
    /// A pass that takes longer makes the engine [`EngineState::Stalled`] until it ends.
    pub stall_after: Duration,
}

/// What makes the vectors.
#[derive(Debug, Clone)]
pub enum EmbedderOptions {
    /// Vectors that are a formula.
    Sim(SimEmbedOptions),
    /// A BERT through Candle.
    #[cfg(feature = "candle")]
    Candle {
        /// The folder as Hugging Face lays it out.
        model_path: std::path::PathBuf,
        /// Where the tensors live.
        device: DeviceOptions,
    },
}

/// The simulated embedder: a pass takes `step_base + padded tokens x token`. Number `j` of the vector of `ids` is
/// `2 x (splitmix64(h + j) >> 11) / 2^53 - 1`, scaled to length 1 over all `width` numbers, where `h` starts as 0 and
/// becomes `splitmix64(h ^ id)` with each id.
#[derive(Debug, Clone, PartialEq)]
pub struct SimEmbedOptions {
    /// Numbers of a vector.
    pub width: u32,
    /// Tokens of a text.
    pub tokens_max: u32,
    /// Time of a pass however small.
    pub step_base: Duration,
    /// Time added by each token, padding included.
    pub token: Duration,
}

/// A running embedder. Clones share it; it ends when the last clone is gone, or after [`EmbedHandle::drain`].
#[derive(Clone)]
pub struct EmbedHandle {
    shared: Arc<Shared>,
    embedder: Arc<OnceLock<Arc<dyn Embedder>>>,
    queue: Arc<Queue>,
    clock: Clock,
    /// Closes the queue with the last clone.
    _seat: Arc<Seat>,
}

/// The vectors of one request, when they are there. Dropping it gives them up.
#[derive(Debug)]
pub struct Vectors {
    answer: oneshot::Receiver<Answer>,
    stopper: Stopper,
}

/// One vector for each text, or why there are none.
type Answer = Result<Vec<Vec<f32>>, EngineError>;

impl Vectors {
    /// What stops the request while it is waited for.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// One vector for each input, in their order.
    ///
    /// # Errors
    /// Why there are none; half an answer is none.
    pub async fn wait(self) -> Result<Vec<Vec<f32>>, EngineError> {
        self.answer.await.unwrap_or(Err(EngineError::StepFailed))
    }
}

impl EmbedHandle {
    /// Starts an embedder on `device`, as [`crate::EngineHandle::start_on`] does an engine.
    #[must_use]
    pub fn start_on(
        device: &Device,
        weight: u32,
        options: EmbedOptions,
        embedder: EmbedderOptions,
    ) -> Self {
        let place = place_of(&embedder);
        let make: Make = Box::new(move || load(embedder));
        Self::move_in(device, weight, options, (place, make))
    }

    /// As [`EmbedHandle::start_on`] with an embedder of the caller's own, which `make` makes on a thread of its own.
    #[must_use]
    pub fn start_with(
        device: &Device,
        weight: u32,
        options: EmbedOptions,
        make: impl FnOnce() -> Result<Arc<dyn Embedder>, RunnerError> + Send + 'static,
    ) -> Self {
        Self::move_in(device, weight, options, (LoadOn::OwnThread, Box::new(make)))
    }

    fn move_in(
        device: &Device,
        weight: u32,
        options: EmbedOptions,
        (place, make): (LoadOn, Make),
    ) -> Self {
        let shared = Shared::new(device.busy());
        let queue = Queue::new(
            options.requests_max,
            options.queue_tokens_max,
            device.waker(),
        );
        let handle = Self {
            shared: Arc::clone(&shared),
            embedder: Arc::default(),
            _seat: Seat::of(&queue),
            queue: Arc::clone(&queue),
            clock: Arc::clone(&options.clock),
        };
        watchdog::start(&shared, Arc::clone(&options.clock), options.stall_after);
        let (life, told) = (Arc::clone(&shared), Arc::clone(&handle.embedder));
        let settle = move |embedder: Arc<dyn Embedder>| {
            let batches = Batches::open(life, options, queue, Arc::clone(&embedder))?;
            let _ = told.set(embedder);
            batches.ready();
            Ok(Box::new(batches) as Box<dyn Resident>)
        };
        loading::start(device, (shared, weight), place, (make, settle));
        handle
    }

    /// Queues a request: token ids of each text as [`Embedder::encode`] makes them. Never waits: async code may call it.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing is held for a refused request.
    pub fn embed(
        &self,
        inputs: Vec<Arc<[u32]>>,
        deadline: Option<Duration>,
    ) -> Result<Vectors, SubmitError> {
        match *self.shared.state().borrow() {
            EngineState::Ready => {}
            EngineState::Draining | EngineState::Stopped => return Err(SubmitError::Draining),
            _ => return Err(SubmitError::NotReady),
        }
        let embedder = self.embedder.get().ok_or(SubmitError::NotReady)?;
        check(&inputs, embedder.profile())?;
        if deadline.is_some_and(|at| at <= (self.clock)()) {
            return Err(SubmitError::DeadlineExceeded);
        }
        let (answer, stopper) = self.queue.push(inputs, deadline)?;
        Ok(Vectors { answer, stopper })
    }

    /// The model, once loaded: its bounds and its tokenizer.
    #[must_use]
    pub fn embedder(&self) -> Option<Arc<dyn Embedder>> {
        self.embedder.get().cloned()
    }

    /// Figures of this moment: requests at work and in line, passes, tokens; there are no KV blocks.
    #[must_use]
    pub fn stats(&self) -> Stats {
        *self.shared.stats().borrow()
    }

    /// Where the embedder is in its life.
    #[must_use]
    pub fn state(&self) -> EngineState {
        self.shared.state().borrow().clone()
    }

    /// Its life as it goes on.
    #[must_use]
    pub fn watch_state(&self) -> watch::Receiver<EngineState> {
        self.shared.state()
    }

    /// Takes no more work, lets what waits go on for `grace`, fails the rest with `ShuttingDown` and ends.
    pub fn drain(&self, grace: Duration) {
        self.shared.drain((self.clock)().saturating_add(grace));
        self.queue.ring();
    }
}

/// Makes an embedder.
type Make = Box<dyn FnOnce() -> Result<Arc<dyn Embedder>, RunnerError> + Send>;

fn place_of(embedder: &EmbedderOptions) -> LoadOn {
    match embedder {
        EmbedderOptions::Sim(_) => LoadOn::OwnThread,
        #[cfg(feature = "candle")]
        EmbedderOptions::Candle { device, .. } => device.loads_on(),
    }
}

fn load(embedder: EmbedderOptions) -> Result<Arc<dyn Embedder>, RunnerError> {
    match embedder {
        EmbedderOptions::Sim(options) => Ok(Arc::new(SimEmbedder::new(options))),
        #[cfg(feature = "candle")]
        EmbedderOptions::Candle { model_path, device } => candle::load(&model_path, device),
    }
}

/// Refuses what the model could not take.
fn check(inputs: &[Arc<[u32]>], profile: EmbedProfile) -> Result<(), SubmitError> {
    if inputs.is_empty() || inputs.len() > EMBED_INPUTS_MAX {
        let message = format!("input must hold 1 to {EMBED_INPUTS_MAX} texts");
        return Err(SubmitError::Invalid(message));
    }
    for ids in inputs {
        if ids.is_empty() {
            return Err(SubmitError::Invalid("input holds an empty text".to_owned()));
        }
        let tokens = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        if tokens > profile.tokens_max {
            return Err(SubmitError::PromptTooLong {
                prompt: tokens,
                context: profile.tokens_max,
            });
        }
        if let Some(id) = ids.iter().find(|id| **id >= profile.vocab_size) {
            let message = format!(
                "input holds token {id}, and the model has {} tokens",
                profile.vocab_size
            );
            return Err(SubmitError::Invalid(message));
        }
    }
    Ok(())
}

impl fmt::Debug for EmbedHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbedHandle")
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for EmbedOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbedOptions")
            .field("step_tokens_max", &self.step_tokens_max)
            .field("pass_target", &self.pass_target)
            .field("requests_max", &self.requests_max)
            .field("queue_tokens_max", &self.queue_tokens_max)
            .field("stall_after", &self.stall_after)
            .finish_non_exhaustive()
    }
}
