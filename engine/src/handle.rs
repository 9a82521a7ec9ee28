//! The engine as others see it: submit, abort, watch, drain.

use std::sync::Arc;
use std::time::Duration;

use hansa_models::text::TextCodec;
use tokio::sync::watch;

use crate::api::{EngineState, Event, Stats, Submission, SubmitError};
use crate::options::{EngineOptions, RunnerOptions};

/// A running engine for one model. Clones share it; the thread ends when the last clone is gone or after
/// [`EngineHandle::drain`].
#[derive(Debug, Clone)]
pub struct EngineHandle {
    state: watch::Receiver<EngineState>,
}

/// Events of one submission. Dropping it aborts what is not done and frees its KV blocks.
#[derive(Debug)]
pub struct EventStream {
    _private: (),
}

impl EngineHandle {
    /// Starts the engine's thread, which loads the model itself: watch [`EngineHandle::watch_state`].
    #[must_use]
    pub fn start(options: EngineOptions, runner: RunnerOptions) -> Self {
        let _ = (options, runner);
        let (_sender, state) = watch::channel(EngineState::Loading);
        Self { state }
    }

    /// Queues a submission.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing is held for a refused submission.
    pub fn submit(&self, submission: Submission) -> Result<EventStream, SubmitError> {
        let _ = submission;
        Err(SubmitError::NotReady)
    }

    /// Aborts a submission by id; one that is unknown or over is no error.
    pub fn abort(&self, id: &str) {
        let _ = id;
    }

    /// Figures of this moment, without waiting for the engine's thread.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats::default()
    }

    /// Where the engine is in its life.
    #[must_use]
    pub fn state(&self) -> EngineState {
        self.state.borrow().clone()
    }

    /// The engine's life as it goes on.
    #[must_use]
    pub fn watch_state(&self) -> watch::Receiver<EngineState> {
        self.state.clone()
    }

    /// Tokenizer and chat template, once loaded.
    #[must_use]
    pub fn text(&self) -> Option<Arc<dyn TextCodec>> {
        None
    }

    /// Tokens of prompt and completion together, once loaded.
    #[must_use]
    pub fn context_len(&self) -> Option<u32> {
        None
    }

    /// Takes no more work, lets what runs go on for `grace`, fails the rest with `ShuttingDown` and ends the thread.
    pub fn drain(&self, grace: Duration) {
        let _ = grace;
    }
}

impl EventStream {
    /// The next event; `None` after the last one.
    pub async fn recv(&mut self) -> Option<Event> {
        None
    }
}
