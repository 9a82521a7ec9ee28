//! A peer whose status cannot be true: its figures are cut, it is named in the log once, and gains no request by it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use hansa_gateway::tenant::secret::Secret;

use crate::harness::{PATIENCE, Server, chat, exchange, file, node, post, spawn};
use crate::process::Process;

const PATH: &str = "/v1/chat/completions";
/// Everything that would draw requests, and nothing of it possible.
const LIES: &str = r#""running":-1,"waiting":-4,"waiting_prefill_tokens":-9,"queued_tokens":-1.5,
    "kv_tokens_total":1e15,"kv_tokens_free":18446744073709551615,"prefill_tokens_per_s":1e300,
    "decode_tokens_per_s":-2,"least_wait_ms":-7,"age_ms":-60000"#;

/// A server of ours that reports this of `sim` twenty times a second, and counts what else it is asked.
struct Liar {
    address: SocketAddr,
    told: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
}

impl Liar {
    async fn telling(model: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (told, asked) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (model, counts) = (
            Arc::<str>::from(model),
            (Arc::clone(&told), Arc::clone(&asked)),
        );
        spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (model, counts) = (Arc::clone(&model), counts.clone());
                let serve = service_fn(move |request: Request<Incoming>| {
                    let (model, counts) = (Arc::clone(&model), counts.clone());
                    async move { Ok::<_, Infallible>(answer(&request, model, &counts)) }
                });
                let builder = http2::Builder::new(TokioExecutor::new());
                spawn(builder.serve_connection(TokioIo::new(connection), serve));
            }
        });
        Self {
            address,
            told,
            asked,
        }
    }
}

fn answer(
    request: &Request<Incoming>,
    model: Arc<str>,
    (told, asked): &(Arc<AtomicUsize>, Arc<AtomicUsize>),
) -> Response<Body> {
    if request.method() != Method::GET {
        asked.fetch_add(1, Ordering::SeqCst);
        return Response::builder().status(500).body(Body::empty()).unwrap();
    }
    let told = Arc::clone(told);
    let reports = stream::unfold(0_u64, move |sequence| {
        let (told, model) = (Arc::clone(&told), Arc::clone(&model));
        async move {
            sleep(Duration::from_millis(50)).await;
            told.fetch_add(1, Ordering::SeqCst);
            let sequence = sequence + 1;
            let report = format!(
                r#"{{"sequence":{sequence},"beat_ms":200,"models":[{{"id":"sim","state":"ready",{model}}}]}}"#
            );
            // An event is one line.
            let event = format!("data: {}\n\n", report.replace('\n', " "));
            Some((Ok::<_, Infallible>(Bytes::from(event)), sequence))
        }
    });
    Response::new(Body::from_stream(reports))
}

/// A gateway before `liar` and an honest node; the log's lines that name the liar once it has told so many reports, and
/// what it was asked for meanwhile.
async fn heard(name: &str, liar: &Liar, reports: usize) -> (Vec<String>, usize) {
    let honest = Server::start(node()).await;
    let secret = file(&format!("{name}-secret"), "the-secret-of-all-peers");
    let node = |name: &str, address: SocketAddr| {
        format!("[[node]]\nname = \"{name}\"\nurl = \"http://{address}\"\nmodels = [\"sim\"]\n")
    };
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[peer]\nsecret_file = \"{}\"\n{}{}",
        secret.display(),
        node("liar", liar.address),
        node("honest", honest.clients),
    );
    let gateway = Process::start(&file(name, &config));
    gateway.until_ready(&Secret::new()).await;
    let hearing = async {
        while liar.told.load(Ordering::SeqCst) < reports {
            let body = chat(r#""max_tokens":1"#);
            let answer = exchange(gateway.clients, &post(PATH, "", &body)).await;
            // Before the honest one is known there may be nobody.
            assert!(matches!(answer.status, 200 | 503), "{answer:?}");
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, hearing).await.unwrap();
    let log = gateway.log();
    let lines = log.lines().filter(|line| line.contains("liar"));
    let lines: Vec<String> = lines.map(str::to_owned).collect();
    gateway.kill();
    honest.stop().await;
    (lines, liar.asked.load(Ordering::SeqCst))
}

#[tokio::test]
async fn figures_that_cannot_be_are_named_once_and_draw_nobody() {
    let liar = Liar::telling(LIES).await;
    let (lines, asked) = heard("lies", &liar, 30).await;
    for figure in [
        "running",
        "kv_tokens_free",
        "prefill_tokens_per_s",
        "age_ms",
    ] {
        let named = lines.iter().filter(|line| line.contains(figure));
        assert_eq!(named.count(), 1, "{figure}: {lines:#?}");
    }
    assert_eq!(asked, 0, "{lines:#?}");
}

/// Its stream ends with it, and is asked for again ever more rarely.
#[tokio::test]
async fn what_is_no_number_is_no_report_and_is_named_with_its_field() {
    let liar = Liar::telling(r#""running":0,"prefill_tokens_per_s":NaN"#).await;
    let (lines, asked) = heard("nan", &liar, 4).await;
    let named: Vec<&String> = lines
        .iter()
        .filter(|line| line.contains("prefill_tokens_per_s"))
        .collect();
    assert_eq!(named.len(), 1, "{lines:#?}");
    assert_eq!(asked, 0, "{lines:#?}");
}
