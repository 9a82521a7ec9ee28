//! Reads another server's stream of status and keeps the last picture of it.
//!
//! The stream is asked for again whenever it ends; until it is back the picture grows old, which makes it worse and never
//! better (`status.rs`). A server that promised to speak and does not is silent, long before its connections say that they
//! are dead: then nobody new is sent there, who waits for its first word is asked elsewhere too (`upstream/retry.rs`), and
//! after a while its streams are broken off and go on elsewhere.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures::future::{BoxFuture, poll_fn};
use http::{HeaderMap, Method, StatusCode};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::reach::{Part, ServerId, sum};
use super::status::aged;
use super::wire::Report;
use crate::clock::Clock;
use crate::limits;
use crate::upstream::UpstreamStatus;
use crate::upstream::forward::Forward;
use crate::upstream::link::{AnswerBody, LinkError};
use crate::upstream::sse::Reader;

/// How a server stood when it was last heard of.
#[derive(Debug)]
pub(crate) struct Picture {
    /// Who looks.
    me: ServerId,
    seen: ArcSwapOption<Seen>,
    /// Whether its stream is broken at this moment.
    lost: AtomicBool,
    /// Whether it says nothing although it promised to.
    silent: watch::Sender<bool>,
    /// Reports over all streams, which number theirs anew: what counts them must never go back.
    reports: AtomicU64,
    /// Says that it was there a moment ago.
    there: Notify,
}

#[derive(Debug)]
struct Seen {
    /// On the clock that `now` is taken from.
    at: Duration,
    models: HashMap<String, Reached>,
}

/// What is reached of one model.
#[derive(Debug)]
struct Reached {
    /// As one.
    whole: UpstreamStatus,
    parts: Vec<Part>,
}

impl Picture {
    /// Nothing is known yet to `me`.
    pub(crate) fn of(me: ServerId) -> Self {
        Self {
            me,
            seen: ArcSwapOption::empty(),
            lost: AtomicBool::new(false),
            silent: watch::Sender::default(),
            reports: AtomicU64::new(0),
            there: Notify::new(),
        }
    }

    /// The figures of `model` at `now`. A server that was never heard of, or does not have the model, is loading as far
    /// as anyone knows.
    pub(crate) fn status(&self, model: &str, now: Duration) -> UpstreamStatus {
        let seen = self.seen.load();
        let known = seen
            .as_ref()
            .and_then(|seen| Some((seen.at, seen.models.get(model)?)));
        known.map_or_else(UpstreamStatus::default, |(at, reached)| {
            self.aged(&reached.whole, now.saturating_sub(at))
        })
    }

    /// The same by whose capacity it is.
    pub(crate) fn parts(&self, model: &str, now: Duration) -> Vec<Part> {
        let seen = self.seen.load();
        let known = seen
            .as_ref()
            .and_then(|seen| Some((seen.at, seen.models.get(model)?)));
        let Some((at, reached)) = known else {
            return vec![Part::here(UpstreamStatus::default())];
        };
        let age = now.saturating_sub(at);
        let aged = |part: &Part| Part {
            status: self.aged(&part.status, age),
            ..part.clone()
        };
        reached.parts.iter().map(aged).collect()
    }

    fn aged(&self, status: &UpstreamStatus, age: Duration) -> UpstreamStatus {
        let status = UpstreamStatus {
            silent: *self.silent.borrow(),
            ..status.clone()
        };
        aged(status, age, self.lost.load(Ordering::Relaxed))
    }

    /// It took a request: where its stream of status is broken, it can be had again.
    pub(crate) fn is_there(&self) {
        if self.lost.load(Ordering::Relaxed) {
            self.there.notify_one();
        }
    }

    /// Resolves when it is silent.
    pub(crate) fn silence(&self) -> BoxFuture<'static, ()> {
        let mut silent = self.silent.subscribe();
        Box::pin(async move {
            if silent.wait_for(|silent| *silent).await.is_err() {
                // Nobody listens to it any more, so nobody knows.
                std::future::pending::<()>().await;
            }
        })
    }

    fn is_silent(&self, silent: bool) {
        let changes = |now: &mut bool| std::mem::replace(now, silent) != silent;
        self.silent.send_if_modified(changes);
    }
}

