//! Reads another server's stream of status and keeps the last picture of it.
//!
//! The stream is asked for again whenever it ends; until it is back the picture grows old, which makes it worse and never
//! better (`status.rs`).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures::future::poll_fn;
use http::{HeaderMap, Method, StatusCode};
use tokio::time::sleep;

use super::status::aged;
use super::wire::Report;
use crate::clock::Clock;
use crate::limits;
use crate::upstream::UpstreamStatus;
use crate::upstream::forward::Forward;
use crate::upstream::sse::Reader;

/// How a server stood when it was last heard of.
#[derive(Debug, Default)]
pub(crate) struct Picture {
    seen: ArcSwapOption<Seen>,
    /// Whether its stream is broken at this moment.
    lost: AtomicBool,
    /// Reports over all streams, which number theirs anew: what counts them must never go back.
    reports: AtomicU64,
}

#[derive(Debug)]
struct Seen {
    /// On the clock that `now` is taken from.
    at: Duration,
    models: HashMap<String, UpstreamStatus>,
}

impl Picture {
    /// The figures of `model` at `now`. A server that was never heard of, or does not have the model, is loading as far
    /// as anyone knows.
    pub(crate) fn status(&self, model: &str, now: Duration) -> UpstreamStatus {
        let seen = self.seen.load();
        let known = seen
            .as_ref()
            .and_then(|seen| Some((seen.at, seen.models.get(model)?)));
        known.map_or_else(UpstreamStatus::default, |(at, status)| {
            let lost = self.lost.load(Ordering::Relaxed);
            aged(status.clone(), now.saturating_sub(at), lost)
        })
    }
}

/// Why a stream of status ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Link(#[from] crate::upstream::link::LinkError),
    #[error(
        "it answered {0}; do both servers have the same [peer] secret, or certificates of one authority?"
    )]
    Refused(StatusCode),
    #[error("{0}")]
    Unreadable(#[from] crate::upstream::sse::SseError),
    #[error("it sent a report that is none")]
    Nonsense,
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
    loop {
        let mut stream = Follower {
            forward: &forward,
            picture: &picture,
            clock: &clock,
            sequence: 0,
            complained: false,
        };
        let ended = stream.run(credentials.clone()).await;
        let was_there = stream.sequence > 0;
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
        sleep(wait).await;
    }
}

/// One stream of status.
struct Follower<'a> {
    forward: &'a Forward,
    picture: &'a Picture,
    clock: &'a Clock,
    /// Of the last report; 0 before the first.
    sequence: u64,
    /// Whether an impossible figure was reported.
    complained: bool,
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
        while let Some(bytes) = poll_fn(|cx| body.poll_bytes(cx)).await? {
            let mut reports = Vec::new();
            reader.read(&bytes, |data| reports.push(serde_json::from_slice(data)))?;
            for report in reports {
                self.take(report.map_err(|_| Ended::Nonsense)?);
            }
        }
        Ok(())
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
        let reports = self.picture.reports.fetch_add(1, Ordering::Relaxed) + 1;
        let mut models = HashMap::new();
        for model in report.models.into_iter().take(limits::STATUS_MODELS_MAX) {
            let id = model.id.clone();
            let (status, impossible) = model.believed(reports);
            if let Some(figure) = impossible {
                self.complain(figure);
            }
            models.insert(id, status);
        }
        let at = self.clock.now();
        self.picture.seen.store(Some(Arc::new(Seen { at, models })));
        self.picture.lost.store(false, Ordering::Relaxed);
    }

    /// Once a stream: a server that lies does so with every report.
    fn complain(&mut self, figure: &'static str) {
        if !std::mem::replace(&mut self.complained, true) {
            let upstream = self.forward.name();
            tracing::warn!(
                upstream,
                figure,
                "the upstream claims an impossible figure; it is cut"
            );
        }
    }
}
