//! A request's events from whoever serves it, one after the other, as one stream.
//!
//! First on the way to its content (`retry.rs`), then live; and on the way again where whoever served it died and another
//! can go on exactly (`resume.rs`). It ends with `Done` or with an error, never just so (I3). Dropping it cancels.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{Stream, StreamExt as _};

use crate::route::decision::Attempt;
use crate::route::{End, Served};
use crate::upstream::resume::{Met, Seam, Told};
use crate::upstream::retry::{Live, Trip, died};
use crate::upstream::roster::Inner;
use crate::upstream::{Event, GenerateRequest, UpstreamError, UpstreamErrorKind, Usage};

/// Share of a stream's time that must have been spent waiting for its upstream, or its reader was the slow one.
const WAITING_SHARE_MIN: f64 = 0.8;

/// The events of one request.
pub(super) struct Journey {
    phase: Phase,
    told: Told,
    /// Where the present stream meets the one before it.
    seam: Option<Seam>,
    resumes_left: u32,
    /// Whether the reader wants ids.
    ids_wanted: bool,
    pace: Pace,
}

enum Phase {
    /// Until there is content; and the error to tell where nobody takes the stream on.
    Opening(BoxFuture<'static, Opened>, Option<UpstreamError>),
    Live(Box<Trip>, Live),
    Over,
}

type Opened = (Box<Trip>, Result<Live, UpstreamError>);

impl Journey {
    /// The way of `request`.
    pub(super) fn new(roster: &Arc<Inner>, request: &Arc<GenerateRequest>) -> Self {
        let trip = Box::new(Trip::new(roster, request));
        let resumes = if request.wishes.resume {
            roster.options.resumes_max
        } else {
            0
        };
        Self {
            told: Told::nothing(request),
            seam: None,
            resumes_left: resumes,
            ids_wanted: request.want_token_ids,
            pace: Pace::default(),
            phase: Phase::Opening(open(trip, Attempt::First), None),
        }
    }