/// Why a stream of status ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Link(#[from] LinkError),
    #[error(
        "it answered {0}; do both servers have the same [peer] secret, or certificates of one authority?"
    )]
    Refused(StatusCode),
    #[error("{0}")]
    Unreadable(#[from] crate::upstream::sse::SseError),
    #[error("it sent a report that is none: {0}")]
    Nonsense(String),
    #[error("it closed the stream")]
    Closed,
}

/// Keeps `picture` up to date from the server behind `forward`, for ever.
pub(crate) async fn follow(
    forward: Arc<Forward>,
    credentials: HeaderMap,
    picture: Arc<Picture>,
    clock: Clock,
) {
    let (first, longest) = limits::STATUS_RETRY;
    let mut wait = first;
    let mut complaints = Vec::new();
    loop {
        let mut stream = Follower {
            forward: &forward,
            picture: &picture,
            clock: &clock,
            teller: ServerId::draw(),
            sequence: 0,
            beat: None,
            complaints: &mut complaints,
        };
        let ended = stream.run(credentials.clone()).await;
        // One that makes no sense may begin well each time, and is asked as rarely as one that is not there.
        let was_there = stream.sequence > 0 && !matches!(ended, Ended::Nonsense(_));
        picture.lost.store(true, Ordering::Relaxed);
        let upstream = forward.name();
        // Told when it goes, not at every attempt to have it back.
        if was_there || wait == first {
            tracing::warn!(upstream, reason = %ended, "no status of the upstream");
        } else {
            tracing::debug!(upstream, reason = %ended, "no status of the upstream");
        }
        wait = if was_there {
            first
        } else {
            longest.min(wait * 2)
        };
        tokio::select! {
            () = sleep(wait) => {}
            () = picture.there.notified() => {}
        }
    }
}

/// Waits for `next` as long as a server may be silent that speaks every `beat`; `silent` is called once it has been for a
/// while.
async fn within<T>(
    next: impl Future<Output = T>,
    beat: Duration,
    silent: impl FnOnce(),
) -> Option<T> {
    let mut next = pin!(next);
    let short = beat * limits::STATUS_BEATS_MISSED;
    let long = limits::STATUS_SILENT.max(2 * short).saturating_sub(short);
    // Each in two parts: after a pause of this process the time is over at once, and what came meanwhile has yet to be read.
    for part in [short - beat / 4, beat / 4] {
        if let Ok(heard) = timeout(part, &mut next).await {
            return Some(heard);
        }
    }
    silent();
    for part in [long - beat, beat] {
        if let Ok(heard) = timeout(part, &mut next).await {
            return Some(heard);
        }
    }
    None
}

/// One stream of status.
struct Follower<'a> {
    forward: &'a Forward,
    picture: &'a Picture,
    clock: &'a Clock,
    /// Who tells; where it does not say, somebody whom nobody knows.
    teller: ServerId,
    /// Of the last report; 0 before the first.
    sequence: u64,
    /// How often the server promised to speak.
    beat: Option<Duration>,
    /// Impossible figures that were named in the log, over all streams.
    complaints: &'a mut Vec<&'static str>,
}

