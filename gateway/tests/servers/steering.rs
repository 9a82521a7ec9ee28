//! What a tenant has to spend decides where its requests go, and what is charged goes where they went.

use hansa_config::Config;
use hansa_config::schema::tenancy::{Allocation, Currency};
use hansa_gateway::drain::Drained;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{self, Answer, PATIENCE, Wire, exchange, node, ours, secret};
use crate::quota::{Server, admin, allocation, body, request};

/// Two sites, and a gateway before them whose one tenant has these allocations.
async fn world(allocations: Vec<Allocation>) -> (Server, [harness::Server; 2], [Wire; 2]) {
    let mut slow = node();
    slow.models[0].sim.step_base_us = 2_000;
    let sites = [
        harness::Server::start(slow.clone()).await,
        harness::Server::start(slow).await,
    ];
    let wires = [
        Wire::to(sites[0].clients).await,
        Wire::to(sites[1].clients).await,
    ];
    let upstreams = vec![ours("a", wires[0].address), ours("b", wires[1].address)];
    let set = |config: &mut Config| {
        config.models.clear();
        config.sites = upstreams;
        config.peer.secret_file = Some(secret("the-secret-of-all-peers"));
        config.allocations = allocations;
    };
    let gateway = Server::start(set).await;
    (gateway, sites, wires)
}

fn of_site(id: &str, site: &str, amount: u64) -> Allocation {
    Allocation {
        site: site.to_owned(),
        ..allocation(id, Currency::Tokens, amount)
    }
}

async fn ask(gateway: &Server, max_tokens: u32) -> Answer {
    let text = body(max_tokens).to_string();
    let asks = request("POST", "/v1/completions", gateway.key.reveal(), &text);
    exchange(gateway.clients, &asks).await
}

/// Asks for one token until the site answers, as it does once its status has come.
async fn until_served(gateway: &Server) -> Answer {
    let asking = async {
        loop {
            let answer = ask(gateway, 1).await;
            if answer.status == 200 {
                return answer;
            }
            assert_eq!(answer.status, 503, "{answer:?}");
        }
    };
    timeout(PATIENCE, asking).await.unwrap()
}

/// A record of so many tokens of completion: those of one second are in no order.
async fn record_of(gateway: &Server, completion: u64) -> Value {
    let page = admin(gateway, "GET", "records", gateway.key.reveal(), &json!({})).await;
    let records = page.json()["data"].as_array().unwrap().clone();
    let of = |record: &Value| record["tokens"]["completion"] == completion;
    records.into_iter().find(of).unwrap()
}

async fn stop(gateway: Server, sites: [harness::Server; 2]) {
    assert_eq!(gateway.stop().await, Drained::InOrder);
    for site in sites {
        site.stop().await;
    }
}

#[tokio::test]
async fn requests_go_where_their_tenant_has_an_allocation_until_it_is_spent() {
    let (gateway, sites, _wires) = world(vec![of_site("of b", "b", 40)]).await;
    // 3 + 1 tokens each: b is the only one that is paid for.
    for round in 1..=10 {
        let answer = until_served(&gateway).await;
        assert_eq!(answer.header("x-hansa-site"), Some("b"), "{answer:?}");
        assert_eq!(gateway.settled("of b").await["posted"], 4 * round);
    }
    let refused = ask(&gateway, 1).await;
    assert_eq!(
        (refused.status, &*refused.code()),
        (429, "insufficient_quota")
    );
    let record = record_of(&gateway, 1).await;
    assert_eq!(record["site"], "b", "{record}");
    stop(gateway, sites).await;
}

#[tokio::test]
async fn what_is_good_anywhere_is_spent_where_nothing_of_their_own_is_left() {
    let allocations = vec![
        of_site("of b", "b", 8),
        allocation("any", Currency::Tokens, 1_000),
    ];
    let (gateway, sites, _wires) = world(allocations).await;
    until_served(&gateway).await;
    let asking = async {
        while gateway.settled("of b").await["posted"] != 8 {
            until_served(&gateway).await;
        }
    };
    timeout(PATIENCE, asking).await.unwrap();
    let before = gateway.settled("any").await["posted"].as_u64().unwrap();
    assert_eq!(ask(&gateway, 5).await.status, 200);
    assert_eq!(gateway.settled("any").await["posted"], before + 8);
    assert_eq!(gateway.settled("of b").await["left"], 0);
    stop(gateway, sites).await;
}

#[tokio::test]
async fn a_stream_that_goes_on_elsewhere_takes_its_charge_along_and_is_charged_once() {
    let allocations = vec![
        of_site("of b", "b", 1_000),
        allocation("any", Currency::Tokens, 1_000),
    ];
    let (gateway, sites, wires) = world(allocations).await;
    // Both must be known, or there is nobody to go on.
    let known = async { while until_served(&gateway).await.header("x-hansa-site") != Some("b") {} };
    timeout(PATIENCE, known).await.unwrap();
    let spent = async |id: &str| gateway.settled(id).await["posted"].as_u64().unwrap();
    let before = [spent("of b").await, spent("any").await];
    let mut asks = body(200);
    asks["stream"] = true.into();
    let asks = request(
        "POST",
        "/v1/completions",
        gateway.key.reveal(),
        &asks.to_string(),
    );
    let mut stream = TcpStream::connect(gateway.clients).await.unwrap();
    stream.write_all(asks.as_bytes()).await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    let mut seen = 0;
    let reading = async {
        let mut last = String::new();
        while let Ok(Some(line)) = lines.next_line().await {
            seen += u32::from(line.contains("\"text\":\""));
            if seen == 20 {
                wires[1].cut();
            }
            if line.starts_with("data: ") {
                last = line;
            }
        }
        last
    };
    assert_eq!(timeout(PATIENCE, reading).await.unwrap(), "data: [DONE]");
    assert_eq!(spent("of b").await, before[0]);
    assert_eq!(spent("any").await, before[1] + 3 + 200);
    let record = record_of(&gateway, 200).await;
    assert_eq!(record["site"], "a", "{record}");
    stop(gateway, sites).await;
}