    /// The next event of whoever serves.
    fn poll_live(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, UpstreamError>>> {
        let Phase::Live(trip, live) = &mut self.phase else {
            return Poll::Ready(None);
        };
        if let Some(event) = live.held.pop_front() {
            if live.held.is_empty() {
                // Nothing comes into it any more, and a stream may be long.
                live.held = VecDeque::new();
            }
            return Poll::Ready(Some(Ok(event)));
        }
        let polled = live.events.poll_next_unpin(cx);
        let now = || trip.roster.clock.now();
        match &polled {
            Poll::Pending => self.pace.waits(now),
            Poll::Ready(_) => self.pace.goes_on(now),
        }
        polled
    }

    /// What to tell of an event; `None` for nothing.
    fn take(&mut self, mut event: Event) -> Option<Result<Event, UpstreamError>> {
        match self
            .seam
            .as_mut()
            .map_or(Met::New, |seam| seam.meet(&event))
        {
            Met::New => {}
            Met::Known => return None,
            Met::Different => {
                tracing::warn!("an upstream did not continue a stream as its digest promised");
                return Some(Err(UpstreamErrorKind::Internal.into()));
            }
        }
        self.told.note(&event);
        match &mut event {
            Event::Delta { token_ids, .. } if !self.ids_wanted => token_ids.clear(),
            Event::Done(usage) => {
                if self.seam.is_some() {
                    // The last upstream counts what it produced itself.
                    usage.completion_tokens = self.told.tokens();
                }
                self.arrive(*usage);
            }
            _ => {}
        }
        Some(Ok(event))
    }

    /// All went well.
    fn arrive(&mut self, usage: Usage) {
        let Phase::Live(trip, live) = &mut self.phase else {
            return;
        };
        let output_tokens = f64::from(usage.completion_tokens) / f64::from(trip.request.n.max(1));
        let now = trip.roster.clock.now();
        // Parts of two streams say nothing of either.
        let whole = self.seam.is_none();
        live.sent.end(End::Done(Served {
            prompt_bytes: trip.prompt_bytes,
            prompt_tokens: usage.prompt_tokens,
            output_tokens,
            tpot_s: self.pace.tpot_s(output_tokens, now).filter(|_| whole),
        }));
    }

    /// Whoever served has failed: goes on elsewhere, or tells the error.
    fn fail(&mut self, mut error: UpstreamError) -> Option<UpstreamError> {
        if let (Some(usage), Some(_)) = (&mut error.usage, &self.seam) {
            // As in `take`: what went before is missing in it.
            usage.completion_tokens = usage.completion_tokens.max(self.told.tokens());
        }
        let Phase::Live(mut trip, mut live) = std::mem::replace(&mut self.phase, Phase::Over)
        else {
            return Some(error);
        };
        live.sent.fail(&error);
        // In the middle of a stream silence is as good as death.
        let gone = died(&error) || error.kind == UpstreamErrorKind::TimedOut;
        let possible = gone && self.resumes_left > 0 && self.told.is_exact();
        let Some(digest) = live.digest.take().filter(|_| possible) else {
            return Some(error);
        };
        self.resumes_left -= 1;
        let (replayed, seam) = self.told.seam();
        self.seam = Some(seam);
        trip.fails(&live.name);
        trip.numerics = Some(digest);
        trip.request = Arc::new(GenerateRequest {
            resume_token_ids: replayed,
            ..GenerateRequest::clone(&trip.request)
        });
        tracing::info!(request_id = %trip.request.shown_id, upstream = %live.name, "a stream goes on elsewhere");
        self.phase = Phase::Opening(open(trip, Attempt::Resume), Some(error));
        None
    }
}

/// Goes until there is content.
fn open(mut trip: Box<Trip>, attempt: Attempt) -> BoxFuture<'static, Opened> {
    async move {
        let opened = trip.until_content(attempt).await;
        (trip, opened)
    }
    .boxed()
}

impl Stream for Journey {
    type Item = Result<Event, UpstreamError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            let told = match &mut this.phase {
                Phase::Over => return Poll::Ready(None),
                Phase::Opening(opening, broke) => {
                    let (trip, opened) = ready!(opening.as_mut().poll(cx));
                    match opened {
                        Ok(live) => {
                            this.pace.begins(trip.roster.clock.now());
                            this.phase = Phase::Live(trip, live);
                            continue;
                        }
                        // Of a stream that broke off its client should learn that, and not what was tried since.
                        Err(error) => Some(Err(broke.take().unwrap_or(error))),
                    }
                }
                Phase::Live(..) => match ready!(this.poll_live(cx)) {
                    Some(Ok(event)) => this.take(event),
                    Some(Err(error)) => this.fail(error).map(Err),
                    None => this.fail(UpstreamErrorKind::Unreachable.into()).map(Err),
                },
            };
            if matches!(told, Some(Err(_) | Ok(Event::Done(_)))) {
                this.phase = Phase::Over;
            }
            if told.is_some() {
                return Poll::Ready(told);
            }
        }
    }
}

/// How long a stream took, and how much of that it waited for its upstream.
#[derive(Debug, Default)]
struct Pace {
    first: Option<Duration>,
    waiting_since: Option<Duration>,
    waited: Duration,
}

impl Pace {
    fn begins(&mut self, now: Duration) {
        self.first = Some(now);
        self.waiting_since = None;
        self.waited = Duration::ZERO;
    }

    fn waits(&mut self, now: impl Fn() -> Duration) {
        if self.waiting_since.is_none() {
            self.waiting_since = Some(now());
        }
    }

    fn goes_on(&mut self, now: impl Fn() -> Duration) {
        if let Some(since) = self.waiting_since.take() {
            self.waited += now().saturating_sub(since);
        }
    }

    /// Seconds of a token after the first, where the upstream was what took the time.
    fn tpot_s(&self, tokens: f64, now: Duration) -> Option<f64> {
        let took = now.saturating_sub(self.first?).as_secs_f64();
        let waited = self.waited.as_secs_f64();
        let tells = tokens >= 2.0 && took > 0.0 && waited >= WAITING_SHARE_MIN * took;
        tells.then(|| took / (tokens - 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_reader_says_nothing_of_the_upstream() {
        let ms = Duration::from_millis;
        let mut pace = Pace::default();
        pace.begins(ms(100));
        pace.waits(|| ms(100));
        pace.waits(|| ms(150));
        pace.goes_on(|| ms(1_000));
        assert_eq!(pace.tpot_s(11.0, ms(1_100)), Some(0.1));
        assert_eq!(pace.tpot_s(11.0, ms(2_000)), None);
        assert_eq!(pace.tpot_s(1.0, ms(1_100)), None);
    }
}
