//! What every upstream has alike: the wait for the first text, which is timed, what its work takes, and the end of its
//! machine.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::StreamExt;

use crate::clock::Clock;
use crate::energy::Energy;
use crate::federation::reach::Part;
use crate::telemetry::Metrics;
use crate::upstream::usage::{Finished, Wanted};
use crate::upstream::{
    EmbedRequest, Embeddings, Event, EventStream, GenerateRequest, Resident, Upstream,
    UpstreamError, UpstreamStatus, UpstreamTotals,
};

/// An upstream whose times to first token are counted.
pub struct Measured<U> {
    inner: U,
    model: Arc<str>,
    metrics: Metrics,
    clock: Clock,
    energy: Energy,
    /// When its machine is taken away.
    ends: Option<Duration>,
}

impl<U> Measured<U> {
    /// Measures what `inner` does for `model`.
    pub fn new(inner: U, model: Arc<str>, metrics: Metrics, clock: Clock) -> Self {
        Self {
            inner,
            model,
            metrics,
            clock,
            ends: None,
            energy: Energy::default(),
        }
    }

    /// The same one, whose machine is taken away at `ends` on the clock, whatever it tells of a later end.
    #[must_use]
    pub fn until(self, ends: Option<Duration>) -> Self {
        Self { ends, ..self }
    }

    /// The same, where work takes `energy`.
    #[must_use]
    pub fn taking(self, energy: Energy) -> Self {
        Self { energy, ..self }
    }

    /// Nothing that it reaches is there for longer than itself.
    fn end(&self, status: &mut UpstreamStatus) {
        if let Some(ends) = self.ends {
            let left = ends.saturating_sub(self.clock.now());
            status.walltime_left = Some(status.walltime_left.map_or(left, |told| told.min(left)));
        }
    }

    /// Counts what becomes of `events`, and the wait for their first text where that says when it was made.
    fn watch(&self, events: EventStream, mut waiting: bool, began: Duration) -> EventStream {
        let (model, metrics, clock) = (
            Arc::clone(&self.model),
            self.metrics.clone(),
            self.clock.clone(),
        );
        let energy = self.energy.clone();
        events
            .map(move |mut event| {
                if waiting && is_text(&event) {
                    waiting = false;
                    metrics.first_token(&model, clock.now().saturating_sub(began));
                }
                match &mut event {
                    Ok(Event::Done(usage)) => energy.fill(usage),
                    Err(error) => fill_error(&energy, error),
                    Ok(_) => {}
                }
                event
            })
            .boxed()
    }
}

/// Adds what the work took that was done before an error.
fn fill_error(energy: &Energy, error: &mut UpstreamError) {
    error.usage.iter_mut().for_each(|usage| energy.fill(usage));
}

/// A token may complete no character yet: only text that a client sees counts.
fn is_text(event: &Result<Event, UpstreamError>) -> bool {
    matches!(event, Ok(Event::Delta { text, .. }) if !text.is_empty())
}

impl<U: Upstream> Upstream for Measured<U> {
    fn generate(
        &self,
        request: Arc<GenerateRequest>,
    ) -> BoxFuture<'_, Result<EventStream, UpstreamError>> {
        Box::pin(async move {
            let (began, streams) = (self.clock.now(), !request.whole);
            let events = self.inner.generate(request).await?;
            Ok(self.watch(events, streams, began))
        })
    }

    fn takes_whole(&self) -> bool {
        self.inner.takes_whole()
    }

    fn counts_tokens(&self) -> bool {
        self.inner.counts_tokens()
    }

    fn count_tokens(
        &self,
        request: Arc<GenerateRequest>,
    ) -> BoxFuture<'_, Result<u32, UpstreamError>> {
        self.inner.count_tokens(request)
    }

    fn embed(
        &self,
        request: Arc<EmbedRequest>,
    ) -> BoxFuture<'_, Result<Embeddings, UpstreamError>> {
        Box::pin(async move {
            let mut made = self.inner.embed(request).await;
            match &mut made {
                Ok(made) => self.energy.fill(&mut made.usage),
                Err(error) => fill_error(&self.energy, error),
            }
            made
        })
    }

    fn cancel(&self, request_id: &str) {
        self.inner.cancel(request_id);
    }

    fn keeps_usage(&self) -> bool {
        self.inner.keeps_usage()
    }

    fn finished(&self, wanted: Wanted) -> BoxFuture<'_, Vec<Finished>> {
        self.inner.finished(wanted)
    }

    fn acknowledge(&self, request_ids: &[Arc<str>]) {
        self.inner.acknowledge(request_ids);
    }

    fn status(&self) -> UpstreamStatus {
        let mut status = self.inner.status();
        self.energy.tell(&mut status);
        self.end(&mut status);
        status
    }

    fn parts(&self) -> Vec<Part> {
        let mut parts = self.inner.parts();
        for part in &mut parts {
            // What the config says of an upstream is true of its own machines.
            if !part.status.beyond {
                self.energy.tell(&mut part.status);
            }
            self.end(&mut part.status);
        }
        parts
    }

    fn silence(&self) -> Option<BoxFuture<'static, ()>> {
        self.inner.silence()
    }

    fn sequences_in_flight_max(&self) -> Option<u32> {
        self.inner.sequences_in_flight_max()
    }

    fn totals(&self) -> UpstreamTotals {
        self.inner.totals()
    }

    fn drain(&self, grace: Duration) {
        self.inner.drain(grace);
    }

    fn ended(&self) -> BoxFuture<'_, ()> {
        self.inner.ended()
    }

    fn resident(&self) -> Resident {
        self.inner.resident()
    }
}

impl<U> std::fmt::Debug for Measured<U> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Measured").field(&self.model).finish()
    }
}
