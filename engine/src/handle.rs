//! The engine as others see it: submit, abort, watch, drain.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hansa_models::text::TextCodec;
use tokio::sync::watch;

use crate::admissions::Admissions;
use crate::api::{Clock, EngineState, Stats, Submission, SubmitError};
#[cfg(feature = "candle")]
use crate::candle_runner::CandleRunner;
use crate::doorbell::{Doorbell, door};
pub use crate::events::EventStream;
use crate::events::{Link, open};
use crate::grammar::Grammars;
use crate::limits::{DRAFT_TOKENS_MAX, QUEUE_MAX};
use crate::options::{EngineOptions, RunnerOptions};
use crate::request::{Request, choices};
use crate::runner::{Runner, RunnerError};
use crate::shared::{Loaded, Shared};
use crate::sim_runner::SimRunner;
use crate::step_loop::{self, Load};
use crate::validate::{Bounds, validate};
use crate::watchdog;

/// A running engine for one model. Clones share it; the thread ends when the last clone and the last stream are gone, or
/// after [`EngineHandle::drain`].
#[derive(Clone)]
pub struct EngineHandle {
    shared: Arc<Shared>,
    admissions: Arc<Admissions>,
    bell: Doorbell,
    clock: Clock,
}

impl EngineHandle {
    /// Starts the engine's thread, which loads the model itself: watch [`EngineHandle::watch_state`].
    #[must_use]
    pub fn start(options: EngineOptions, runner: RunnerOptions) -> Self {
        Self::start_with(options, |options| load(options, runner))
    }

    /// Starts the engine's thread with a runner of the caller's own, which `load` makes on that thread.
    #[must_use]
    pub fn start_with(
        options: EngineOptions,
        load: impl FnOnce(&EngineOptions) -> Result<Box<dyn Runner>, RunnerError> + Send + 'static,
    ) -> Self {
        let options = sane(options);
        let seats_max = options.sequences_max.saturating_add(options.queue_max);
        let admissions = Admissions::new(seats_max, options.queue_tokens_max);
        let (bell, door) = door(admissions.seats_max() as usize);
        let handle = Self {
            shared: Shared::new(),
            admissions,
            bell,
            clock: Arc::clone(&options.clock),
        };
        watchdog::start(
            &handle.shared,
            Arc::clone(&options.clock),
            options.stall_after,
        );
        let shared = Arc::clone(&handle.shared);
        let load: Load = Box::new(load);
        let thread = thread::Builder::new().name("hansa-engine".to_owned());
        let spawned = thread.spawn(move || step_loop::run(&shared, &options, door, load));
        if let Err(error) = spawned {
            let reason = format!("the engine's thread could not be started: {error}");
            handle.shared.set_state(EngineState::Failed(reason));
        }
        handle
    }

    /// Queues a submission. Never waits: async code may call it.
    ///
    /// `max_tokens` is cut to what the context leaves. Room is for `sequences_max` running and `queue_max` waiting
    /// sequences in all, each choice being one, and for `queue_tokens_max` prompt tokens that wait.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing is held for a refused submission.
    pub fn submit(&self, submission: Submission) -> Result<EventStream, SubmitError> {
        let loaded = self.accepting()?;
        validate(&submission, &self.bounds(loaded))?;
        if submission.deadline.is_some_and(|at| at <= (self.clock)()) {
            return Err(SubmitError::DeadlineExceeded);
        }
        let prompt_tokens = submission.prompt.len() as u64;
        let choices = choices(&submission, &loaded.text, loaded.context_len)?;
        let link = Arc::new(Link::default());
        let admission = self
            .admissions
            .admit(&submission.id, &link, submission.n, prompt_tokens)
            .ok_or(SubmitError::QueueFull)?;
        let (outlet, stream) = open(link, admission, self.bell.clone());
        let request = Request::new(Arc::new(submission), choices, outlet);
        if self.bell.submit(Box::new(request)) {
            Ok(stream)
        } else {
            Err(SubmitError::Draining)
        }
    }

    /// Aborts a submission by id; one that is unknown or over is no error.
    pub fn abort(&self, id: &str) {
        if self.admissions.cancel(id) {
            self.bell.ring();
        }
    }

    /// Figures of this moment, without waiting for the engine's thread.
    #[must_use]
    pub fn stats(&self) -> Stats {
        *self.shared.stats().borrow()
    }

    /// The figures as they change, at least once a step.
    #[must_use]
    pub fn watch_stats(&self) -> watch::Receiver<Stats> {
        self.shared.stats()
    }

    /// Where the engine is in its life.
    #[must_use]
    pub fn state(&self) -> EngineState {
        self.shared.state().borrow().clone()
    }

    /// The engine's life as it goes on.
    #[must_use]
    pub fn watch_state(&self) -> watch::Receiver<EngineState> {
        self.shared.state()
    }

    /// Tokenizer and chat template, once loaded.
    #[must_use]
    pub fn text(&self) -> Option<Arc<dyn TextCodec>> {
        self.shared.loaded().map(|loaded| Arc::clone(&loaded.text))
    }

    /// Compiles grammars for this model's submissions, once loaded; for a pool of threads, and not for an event loop.
    #[must_use]
    pub fn grammars(&self) -> Option<Arc<Grammars>> {
        let loaded = self.shared.loaded();
        loaded.map(|loaded| Arc::clone(&loaded.grammars))
    }

    /// Tokens of prompt and completion together, once loaded: the least of the model's own, `context_max` and what the KV
    /// cache holds.
    #[must_use]
    pub fn context_len(&self) -> Option<u32> {
        self.shared.loaded().map(|loaded| loaded.context_len)
    }

    /// Takes no more work, lets what runs go on for `grace`, fails the rest with `ShuttingDown` and ends the thread.
    /// Calling it again can only shorten the grace.
    pub fn drain(&self, grace: Duration) {
        self.shared.drain((self.clock)().saturating_add(grace));
        self.bell.ring();
    }

    fn accepting(&self) -> Result<&Loaded, SubmitError> {
        match *self.shared.state().borrow() {
            EngineState::Ready => self.shared.loaded().ok_or(SubmitError::NotReady),
            EngineState::Draining | EngineState::Stopped => Err(SubmitError::Draining),
            _ => Err(SubmitError::NotReady),
        }
    }

    fn bounds(&self, loaded: &Loaded) -> Bounds {
        Bounds {
            context_len: loaded.context_len,
            vocab_size: loaded.vocab_size,
            seats_max: self.admissions.seats_max(),
        }
    }
}

/// Loads the model that the options name.
fn load(options: &EngineOptions, runner: RunnerOptions) -> Result<Box<dyn Runner>, RunnerError> {
    match runner {
        RunnerOptions::Sim(sim) => Ok(Box::new(SimRunner::new(options, sim)?)),
        #[cfg(feature = "candle")]
        RunnerOptions::Candle(candle) => Ok(Box::new(CandleRunner::load(options, &candle)?)),
    }
}

/// Options that cannot stop the engine from ever taking a step. A config is checked before; this is the floor.
fn sane(mut options: EngineOptions) -> EngineOptions {
    options.block_size = options.block_size.max(1);
    options.step_tokens_max = options.step_tokens_max.max(1);
    // Each running sequence must have room to decode in each step.
    options.sequences_max = options.sequences_max.clamp(1, options.step_tokens_max);
    options.queue_max = options.queue_max.min(QUEUE_MAX);
    options.draft_tokens_max = options.draft_tokens_max.min(DRAFT_TOKENS_MAX);
    options
}

impl std::fmt::Debug for EngineHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineHandle")
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}
