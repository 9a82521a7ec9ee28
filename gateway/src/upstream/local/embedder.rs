//! An embedder in this process: tokenises what came, and hands it to the engine.

use std::sync::Arc;
use std::time::Duration;

use hansa_engine::Device;
use hansa_engine::api::{EngineState, Stats, SubmitError};
use hansa_engine::embed::{EmbedHandle, EmbedOptions, Embedder, EmbedderOptions};
use hansa_models::text::TextError;
use tokio::sync::watch;

use super::errors::{failed, invalid, refused};
use crate::limits::{TOKENISE_CONCURRENCY, TOKENISE_QUEUE_MAX};
use crate::upstream::pool::Pool;
use crate::upstream::{EmbedInput, EmbedRequest, Embeddings, UpstreamError, UpstreamErrorKind};

/// One embedder and its tokenising.
pub(super) struct LocalEmbedder {
    handle: EmbedHandle,
    tokenising: Pool,
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
        let deadline = request.deadline;
        let inputs = self
            .tokenising
            .run(move || tokenise(&*embedder, &request.inputs))
            .await??;
        let tokens: usize = inputs.iter().map(|ids| ids.len()).sum();
        let vectors = self.handle.embed(inputs, deadline).map_err(told)?;
        Ok(Embeddings {
            vectors: vectors.wait().await.map_err(|error| failed(&error))?,
            prompt_tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
        })
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
