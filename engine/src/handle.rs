//! The engine as others see it: submit, abort, watch, drain.

use std::sync::Arc;
use std::time::Duration;

use hansa_models::text::TextCodec;
use tokio::sync::watch;

use crate::admissions::Admissions;
use crate::api::{Clock, EngineState, MemoryUse, Stats, Submission, SubmitError};
#[cfg(feature = "candle")]
use crate::candle_runner::CandleRunner;
use crate::device::{Device, Resident};
use crate::doorbell::{Doorbell, door};
pub use crate::events::EventStream;
use crate::events::open;
use crate::grammar::Grammars;
use crate::limits::{DRAFT_TOKENS_MAX, QUEUE_MAX};
use crate::link::Link;
use crate::loading;
use crate::numerics::Numerics;
use crate::options::{EngineOptions, LoadOn, RunnerOptions};
use crate::request::{Request, choices};
use crate::runner::{Runner, RunnerError};
use crate::shared::{Loaded, Shared};
use crate::sim_runner::SimRunner;
use crate::step_loop::StepLoop;
use crate::validate::{Bounds, validate};
use crate::watchdog;

/// A running engine for one model. Clones share it; the engine ends when the last clone and the last stream are gone, or
/// after [`EngineHandle::drain`].
#[derive(Clone)]
pub struct EngineHandle {
    shared: Arc<Shared>,
    admissions: Arc<Admissions>,
    bell: Doorbell,
    clock: Clock,
}

impl EngineHandle {
    /// Starts an engine on a device of its own: watch [`EngineHandle::watch_state`].
    #[must_use]
    pub fn start(options: EngineOptions, runner: RunnerOptions) -> Self {
        Self::start_on(&Device::start(), 1, options, runner)
    }

    /// Starts an engine on `device`, where it takes turns with the models that are there, and gets `weight` shares of the
    /// time while all have work. It loads on a thread of its own where its tensors may move between threads, so that the
    /// others go on. The clocks of one device's engines have one origin.
    #[must_use]
    pub fn start_on(
        device: &Device,
        weight: u32,
        options: EngineOptions,
        runner: RunnerOptions,
    ) -> Self {
        let premises = device.clone();
        let place = place_of(&runner);
        let load: Load = Box::new(move |options| load(&premises, options, runner));
        Self::move_in(device, weight, options, (place, load))
    }

    /// Starts an engine on a device of its own with a runner of the caller's, which `load` makes on a thread of its own.
    #[must_use]
    pub fn start_with(
        options: EngineOptions,
        load: impl FnOnce(&EngineOptions) -> Result<Box<dyn Runner>, RunnerError> + Send + 'static,
    ) -> Self {
        Self::start_with_on(&Device::start(), 1, options, load)
    }

    /// As [`EngineHandle::start_with`], on `device` as in [`EngineHandle::start_on`].
    #[must_use]
    pub fn start_with_on(
        device: &Device,
        weight: u32,
        options: EngineOptions,
        load: impl FnOnce(&EngineOptions) -> Result<Box<dyn Runner>, RunnerError> + Send + 'static,
    ) -> Self {
        Self::move_in(device, weight, options, (LoadOn::OwnThread, Box::new(load)))
    }

    fn move_in(
        device: &Device,
        weight: u32,
        options: EngineOptions,
        (place, load): (LoadOn, Load),
    ) -> Self {
        let options = sane(options);
        let seats_max = options.sequences_max.saturating_add(options.queue_max);
        let admissions = Admissions::new(seats_max, options.queue_tokens_max);
        let (bell, door) = door(admissions.seats_max() as usize, device.waker());
        let shared = Shared::new(device.busy());
        let handle = Self {
            shared: Arc::clone(&shared),
            admissions,
            bell,
            clock: Arc::clone(&options.clock),
        };
        watchdog::start(&shared, Arc::clone(&options.clock), options.stall_after);
        let inside = Arc::clone(&shared);
        let make = move || load(&options).map(|runner| (options, runner));
        let settle = move |(options, runner)| {
            let engine = StepLoop::open(inside, options, door, runner)?;
            Ok(Box::new(engine) as Box<dyn Resident>)
        };
        loading::start(device, (shared, weight), place, (make, settle));
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

    /// Names what this model's tokens depend on, once loaded: an engine of the same name can continue its sequences exactly.
    #[must_use]
    pub fn numerics(&self) -> Option<Numerics> {
        self.shared.loaded().map(|loaded| loaded.numerics.clone())
    }

    /// Tokens of prompt and completion together, once loaded: the least of the model's own, `context_max` and what the KV
    /// cache holds.
    #[must_use]
    pub fn context_len(&self) -> Option<u32> {
        self.shared.loaded().map(|loaded| loaded.context_len)
    }

    /// What the model holds in memory, once loaded.
    #[must_use]
    pub fn resident(&self) -> Option<MemoryUse> {
        self.shared.loaded().map(|loaded| loaded.resident)
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

/// Makes a runner.
type Load = Box<dyn FnOnce(&EngineOptions) -> Result<Box<dyn Runner>, RunnerError> + Send>;

fn place_of(runner: &RunnerOptions) -> LoadOn {
    match runner {
        RunnerOptions::Sim(_) => LoadOn::OwnThread,
        #[cfg(feature = "candle")]
        RunnerOptions::Candle(candle) => candle.device.loads_on(),
    }
}

/// Loads the model that the options name.
fn load(
    device: &Device,
    options: &EngineOptions,
    runner: RunnerOptions,
) -> Result<Box<dyn Runner>, RunnerError> {
    #[cfg(not(feature = "candle"))]
    let _ = device;
    match runner {
        RunnerOptions::Sim(sim) => Ok(Box::new(SimRunner::new(options, sim)?)),
        #[cfg(feature = "candle")]
        RunnerOptions::Candle(candle) => {
            Ok(Box::new(CandleRunner::load(device, options, &candle)?))
        }
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
