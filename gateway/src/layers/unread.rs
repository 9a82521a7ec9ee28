//! Ends a stream that its client does not read, so that its sequence frees its KV blocks.
//!
//! On HTTP/1 the connection stalls as a whole and [`crate::listener`] cuts it. On HTTP/2 one stream can stand still while
//! its neighbours go on, and only the answer's body can tell: it gave a frame and is not asked for the next one.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

/// How long a stream may stand still, and where its watch runs.
#[derive(Debug, Clone)]
pub struct ReadLimits {
    /// Time; a stream ends after it and before twice of it.
    pub timeout: Duration,
    /// Tasks that the drain waits for.
    pub tasks: TaskTracker,
}

/// Watches every answer of unknown length; the others lie in memory whole and hold nothing else.
pub async fn watch(State(limits): State<ReadLimits>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    response.map(|body| Body::new(WatchedBody::new(body, &limits)))
}

/// A body that another task takes away when it stands still.
struct WatchedBody {
    stream: Arc<Mutex<Stream>>,
    /// Dropped with the body, which ends the watch.
    _alive: oneshot::Sender<()>,
}

struct Stream {
    /// None once taken away.
    body: Option<Body>,
    frames: u64,
    /// Whether the connection waits for the body and not the body for its reader.
    awaited: bool,
}

impl WatchedBody {
    fn new(body: Body, limits: &ReadLimits) -> Self {
        let stream = Arc::new(Mutex::new(Stream {
            body: Some(body),
            frames: 0,
            awaited: true,
        }));
        let (alive, ended) = oneshot::channel();
        let (watched, timeout) = (Arc::clone(&stream), limits.timeout);
        limits.tasks.spawn(async move {
            tokio::select! {
                () = until_unread(&watched, timeout) => {}
                _ = ended => {}
            }
        });
        Self {
            stream,
            _alive: alive,
        }
    }
}

/// Takes the body away once it stood still for `timeout`.
async fn until_unread(stream: &Mutex<Stream>, timeout: Duration) {
    let mut frames_before = 0;
    loop {
        sleep(timeout).await;
        let unread = lock(stream).take_if_unread(frames_before);
        match unread {
            Ok(body) => {
                tracing::info!("a client reads nothing of its stream; the stream is ended");
                drop(body);
                return;
            }
            Err(frames) => frames_before = frames,
        }
    }
}

impl Stream {
    /// The body where nothing moved since it had given `frames_before`; otherwise how many it has given by now.
    fn take_if_unread(&mut self, frames_before: u64) -> Result<Option<Body>, u64> {
        if self.awaited || self.frames != frames_before {
            return Err(self.frames);
        }
        Ok(self.body.take())
    }
}

/// A panic while the lock was held left nothing half done: every change is one assignment.
fn lock(stream: &Mutex<Stream>) -> std::sync::MutexGuard<'_, Stream> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HttpBody for WatchedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut stream = lock(&self.stream);
        let Some(body) = stream.body.as_mut() else {
            return Poll::Ready(Some(Err(axum::Error::new(Unread))));
        };
        let polled = Pin::new(body).poll_frame(cx);
        stream.awaited = polled.is_pending();
        stream.frames += u64::from(polled.is_ready());
        polled
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.stream)
            .body
            .as_ref()
            .is_some_and(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.stream)
            .body
            .as_ref()
            .map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

/// The client read nothing for too long.
#[derive(Debug, thiserror::Error)]
#[error("the client reads nothing")]
struct Unread;

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::stream;
    use http_body_util::BodyExt;

    use super::*;

    fn watched(body: Body) -> (Body, TaskTracker) {
        let limits = ReadLimits {
            timeout: Duration::from_secs(30),
            tasks: TaskTracker::new(),
        };
        let body = Body::new(WatchedBody::new(body, &limits));
        limits.tasks.close();
        (body, limits.tasks)
    }

    fn endless() -> Body {
        Body::from_stream(stream::repeat(Ok::<_, Infallible>(Bytes::from_static(
            b"x",
        ))))
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_stands_still_is_taken_away() {
        let (mut body, watch) = watched(endless());
        assert!(body.frame().await.unwrap().is_ok());
        watch.wait().await;
        assert!(body.frame().await.unwrap().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_and_a_slow_model_keep_their_streams() {
        let (mut body, _watch) = watched(endless());
        for _ in 0..20 {
            sleep(Duration::from_secs(29)).await;
            assert!(body.frame().await.unwrap().is_ok());
        }
        let thinks_long = stream::once(async {
            sleep(Duration::from_secs(300)).await;
            Ok::<_, Infallible>(Bytes::from_static(b"x"))
        });
        let (mut body, _watch) = watched(Body::from_stream(thinks_long));
        assert!(body.frame().await.unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn the_watch_ends_with_its_stream() {
        let (body, watch) = watched(endless());
        drop(body);
        tokio::time::timeout(Duration::from_secs(1), watch.wait())
            .await
            .unwrap();
    }
}
