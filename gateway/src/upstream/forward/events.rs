//! The events of one streamed answer, as they come.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{Forward, lied, of_link};
use crate::limits;
use crate::upstream::chunk::{Decoder, Fault};
use crate::upstream::link::AnswerBody;
use crate::upstream::sse::Reader;
use crate::upstream::stops::Ending;
use crate::upstream::{Event, GenerateRequest, UpstreamError, UpstreamErrorKind};

/// The events of one answer. Dropping it cancels the request.
pub(super) struct Events {
    name: Arc<str>,
    id: Arc<str>,
    ours: bool,
    /// None after the end.
    body: Option<AnswerBody>,
    /// Read so far.
    bytes: u64,
    reader: Reader,
    decoder: Decoder,
    ready: VecDeque<Event>,
    /// How the stream ends once `ready` is empty.
    end: Option<Result<Event, UpstreamError>>,
    /// Whether the drain's grace is over.
    closing: CancellationToken,
    /// Resolves where the request is ended from here; made once there is something to wait for.
    ended: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    ending: Ending,
}

impl Stream for Events {
    type Item = Result<Event, UpstreamError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            if let Some(end) = self.end.take() {
                self.body = None;
                return Poll::Ready(Some(end));
            }
            // A server that never pauses is stopped all the same.
            if !self.ours && self.was_stopped() {
                continue;
            }
            let Some(body) = self.body.as_mut() else {
                return Poll::Ready(None);
            };
            match body.poll_bytes(cx) {
                Poll::Ready(Ok(Some(bytes))) => self.read(&bytes),
                Poll::Ready(Ok(None)) => self.closed(),
                Poll::Ready(Err(error)) => {
                    let reason = error.to_string();
                    self.end_by(&reason, of_link(&error));
                }
                Poll::Pending if self.poll_ended(cx).is_ready() => {
                    self.end = Some(Err(self.ended()));
                }
                Poll::Pending => {
                    // Thousands of streams wait at a time, each with room for its next events otherwise.
                    self.ready = VecDeque::new();
                    return Poll::Pending;
                }
            }
        }
    }
}

impl Events {
    /// The events in `body`, which `server` answers to `request` until `ending`.
    pub(super) fn new(
        server: &Forward,
        request: &GenerateRequest,
        body: AnswerBody,
        ending: Ending,
    ) -> Self {
        Self {
            name: Arc::clone(&server.name),
            id: Arc::clone(&request.id),
            ours: server.ours,
            body: Some(body),
            bytes: 0,
            reader: Reader::new(event_bytes_max(request)),
            decoder: Decoder::new(request, server.ours),
            ready: VecDeque::new(),
            end: None,
            closing: server.closing.clone(),
            ended: None,
            ending,
        }
    }

    /// Whether it was ended from here, which is noted then.
    fn was_stopped(&mut self) -> bool {
        let ends = self.body.is_some() && self.ending.token.is_cancelled();
        if ends {
            self.end = Some(Err(self.ended()));
        }
        ends
    }

    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let token = &self.ending.token;
        let ended = self
            .ended
            .get_or_insert_with(|| Box::pin(token.clone().cancelled_owned()));
        ended.as_mut().poll(cx)
    }

    /// Why it was ended from here. A server of ours says itself what it did.
    fn ended(&self) -> UpstreamError {
        let kind = UpstreamErrorKind::ended(self.closing.is_cancelled());
        match self.ours {
            true => UpstreamErrorKind::ShuttingDown.into(),
            false => UpstreamError::from(kind).after(self.decoder.usage()),
        }
    }

    fn read(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if self.bytes > limits::ANSWER_BYTES_MAX {
            return self.end_by("sent more than any answer holds", nonsense());
        }
        let Self {
            reader,
            decoder,
            ready,
            ..
        } = self;
        let mut end = None;
        let read = reader.read(bytes, |data| {
            if end.is_none() {
                end = event(data, decoder, ready);
            }
        });
        if let Err(error) = read {
            self.end_by(&error.to_string(), nonsense());
        }
        match end {
            Some(Ok(done)) => self.done(done),
            Some(Err(fault)) => self.faulted(fault),
            None => {}
        }
    }

    /// The server closed the stream. Some others do so without a last word; ours never do.
    fn closed(&mut self) {
        match self.decoder.done() {
            Ok(usage) if !self.ours => self.done(Event::Done(usage)),
            _ => self.end_by(
                "broke off its stream",
                UpstreamErrorKind::Unreachable.into(),
            ),
        }
    }

    fn done(&mut self, done: Event) {
        if self.decoder.usage_is_impossible() {
            lied(&self.id, &self.name);
        }
        if let Some(body) = self.body.take() {
            body.finish();
        }
        self.end = Some(Ok(done));
    }

    fn faulted(&mut self, fault: Fault) {
        match fault {
            Fault::Told(error) => self.end_by("ended its stream with an error", *error),
            Fault::Nonsense(what) => self.end_by(what, nonsense()),
        }
    }

    /// Ends the stream with `error`, after the events that are ready: they are the answer's true beginning.
    fn end_by(&mut self, reason: &str, error: UpstreamError) {
        tracing::warn!(
            request_id = &*self.id,
            upstream = &*self.name,
            reason,
            "the upstream failed a stream"
        );
        self.end = Some(Err(error));
    }
}

/// Bytes of one event: a prompt that is echoed comes in one piece.
fn event_bytes_max(request: &GenerateRequest) -> usize {
    let echoed = if request.echo { request.body.len() } else { 0 };
    let tops = request.logprobs.filter(|_| request.prompt_logprobs);
    // A character takes six bytes at most as JSON; a token's log-probability, told in two shapes, some hundred each.
    let each = tops.map_or(6, |top| 6 + 256 * (1 + top as usize));
    let echoed = echoed.saturating_mul(each);
    limits::EVENT_BYTES_MAX + echoed.min(limits::ECHO_EVENT_BYTES_MAX)
}

/// What one event of the stream means: chunks are added to `ready`, the end is told.
fn event(
    data: &[u8],
    decoder: &mut Decoder,
    ready: &mut VecDeque<Event>,
) -> Option<Result<Event, Fault>> {
    match data {
        b"[DONE]" => Some(decoder.done().map(Event::Done)),
        _ => decoder.chunk(data, ready).err().map(Err),
    }
}

fn nonsense() -> UpstreamError {
    UpstreamErrorKind::Internal.into()
}
