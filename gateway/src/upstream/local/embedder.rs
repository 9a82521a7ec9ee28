//! An embedder in this process: tokenises what came, and hands it to the engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use hansa_engine::Device;
use hansa_engine::api::{EngineError, EngineState, Stats, SubmitError};
use hansa_engine::embed::{EmbedHandle, EmbedOptions, Embedder, EmbedderOptions, Stopper};
use hansa_models::text::TextError;
use tokio::sync::watch;

use super::errors::{failed, invalid, refused};
use crate::limits::{TOKENISE_CONCURRENCY, TOKENISE_QUEUE_MAX};
use crate::upstream::pool::Pool;
use crate::upstream::{
    EmbedInput, EmbedRequest, Embeddings, UpstreamError, UpstreamErrorKind, Usage,
};

/// One embedder and its tokenising.
pub(super) struct LocalEmbedder {
    handle: EmbedHandle,
    tokenising: Pool,
    /// Requests at work, by number: two clients may choose the same id. Bounded by the engine's queue.
    running: DashMap<u64, (Arc<str>, Stopper)>,
    requests: AtomicU64,
}

impl LocalEmbedder {
    pub(super) fn start(
        device: &Device,
        weight: u32,
        options: EmbedOptions,
        embedder: EmbedderOptions,
    ) -> Self {
        Self {
            handle: EmbedHandle::start_on(device, weight, options, embedder),
            tokenising: Pool::new(TOKENISE_CONCURRENCY, TOKENISE_QUEUE_MAX),
            running: DashMap::new(),
            requests: AtomicU64::new(0),
        }
    }

    /// The vectors of a request.
    pub(super) async fn embed(
        &self,
        request: Arc<EmbedRequest>,
    ) -> Result<Embeddings, UpstreamError> {
        let embedder = self.handle.embedder();
        let Some(embedder) = embedder.filter(|_| self.state() == EngineState::Ready) else {
            return Err(UpstreamErrorKind::NotReady.into());
        };
        check_dimensions(&request, embedder.profile().width)?;
        let (id, deadline) = (Arc::clone(&request.id), request.deadline);
        let inputs = self
            .tokenising
            .run(move || tokenise(&*embedder, &request.inputs))
            .await??;
        let vectors = self.handle.embed(inputs, deadline).map_err(told)?;
        let stopper = vectors.stopper();
        let _place = self.enter(&id, &stopper);
        match vectors.wait().await {
            Ok(vectors) => Ok(Embeddings {
                vectors,
                usage: used(&stopper),
            }),
            Err(error) => Err(ended(&error, &stopper)),
        }
    }

    /// Stops the request of that id before its next pass; it ends with what it took.
    pub(super) fn cancel(&self, request_id: &str) {
        for entry in &self.running {
            let (id, stopper) = entry.value();
            if **id == *request_id {
                stopper.stop();
            }
        }
    }

    fn enter(&self, id: &Arc<str>, stopper: &Stopper) -> Place<'_> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let entry = (Arc::clone(id), stopper.clone());
        self.running.insert(number, entry);
        Place {
            embedder: self,
            number,
        }
    }

    pub(super) fn state(&self) -> EngineState {
        self.handle.state()
    }

    pub(super) fn watch_state(&self) -> watch::Receiver<EngineState> {
        self.handle.watch_state()
    }

    pub(super) fn stats(&self) -> Stats {
        self.handle.stats()
    }

    pub(super) fn drain(&self, grace: Duration) {
        self.handle.drain(grace);
    }

    /// Bytes of the weights, once loaded.
    pub(super) fn weights_bytes(&self) -> u64 {
        let embedder = self.handle.embedder();
        embedder.map_or(0, |embedder| embedder.weights_bytes())
    }
}

/// A request's place among those at work; given back when dropped (I10).
struct Place<'a> {
    embedder: &'a LocalEmbedder,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.embedder.running.remove(&self.number);
    }
}

/// Why there are no vectors. What was computed all the same is told where that is not the engine's own fault.
fn ended(error: &EngineError, stopper: &Stopper) -> UpstreamError {
    let failed = failed(error);
    match error {
        EngineError::Aborted | EngineError::DeadlineExceeded => failed.after(used(stopper)),
        _ => failed,
    }
}

/// What a request that is over took.
fn used(stopper: &Stopper) -> Usage {
    let small = |units: u128| u32::try_from(units).unwrap_or(u32::MAX);
    Usage {
        prompt_tokens: small(stopper.tokens().into()),
        gpu_us: Some(small(stopper.device_time().as_micros())),
        ..Usage::default()
    }
}

/// A vector that is cut short is only worth something where the model was trained for it, and these do not say whether
/// they were.
fn check_dimensions(request: &EmbedRequest, width: u32) -> Result<(), UpstreamError> {
    match request.dimensions {
        Some(wanted) if wanted != width => {
            let message = format!(
                "The vectors of the model '{}' have {width} dimensions and cannot be cut to {wanted}; leave 'dimensions' out.",
                request.model
            );
            Err(invalid("dimensions", message))
        }
        _ => Ok(()),
    }
}

fn tokenise(
    embedder: &dyn Embedder,
    inputs: &[EmbedInput],
) -> Result<Vec<Arc<[u32]>>, UpstreamError> {
    let profile = embedder.profile();
    let ids = |(index, input): (usize, &EmbedInput)| {
        let ids = match input {
            EmbedInput::Tokens(ids) => Arc::clone(ids),
            EmbedInput::Text(text) => {
                let ids = embedder.encode(text);
                Arc::from(ids.map_err(|error| unreadable(&error, index))?)
            }
        };
        if ids.len() > profile.tokens_max as usize {
            let message = format!(
                "This model takes {} tokens a text, but input {index} has {}. Please shorten it.",
                profile.tokens_max,
                ids.len()
            );
            return Err(invalid("input", message));
        }
        Ok(ids)
    };
    inputs.iter().enumerate().map(ids).collect()
}

fn unreadable(error: &TextError, index: usize) -> UpstreamError {
    match error {
        TextError::Tokenizer => UpstreamErrorKind::Internal.into(),
        _ => invalid("input", format!("Input {index} will not do: {error}.")),
    }
}

fn told(error: SubmitError) -> UpstreamError {
    match error {
        SubmitError::Invalid(message) => invalid("input", message),
        error => refused(error),
    }
}
