//! Tells peers how this server's models stand: on change, at most ten times a second and at least once.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use tokio::time::sleep;

use super::control::Control;
use super::reach::Part;
use super::wire::{ModelReport, Report};
use crate::drain::Phase;
use crate::layers::peer::Peer;
use crate::limits;
use crate::openai::error::ApiError;
use crate::upstream::Readiness;

/// `GET /hansa/v1/status`: a stream of reports that ends when this server drains.
pub(super) async fn status(
    State(control): State<Control>,
    peer: Option<Extension<Peer>>,
) -> Result<Response, ApiError> {
    if peer.is_none() {
        return Err(ApiError::peers_only());
    }
    let reports = stream::unfold(Teller::new(control), async |mut teller| {
        let report = teller.next().await?;
        Some((Ok::<_, Infallible>(report), teller))
    });
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-cache"),
    ];
    Ok((headers, Body::from_stream(reports)).into_response())
}

/// One stream of reports.
struct Teller {
    control: Control,
    sequence: u64,
    /// What was told last.
    told: Vec<ModelReport>,
    /// Since then.
    quiet: Duration,
    /// Since anything was sent.
    unheard: Duration,
}

/// A comment, which means nothing but that we are here.
const BEAT: Bytes = Bytes::from_static(b":\n\n");

impl Teller {
    const fn new(control: Control) -> Self {
        Self {
            control,
            sequence: 0,
            told: Vec::new(),
            quiet: Duration::MAX,
            unheard: Duration::ZERO,
        }
    }

    /// The next report, or a word where there is none to make; `None` once the server drains.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.quiet != Duration::MAX {
                let drain = self.control.drain.clone();
                tokio::select! {
                    () = sleep(limits::STATUS_PERIOD) => {}
                    () = drain.reached(Phase::Draining) => return None,
                }
                self.quiet += limits::STATUS_PERIOD;
                self.unheard += limits::STATUS_PERIOD;
            }
            let models = self.look();
            if models != self.told || self.quiet >= limits::STATUS_PERIOD_MAX {
                return self.tell(models);
            }
            if self.unheard >= limits::STATUS_BEAT {
                self.unheard = Duration::ZERO;
                return Some(BEAT);
            }
        }
    }

    fn look(&self) -> Vec<ModelReport> {
        let leaving = self.control.drain.phase() > Phase::Serving;
        let models = self.control.models.parts();
        let report = |(id, mut parts): (Arc<str>, Vec<Part>)| {
            if leaving {
                // Nobody goes through here any more either.
                let leaves = |part: &mut Part| part.status.readiness = Readiness::Draining;
                parts.iter_mut().for_each(leaves);
            }
            ModelReport::of(&id, &parts)
        };
        models.into_iter().map(report).collect()
    }

    fn tell(&mut self, models: Vec<ModelReport>) -> Option<Bytes> {
        self.sequence += 1;
        (self.quiet, self.unheard) = (Duration::ZERO, Duration::ZERO);
        let report = Report {
            sequence: self.sequence,
            server: Some(self.control.me),
            beat_ms: limits::STATUS_BEAT.as_millis() as u32,
            models,
        };
        let json = serde_json::to_string(&report).ok()?;
        self.told = report.models;
        Some(format!("data: {json}\n\n").into())
    }
}
