//! What a whole server tells of the ways of its requests.
#![cfg(feature = "engine")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use axum::body::Body;
use hansa_config::{Config, schema};
use hansa_gateway::serve::App;
use http::{HeaderMap, Request};
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::sync::oneshot;

fn config() -> Config {
    let mut config = Config::default();
    config.server.listen.set_port(0);
    config.admin.listen = Some(config.server.listen);
    config.route.home_site = Some("lumi".to_owned());
    config.route.home_country = Some("FI".to_owned());
    config.models = vec![schema::Model {
        id: "sim".to_owned(),
        runner: schema::Runner::Sim,
        ..schema::Model::default()
    }];
    config
}

/// Runs `test` against a server that is ready: its addresses for clients and for operators.
async fn with_server(config: Config, test: impl AsyncFnOnce(SocketAddr, SocketAddr)) {
    let app = App::build(config).await.unwrap();
    let addresses = app.addresses();
    let (stop, stopped) = oneshot::channel::<()>();
    let mut stopped = Some(stopped);
    let serving = app.run(async move || {
        if let Some(stopped) = stopped.take() {
            let _ = stopped.await;
        }
    });
    let testing = async {
        while send(addresses.listen, "/health/ready", None).await.0 != 200 {
            tokio::task::yield_now().await;
        }
        test(addresses.listen, addresses.admin.unwrap()).await;
        stop.send(()).unwrap();
    };
    let (served, ()) = tokio::join!(serving, testing);
    served.unwrap();
}

async fn send(to: SocketAddr, path: &str, body: Option<&str>) -> (u16, HeaderMap, Value) {
    let method = if body.is_some() { "POST" } else { "GET" };
    let request = Request::builder()
        .method(method)
        .uri(format!("http://{to}{path}"))
        .header("content-type", "application/json")
        .header("x-request-id", "why-there")
        .body(Body::from(body.unwrap_or_default().to_owned()))
        .unwrap();
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(request).await.unwrap();
    let (head, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let json = serde_json::from_slice(&bytes).unwrap_or_default();
    (head.status.as_u16(), head.headers, json)
}

const QUESTION: &str =
    r#"{"model":"sim","max_tokens":4,"messages":[{"role":"user","content":"hi"}]}"#;

#[tokio::test]
async fn an_answer_says_where_it_was_made_and_the_operator_learns_why() {
    with_server(config(), async |clients, operators| {
        let (status, headers, _) = send(clients, "/v1/chat/completions", Some(QUESTION)).await;
        assert_eq!(status, 200);
        assert_eq!(headers["x-hansa-site"], "lumi");
        let short = headers["x-hansa-route"].to_str().unwrap();
        assert!(
            short.starts_with("policy=cost; eligible=1; cost="),
            "{short}"
        );
        let (status, _, kept) = send(operators, "/admin/v1/decisions/why-there", None).await;
        assert_eq!(status, 200);
        let decision = &kept["decisions"][0];
        assert_eq!(decision["attempt"], "first");
        assert_eq!(decision["pick"]["site"], "lumi");
        for term in ["rtt", "wait", "prefill", "decode", "pressure", "carbon"] {
            assert!(
                decision["pick"]["terms"][term].is_number(),
                "no {term} in {kept}"
            );
        }
        let (status, ..) = send(operators, "/admin/v1/decisions/nobody", None).await;
        assert_eq!(status, 404);
    })
    .await;
}

#[tokio::test]
async fn a_server_that_may_not_serve_here_refuses_for_good() {
    let mut config = config();
    config.route.allow_countries = vec!["SE".to_owned()];
    with_server(config, async |clients, operators| {
        let (status, headers, body) = send(clients, "/v1/chat/completions", Some(QUESTION)).await;
        assert_eq!(status, 403);
        assert_eq!(headers["x-should-retry"], "false");
        assert_eq!(body["error"]["code"], "no_site_allowed");
        let (_, _, kept) = send(operators, "/admin/v1/decisions/why-there", None).await;
        assert_eq!(kept["decisions"][0]["filtered"]["residency"], 1);
        assert!(kept["decisions"][0]["pick"].is_null());
    })
    .await;
}
