//! What a request took, told by the node through every hop, and what carbon does to routing.

use std::fs;

use hansa_config::schema::tenancy::Currency;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::harness::{Answer, PATIENCE, Server, chat, gateway, node, ours, secret};
use crate::quota::{self, admin, allocation, body};

const PATH: &str = "/v1/chat/completions";

#[tokio::test]
async fn joules_and_grams_come_through_hops_into_answers_headers_and_records() {
    let mut plain = node();
    plain.energy.millijoules_per_token = Some(500);
    plain.energy.pue_percent = 200;
    plain.energy.grams_per_kwh = Some(360);
    let node = Server::start(plain).await;
    let site = Server::start(gateway(vec![ours("node", node.clients)])).await;
    let upstream = ours("site", site.clients);
    let edge = quota::Server::start(|config| {
        config.models.clear();
        config.nodes = vec![upstream];
        config.peer.secret_file = Some(secret("the-secret-of-all-peers"));
        config.allocations = vec![allocation("any", Currency::Tokens, 1_000)];
    })
    .await;
    // A prompt of 3 tokens, 20 produced: 20.3 x 0.5 J x 2; at 360 g for 3.6 MJ, a ten-thousandth of it in grams.
    let answer = edge.ask(&body(20)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let expected = json!({"joules": 20.3, "grams": 0.00203});
    assert_eq!(answer.json()["usage"]["hansa"], expected);
    assert_eq!(answer.header("x-hansa-joules"), Some("20.3"));
    assert_eq!(answer.header("x-hansa-grams"), Some("0.00203"));
    edge.settled("any").await;
    let page = admin(&edge, "GET", "records", edge.key.reveal(), &json!({})).await;
    let record = &page.json()["data"][0];
    assert_eq!(record["amounts"]["millijoules"], 20_300, "{record}");
    assert_eq!(record["micrograms"], 2_030, "{record}");
    let streamed = chat(r#""max_tokens":2,"stream":true,"stream_options":{"include_usage":true}"#);
    let streamed = site.post(PATH, &streamed).await;
    assert_eq!(streamed.header("x-hansa-joules"), None);
    let events = streamed.events();
    let last: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
    assert!(last["usage"]["hansa"]["joules"].is_number(), "{last}");
    edge.stop().await;
    site.stop().await;
    node.stop().await;
}

/// Grams of the answer as the node tells them; `None` where it does not.
fn grams(answer: &Answer) -> Option<f64> {
    answer.json()["usage"]["hansa"]["grams"].as_f64()
}

#[tokio::test]
async fn a_grids_file_is_followed_and_its_last_number_outlives_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("grid");
    let mut watched = node();
    watched.energy.millijoules_per_token = Some(3_600_000 / 10);
    watched.energy.grid_file = Some(file.clone());
    let node = Server::start(watched).await;
    let ask = async || node.post(PATH, &chat(r#""max_tokens":10"#)).await;
    assert_eq!(grams(&ask().await), None);
    let until = async |good: &dyn Fn(f64) -> bool| {
        let asking = async { while !grams(&ask().await).is_some_and(good) {} };
        timeout(PATIENCE, asking).await.unwrap();
    };
    fs::write(&file, "100\n").unwrap();
    until(&|grams| grams < 1.0).await;
    fs::write(&file, "1000\n").unwrap();
    until(&|grams| grams > 1.0).await;
    for nonsense in ["garbage", ""] {
        fs::write(&file, nonsense).unwrap();
        assert!(grams(&ask().await).is_some_and(|grams| grams > 1.0));
    }
    fs::remove_file(&file).unwrap();
    assert!(grams(&ask().await).is_some_and(|grams| grams > 1.0));
    node.stop().await;
}

#[tokio::test]
async fn carbon_decides_between_equals() {
    let with = |grams| {
        let mut config = node();
        config.energy.millijoules_per_token = Some(1_000);
        config.energy.grams_per_kwh = Some(grams);
        config
    };
    let (dirty, clean) = (
        Server::start(with(900)).await,
        Server::start(with(10)).await,
    );
    let mut config = gateway(vec![
        ours("dirty", dirty.clients),
        ours("clean", clean.clients),
    ]);
    config.route.carbon_ms_per_gram = 1_000_000;
    let site = Server::start(config).await;
    let ask = async || site.post(PATH, &chat(r#""max_tokens":2"#)).await.node();
    // Once both have told how they stand.
    let asking = async { while ask().await != "clean" {} };
    timeout(PATIENCE, asking).await.unwrap();
    for _ in 0..10 {
        assert_eq!(ask().await, "clean");
    }
    site.stop().await;
    dirty.stop().await;
    clean.stop().await;
}
