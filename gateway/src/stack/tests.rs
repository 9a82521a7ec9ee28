//! The layers around handlers that misbehave.

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use futures::stream;
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::*;
use crate::drain::{Drain, DrainTimes};
use crate::layers::authenticate::tests::gate_without_keys;
use crate::upstream::registry::Models;

struct Stack {
    router: Router,
    drain: Drain,
    shared: Shared,
}

impl Stack {
    fn around(api: Router) -> Self {
        let drain = Drain::new();
        let shared = Shared {
            clock: Clock::manual(1_700_000_000),
            metrics: Metrics::new().unwrap(),
            health: Health {
                models: Arc::new(Models::default()),
                drain: drain.watch(),
            },
            body_bytes_max: 1024,
            body_timeout: Duration::from_secs(30),
            peers: Peers::default(),
            tasks: TaskTracker::new(),
            gate: gate_without_keys(&Clock::manual(0)),
        };
        let router = around(api, &layers(&shared), &shared);
        Self {
            router,
            drain,
            shared,
        }
    }

    async fn get(&self, path: &str) -> Response {
        let request = Request::get(path)
            .header("host", "localhost")
            .body(Body::empty())
            .unwrap();
        self.router.clone().oneshot(request).await.unwrap()
    }

    fn metrics(&self) -> String {
        self.shared.metrics.render(&Models::default())
    }
}

async fn bug() -> &'static str {
    let nothing: Vec<&str> = Vec::new();
    nothing[1]
}

async fn late_bug() -> Body {
    let mut chunks = vec![Bytes::from_static(b"x")].into_iter();
    Body::from_stream(stream::poll_fn(move |_| {
        let chunk: Result<_, std::convert::Infallible> = Ok(chunks.next().unwrap());
        std::task::Poll::Ready(Some(chunk))
    }))
}

#[tokio::test]
async fn a_panic_stays_with_its_request() {
    let api = Router::new()
        .route("/bug", get(bug))
        .route("/late", get(late_bug))
        .route("/fine", get(async || "fine"));
    let stack = Stack::around(api);
    let answer = stack.get("/bug").await;
    assert_eq!(answer.status(), 500);
    assert!(answer.headers().contains_key("x-request-id"));
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(body.starts_with(br#"{"error":"#), "{body:?}");
    // Headers are gone by then: the stream must break, not end as if it were whole.
    let broken = stack.get("/late").await.into_body().collect().await;
    assert!(broken.is_err());
    assert_eq!(stack.get("/fine").await.status(), 200);
    let metrics = stack.metrics();
    for line in [
        "hansa_panics_total 2",
        "hansa_requests_in_flight 0",
        r#"hansa_requests_total{route="/bug",status="500"} 1"#,
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }
}

#[tokio::test]
async fn a_drain_turns_requests_away_and_lets_probes_pass() {
    let stack = Stack::around(Router::new().route("/fine", get(async || "fine")));
    let models = Arc::new(Models::default());
    let tasks = TaskTracker::new();
    let times = DrainTimes::NONE;
    let never = std::future::pending();
    stack.drain.run(times, &models, &tasks, never).await;
    let refused = stack.get("/fine").await;
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(stack.get("/health/live").await.status(), 200);
    assert_eq!(stack.get("/health").await.status(), 200);
    assert_eq!(stack.get("/health/ready").await.status(), 503);
}

#[tokio::test]
async fn paths_that_nobody_serves_share_one_label() {
    let stack = Stack::around(Router::new());
    for path in ["/a", "/b", "/c/d"] {
        assert_eq!(stack.get(path).await.status(), 404);
    }
    let metrics = stack.metrics();
    let line = r#"hansa_requests_total{route="other",status="404"} 3"#;
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn a_client_that_leaves_is_counted_out() {
    let stack = Stack::around(Router::new().route("/", get(std::future::pending::<()>)));
    let gone = tokio::time::timeout(Duration::from_millis(10), stack.get("/"));
    assert!(gone.await.is_err());
    let metrics = stack.metrics();
    assert!(metrics.contains("hansa_requests_in_flight 0"), "{metrics}");
    assert!(metrics.contains(r#"status="499"} 1"#), "{metrics}");
}
