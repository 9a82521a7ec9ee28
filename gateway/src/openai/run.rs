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

use futures::future::BoxFuture;
use futures::stream::{Stream, StreamExt as _};
use tokio::time::Sleep;

use super::calls::Calls;
use super::error::ApiError;
use super::meter::{Meter, Rest};
use crate::quota::ledger::Outcome;
use crate::upstream::{Event, EventStream, GenerateRequest, Upstream, UpstreamError, Usage};

/// The events of one request; choices are numbered over all prompts.
pub(super) struct Run {
    /// Of the request, for the log.
    id: Arc<str>,
    parts: Vec<Part>,
    /// The part that is asked first, moved on so that no prompt starves another.
    turn: usize,
    /// Of the parts that are over.
    usage: Usage,
    /// Finds calls in the text, where the request has tools.
    calls: Option<Calls>,
    /// What was found and not told yet: what one event of the upstream gives.
    ready: VecDeque<Event>,
    deadline: Pin<Box<Sleep>>,
    /// Whether a delta with ids alone is worth telling.
    tells_ids: bool,
    over: bool,
    /// On whose account it goes, until that is settled.
    meter: Option<Meter>,
    /// What it came to, once it is over and that is known.
    total: Option<Usage>,
}

/// One prompt's share.
struct Part {
    source: Source,
    /// Number of its first choice.
    base: u32,
    /// For each choice whether it ended.
    finished: Vec<bool>,
    done: bool,
    /// Whether it said anything.
    spoke: bool,
}

/// Where a part's events come from.
enum Source {
    /// The upstream has not accepted it yet.
    Opening(BoxFuture<'static, Result<EventStream, UpstreamError>>),
    Open(EventStream),
    /// It ended with an error.
    Failed {
        /// Whether nobody knows what it used.
        unknown: bool,
    },
}

impl Run {
    /// Starts `requests`, one a prompt and all with the same `n`, on `upstream` as soon as it is polled.
    pub(super) fn start(
        id: Arc<str>,
        upstream: &Arc<dyn Upstream>,
        requests: Vec<Arc<GenerateRequest>>,
        timeout: Duration,
    ) -> Self {
        let calls = requests.first().and_then(|first| Calls::of(first));
        let mut base = 0;
        let mut parts = Vec::with_capacity(requests.len());
        for request in requests {
            let n = request.n;
            parts.push(Part {
                source: Source::Opening(open(Arc::clone(upstream), request)),
                base,
                finished: vec![false; n as usize],
                done: false,
                spoke: false,
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
            meter: None,
            total: None,
        }
    }

    /// Tells a peer everything as it comes: it looks for calls itself, and with `tells_ids` it gets deltas that hold ids and
    /// no text.
    pub(super) fn for_peer(mut self, tells_ids: bool) -> Self {
        self.calls = None;
        self.tells_ids = tells_ids;
        self
    }

    /// Puts the run on an account.
    pub(super) fn metered(mut self, meter: Option<Meter>) -> Self {
        self.meter = meter;
        self
    }

    /// What it came to, once it is over; `None` where that is still to be found out.
    pub(super) const fn total(&self) -> Option<Usage> {
        self.total
    }

    /// Settles the account: with what is known, and with what the streams that are still open come to.
    fn settle(&mut self, outcome: Outcome) {
        let mut rest = Rest::default();
        let parts = std::mem::take(&mut self.parts).into_iter().enumerate();
        for (number, part) in parts.filter(|(_, part)| !part.done) {
            match part.source {
                Source::Open(events) => rest.open.push((number, events)),
                // What was not accepted did nothing.
                Source::Opening(_) | Source::Failed { unknown: false } => {}
                Source::Failed { unknown: true } => rest.lost.push(number),
            }
        }
        self.total = rest.is_nothing().then_some(self.usage);
        if let Some(meter) = self.meter.take() {
            meter.settle(self.usage, rest, outcome);
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
        if let Some(Ok(event)) = &event {
            part.spoke = true;
            if let Some(meter) = self.meter.as_mut().filter(|_| event.is_content()) {
                meter.started();
            }
        }
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
                self.usage.add(usage);
                let all_done = self.parts.iter().all(|part| part.done);
                all_done.then_some(Ok(Event::Done(self.usage)))
            }
            Some(Ok(event)) => Some(
                part.place(event)
                    .ok_or_else(|| self.broken("makes no sense")),
            ),
            Some(Err(error)) => {
                self.usage.add(error.usage.unwrap_or_default());
                let unknown = error.usage.is_none() && part.spoke;
                part.source = Source::Failed { unknown };
                Some(Err(error.into()))
            }
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
                Some(part) if !part.done => part.source.poll_event(cx),
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
            let outcome = match &told {
                Ok(Event::Done(_)) => Some(Outcome::Finished),
                Err(_) => Some(Outcome::Failed),
                Ok(_) => None,
            };
            if let Some(outcome) = outcome {
                self.over = true;
                // What still runs for other prompts is of no use, and ends with this.
                self.settle(outcome);
            }
            let run = &mut *self;
            match (told, &mut run.calls) {
                (Err(error), _) => return Poll::Ready(Some(Err(error))),
                (Ok(event), Some(calls)) => calls.take(event, &mut run.ready),
                (Ok(event), None) => return Poll::Ready(Some(Ok(event))),
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

impl Source {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, UpstreamError>>> {
        if let Self::Opening(accepting) = self {
            match ready!(accepting.as_mut().poll(cx)) {
                Ok(events) => *self = Self::Open(events),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        match self {
            Self::Open(events) => events.poll_next_unpin(cx),
            Self::Opening(_) | Self::Failed { .. } => Poll::Ready(None),
        }
    }
}

impl Drop for Run {
    /// The client left, or the process ends.
    fn drop(&mut self) {
        self.settle(Outcome::Aborted);
    }
}

fn open(
    upstream: Arc<dyn Upstream>,
    request: Arc<GenerateRequest>,
) -> BoxFuture<'static, Result<EventStream, UpstreamError>> {
    Box::pin(async move { upstream.generate(request).await })
}
