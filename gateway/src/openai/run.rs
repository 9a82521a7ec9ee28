//! One request at work: the upstream's streams of all its prompts as one, checked and under the deadline.
//!
//! Whoever reads a [`Run`] gets a well-formed sequence: deltas with text or log-probabilities, calls, one end for every choice, then `Done`; or an
//! error, once. An upstream that stops in the middle or says what makes no sense becomes an error here, so that nothing
//! further out can end silently (I3). Dropping it cancels everything.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::stream::{self, Stream, StreamExt as _, TryStreamExt as _};
use tokio::time::Sleep;

use super::calls::Calls;
use super::error::ApiError;
use crate::upstream::{Event, EventStream, GenerateRequest, Upstream, UpstreamError, Usage};

/// The events of one request; choices are numbered over all prompts.
pub(super) struct Run {
    /// Of the request, for the log.
    id: Arc<str>,
    parts: Vec<Part>,
    /// The part that is asked first, moved on so that no prompt starves another.
    turn: usize,
    usage: Usage,
    /// Finds calls in the text, where the request has tools.
    calls: Option<Calls>,
    /// What was found and not told yet: what one event of the upstream gives.
    ready: VecDeque<Event>,
    deadline: Pin<Box<Sleep>>,
    /// Whether a delta with ids alone is worth telling.
    tells_ids: bool,
    over: bool,
}

/// One prompt's share.
struct Part {
    events: EventStream,
    /// Number of its first choice.
    base: u32,
    /// For each choice whether it ended.
    finished: Vec<bool>,
    done: bool,
}

impl Run {
    /// Starts `requests`, one a prompt and all with the same `n`, on `upstream` as soon as it is polled.
    pub(super) fn start(
        id: Arc<str>,
        upstream: &Arc<dyn Upstream>,
        requests: Vec<GenerateRequest>,
        timeout: Duration,
    ) -> Self {
        let calls = requests.first().and_then(Calls::of);
        let mut base = 0;
        let mut parts = Vec::with_capacity(requests.len());
        for request in requests {
            let n = request.n;
            parts.push(Part {
                events: open(Arc::clone(upstream), Arc::new(request)),
                base,
                finished: vec![false; n as usize],
                done: false,
            });
            base += n;
        }
        Self {
            id,
            parts,
            turn: 0,
            usage: Usage::default(),
            calls,
            ready: VecDeque::new(),
            deadline: Box::pin(tokio::time::sleep(timeout)),
            tells_ids: false,
            over: false,
        }
    }

    /// Tells a peer everything as it comes: it looks for calls itself, and with `tells_ids` it gets deltas that hold ids and
    /// no text.
    pub(super) fn for_peer(self, tells_ids: bool) -> Self {
        Self {
            calls: None,
            tells_ids,
            ..self
        }
    }

    /// Takes `event` of the part at `index`; `None` where there is nothing to tell.
    fn take(
        &mut self,
        index: usize,
        event: Option<Result<Event, UpstreamError>>,
    ) -> Option<Result<Event, ApiError>> {
        let Some(part) = self.parts.get_mut(index) else {
            return Some(Err(ApiError::internal()));
        };
        match event {
            Some(Ok(Event::Delta {
                text,
                logprobs,
                token_ids,
                ..
            })) if text.is_empty()
                && logprobs.is_empty()
                && (token_ids.is_empty() || !self.tells_ids) =>
            {
                None
            }
            Some(Ok(Event::Done(usage))) if part.finished.iter().all(|finished| *finished) => {
                part.done = true;
                add(&mut self.usage, usage);
                let all_done = self.parts.iter().all(|part| part.done);
                all_done.then_some(Ok(Event::Done(self.usage)))
            }
            Some(Ok(event)) => Some(
                part.place(event)
                    .ok_or_else(|| self.broken("makes no sense")),
            ),
            Some(Err(error)) => Some(Err(error.into())),
            None => Some(Err(self.broken("broke off"))),
        }
    }

    /// An upstream that breaks its word; an honest error has been logged where it arose.
    fn broken(&self, how: &'static str) -> ApiError {
        tracing::warn!(request_id = %self.id, "the upstream's stream {how}");
        ApiError::internal()
    }

    /// Polls every part that is not done once, beginning with the one whose turn it is.
    fn poll_parts(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, ApiError>> {
        let mut waiting = 0;
        while waiting < self.parts.len() {
            let index = self.turn;
            self.turn = (self.turn + 1) % self.parts.len();
            let polled = match self.parts.get_mut(index) {
                Some(part) if !part.done => part.events.poll_next_unpin(cx),
                _ => Poll::Pending,
            };
            let Poll::Ready(event) = polled else {
                waiting += 1;
                continue;
            };
            waiting = 0;
            if let Some(told) = self.take(index, event) {
                return Poll::Ready(told);
            }
        }
        Poll::Pending
    }
}

impl Stream for Run {
    type Item = Result<Event, ApiError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while self.ready.is_empty() && !self.over {
            let told = match self.poll_parts(cx) {
                Poll::Ready(told) => told,
                // The upstream has the same deadline and should be first to say so.
                Poll::Pending => {
                    ready!(self.deadline.as_mut().poll(cx));
                    Err(ApiError::deadline_exceeded())
                }
            };
            if matches!(told, Err(_) | Ok(Event::Done(_))) {
                self.over = true;
                // What still runs for other prompts is of no use.
                self.parts.clear();
            }
            let run = &mut *self;
            match (told, &mut run.calls) {
                (Err(error), _) => return Poll::Ready(Some(Err(error))),
                (Ok(event), Some(calls)) => calls.take(event, &mut run.ready),
                (Ok(event), None) => run.ready.push_back(event),
            }
        }
        Poll::Ready(self.ready.pop_front().map(Ok))
    }
}

impl Part {
    /// The event with its choice numbered over all prompts; `None` if it makes no sense.
    fn place(&mut self, mut event: Event) -> Option<Event> {
        match &mut event {
            Event::ToolSyntax(_) => {}
            Event::Delta { choice, .. } | Event::ToolCall { choice, .. }
                if self.is_running(*choice) =>
            {
                *choice += self.base;
            }
            Event::Finished { choice, .. } if self.is_running(*choice) => {
                *self.finished.get_mut(*choice as usize)? = true;
                *choice += self.base;
            }
            // No such choice, it ended before, or all is said to be done while choices are missing.
            _ => return None,
        }
        Some(event)
    }

    fn is_running(&self, choice: u32) -> bool {
        self.finished.get(choice as usize) == Some(&false)
    }
}

/// The upstream's events, with an error of its acceptance as their first.
fn open(upstream: Arc<dyn Upstream>, request: Arc<GenerateRequest>) -> EventStream {
    stream::once(async move { upstream.generate(request).await })
        .try_flatten()
        .boxed()
}

fn add(sum: &mut Usage, usage: Usage) {
    sum.prompt_tokens = sum.prompt_tokens.saturating_add(usage.prompt_tokens);
    sum.cached_tokens = sum.cached_tokens.saturating_add(usage.cached_tokens);
    sum.completion_tokens = sum
        .completion_tokens
        .saturating_add(usage.completion_tokens);
}