impl Follower<'_> {
    async fn run(&mut self, credentials: HeaderMap) -> Ended {
        match self.read(credentials).await {
            Ok(()) => Ended::Closed,
            Err(ended) => ended,
        }
    }

    async fn read(&mut self, credentials: HeaderMap) -> Result<(), Ended> {
        let sent = self
            .forward
            .send(Method::GET, "/hansa/v1/status", credentials, Bytes::new());
        let answer = sent.await?;
        if answer.status() != StatusCode::OK {
            return Err(Ended::Refused(answer.status()));
        }
        let mut body = answer.into_body();
        let mut reader = Reader::new(limits::STATUS_BYTES_MAX);
        while let Some(bytes) = self.hear(&mut body).await? {
            let mut reports = Vec::new();
            reader.read(&bytes, |data| reports.push(Report::read(data)))?;
            for report in reports {
                self.take(report.map_err(Ended::Nonsense)?);
            }
        }
        Ok(())
    }

    /// The next bytes; the end of the stream of a server that has been silent for too long.
    async fn hear(&self, body: &mut AnswerBody) -> Result<Option<Bytes>, LinkError> {
        let next = poll_fn(|cx| body.poll_bytes(cx));
        let heard = match self.beat {
            Some(beat) => within(next, beat, || self.fell_silent()).await,
            None => Some(next.await),
        };
        let Some(heard) = heard else {
            self.forward.break_off();
            return Err(LinkError::Silent);
        };
        if let Ok(Some(_)) = heard {
            self.picture.is_silent(false);
        }
        heard
    }

    fn fell_silent(&self) {
        let upstream = self.forward.name();
        tracing::warn!(upstream, "the upstream is silent");
        self.picture.is_silent(true);
    }

    fn take(&mut self, report: Report) {
        // An old report that comes late would make the server look as it was.
        if report.sequence <= self.sequence {
            return self.complain("sequence");
        }
        if self.sequence == 0 {
            tracing::info!(
                upstream = self.forward.name(),
                "the upstream tells its status"
            );
        }
        self.sequence = report.sequence;
        let beat = Duration::from_millis(report.beat_ms.into());
        let promised = !beat.is_zero() && beat <= limits::STATUS_BEAT_MAX;
        self.beat = promised.then_some(beat);
        let reports = self.picture.reports.fetch_add(1, Ordering::Relaxed) + 1;
        let known = report.server.filter(|id| *id != ServerId::TELLER);
        self.teller = known.unwrap_or(self.teller);
        let mut models = HashMap::new();
        for model in report.models.into_iter().take(limits::STATUS_MODELS_MAX) {
            let id = model.id.clone();
            let (parts, impossible) = model.believed(reports);
            impossible
                .into_iter()
                .for_each(|figure| self.complain(figure));
            let heard = |part: Part| part.heard(self.teller, self.picture.me);
            let parts: Vec<Part> = parts.into_iter().filter_map(heard).collect();
            let whole = sum(parts.iter().cloned());
            models.insert(id, Reached { whole, parts });
        }
        let at = self.clock.now();
        self.picture.seen.store(Some(Arc::new(Seen { at, models })));
        self.picture.lost.store(false, Ordering::Relaxed);
    }

    /// Of each figure once: a server that lies does so with every report.
    fn complain(&mut self, figure: &'static str) {
        if !self.complaints.contains(&figure) {
            self.complaints.push(figure);
            let upstream = self.forward.name();
            tracing::warn!(
                upstream,
                figure,
                "the upstream claims an impossible figure; it is cut"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const BEAT: Duration = Duration::from_millis(200);

    /// Whether a server that speaks after `ms` was heard, and whether it was taken for silent before.
    async fn spoken_after(ms: u64) -> (bool, bool) {
        let silent = Cell::new(false);
        let next = sleep(Duration::from_millis(ms));
        let heard = within(next, BEAT, || silent.set(true)).await;
        (heard.is_some(), silent.get())
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_noticed_within_a_second_and_believed_after_some() {
        assert_eq!(spoken_after(10).await, (true, false));
        assert_eq!(spoken_after(990).await, (true, false));
        assert_eq!(spoken_after(1_100).await, (true, true));
        assert_eq!(spoken_after(2_400).await, (true, true));
        assert_eq!(spoken_after(2_600).await, (false, true));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_learns_of_silence_once_it_is_there() {
        let picture = Picture::of(ServerId::draw());
        let mut waiting = picture.silence();
        assert!(futures::poll!(&mut waiting).is_pending());
        picture.is_silent(true);
        waiting.await;
        picture.silence().await;
        picture.is_silent(false);
        assert!(futures::poll!(picture.silence()).is_pending());
    }
}
