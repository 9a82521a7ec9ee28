//! Short answers that servers of another make give in one piece: what they are asked, what it costs, and what becomes of
//! broken ones.

use hansa_config::Config;
use hansa_config::schema::Policy;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::harness::{
    Mock, PATIENCE, Server, chat, exchange, foreign, gateway, post, spawn, stream_of,
};
use crate::quota::{self, admin, count_completions, request};

const PATH: &str = "/v1/chat/completions";
const USAGE: &str = r#""usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8}"#;

/// An answer in one piece.
fn in_one_piece(body: &str) -> Vec<u8> {
    let length = body.len();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length:";
    format!("{head} {length}\r\n\r\n{body}").into_bytes()
}

fn good_piece() -> Vec<u8> {
    in_one_piece(&format!(
        r#"{{"id":"x","choices":[{{"index":0,"message":{{"role":"assistant","content":"Riga"}},"finish_reason":"stop"}}],{USAGE}}}"#
    ))
}

/// The same as a stream.
fn good_stream() -> Vec<u8> {
    let events = format!(
        "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"Ri\"}}}}]}}\n\n\
         data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"ga\"}}}}]}}\n\n\
         data: {{\"choices\":[{{\"index\":0,\"delta\":{{}},\"finish_reason\":\"stop\"}}]}}\n\n\
         data: {{\"choices\":[],{USAGE}}}\n\ndata: [DONE]\n\n"
    );
    stream_of(&events).into_bytes()
}

fn asks_for_stream(request: &str) -> bool {
    request.contains(r#""stream":true"#)
}

/// A mock that answers as it is asked, and in one piece with what `whole` makes.
async fn mock(whole: fn() -> Vec<u8>) -> Mock {
    Mock::following(move |request| match asks_for_stream(request) {
        true => good_stream(),
        false => whole(),
    })
    .await
}

#[tokio::test]
async fn a_short_answer_is_asked_for_in_one_piece_and_a_long_one_streamed() {
    let mock = mock(good_piece).await;
    let edge = Server::start(gateway(vec![foreign(mock.address)])).await;
    let streamed = || -> Vec<bool> { mock.asked().iter().map(|r| asks_for_stream(r)).collect() };
    let mut answers = Vec::new();
    let asking = async {
        // One a second is streamed in any case, so that routing learns how the server does.
        while streamed().iter().all(|streamed| *streamed) {
            let answer = edge.post(PATH, &chat(r#""max_tokens":9"#)).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(answer.json()["usage"]["completion_tokens"], 3);
            assert_eq!(answer.json()["usage"].get("hansa"), None, "it was told");
            answers.push(answer.comparable());
        }
    };
    timeout(PATIENCE, asking).await.unwrap();
    assert!(streamed()[0] && answers.len() > 1);
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    for fields in [
        r#""max_tokens":9,"stream":true"#,
        r#""max_tokens":9000"#,
        r#""n":1"#,
    ] {
        assert_eq!(edge.post(PATH, &chat(fields)).await.status, 200);
        assert_eq!(streamed().last(), Some(&true), "{fields}");
    }
    edge.stop().await;
}

#[tokio::test]
async fn a_broken_piece_is_asked_for_elsewhere() {
    let broken: [fn() -> Vec<u8>; 3] = [
        || in_one_piece(r#"{"choices":[{"index":0,"mess"#),
        || {
            in_one_piece(
                r#"{"choices":[{"index":0,"message":{"content":"Ri"},"finish_reason":null}]}"#,
            )
        },
        || b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nhi".to_vec(),
    ];
    for broken in broken {
        let (bad, good) = (mock(broken).await, mock(good_piece).await);
        let mut upstreams = vec![foreign(bad.address), foreign(good.address)];
        upstreams[1].name = "good".to_owned();
        let mut config = gateway(upstreams);
        config.route.policy = Policy::RoundRobin;
        let edge = Server::start(config).await;
        let broke = || bad.asked().iter().any(|request| !asks_for_stream(request));
        let asking = async {
            while !broke() {
                let answer = edge.post(PATH, &chat(r#""max_tokens":9"#)).await;
                assert_eq!(answer.status, 200, "{answer:?}");
                assert_eq!(answer.json()["choices"][0]["message"]["content"], "Riga");
            }
        };
        timeout(PATIENCE, asking).await.unwrap();
        edge.stop().await;
    }
}

/// A gateway with keys before `mock`.
async fn paid(mock: &Mock) -> quota::Server {
    let upstream = foreign(mock.address);
    quota::Server::start(|config: &mut Config| {
        count_completions(config);
        config.models.clear();
        config.nodes = vec![upstream];
    })
    .await
}

fn body(max_tokens: u32) -> Value {
    json!({"model": "sim", "max_tokens": max_tokens, "messages": [{"role": "user", "content": "hi"}]})
}

#[tokio::test]
async fn a_piece_is_charged_to_the_token() {
    let mock = mock(good_piece).await;
    let edge = paid(&mock).await;
    let asks = request("POST", PATH, edge.key.reveal(), &body(9).to_string());
    for _ in 0..4 {
        let answer = exchange(edge.clients, &asks).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let posted = edge.settled("tokens").await["posted"].as_u64().unwrap();
    assert_eq!(posted / 1_000_000, 4 * 3);
    edge.stop().await;
}

#[tokio::test]
async fn who_leaves_before_its_piece_is_there_pays_what_it_may_have_cost() {
    let mock = Mock::following(|request| match asks_for_stream(request) {
        true => good_stream(),
        // It thinks for ever.
        false => Vec::new(),
    })
    .await;
    let edge = paid(&mock).await;
    let asks = request("POST", PATH, edge.key.reveal(), &body(7).to_string());
    let left = async {
        while mock.asked().iter().all(|request| asks_for_stream(request)) {
            let mut client = TcpStream::connect(edge.clients).await.unwrap();
            client.write_all(asks.as_bytes()).await.unwrap();
            let answered = async {
                let mut answer = Vec::new();
                let _ = client.read_to_end(&mut answer).await;
            };
            let asked = async {
                while mock.asked().iter().all(|request| asks_for_stream(request)) {
                    tokio::task::yield_now().await;
                }
            };
            // Either it is answered as a stream was, or it waits for a piece: then it leaves.
            tokio::select! {
                () = answered => {}
                () = asked => {}
            }
        }
    };
    timeout(PATIENCE, left).await.unwrap();
    let streams = mock.asked().len() as u64 - 1;
    let posted = edge.settled("tokens").await["posted"].as_u64().unwrap();
    assert_eq!(posted / 1_000_000, 3 * streams + 7);
    let page = admin(&edge, "GET", "records", edge.key.reveal(), &json!({})).await;
    let page = page.json();
    let records = page["data"].as_array().unwrap().iter();
    let guessed: Vec<_> = records
        .filter(|record| record["estimated"] == true)
        .collect();
    assert_eq!(guessed.len(), 1, "{page}");
    assert_eq!(guessed[0]["tokens"]["completion"], 7);
    edge.stop().await;
}

#[tokio::test]
async fn events_that_come_together_leave_together() {
    let mock = mock(good_piece).await;
    let edge = Server::start(gateway(vec![foreign(mock.address)])).await;
    let answer = edge
        .post(PATH, &chat(r#""max_tokens":9,"stream":true"#))
        .await;
    assert!(answer.events().len() > 4, "{answer:?}");
    // A chunk has two ends of lines, and events have none of that kind.
    let (_, body) = answer.raw.split_once("\r\n\r\n").unwrap();
    assert!(body.matches("\r\n").count() / 2 <= 3, "{body}");
    edge.stop().await;
}

#[tokio::test]
async fn the_first_event_waits_for_no_other() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, sight) = oneshot::channel::<()>();
    let answer = String::from_utf8(good_stream()).unwrap();
    let cut = answer.find("\n\n").unwrap() + 2;
    let upstream = async move {
        let mut sight = Some(sight);
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 4096];
            let read = stream.read(&mut asked).await.unwrap();
            if !asked[..read].starts_with(b"POST") {
                let none =
                    b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                stream.write_all(none).await.unwrap();
                continue;
            }
            let (first, rest) = answer.as_bytes().split_at(cut);
            stream.write_all(first).await.unwrap();
            sight.take().unwrap().await.unwrap();
            stream.write_all(rest).await.unwrap();
        }
    };
    let upstream = spawn(upstream);
    let edge = Server::start(gateway(vec![foreign(address)])).await;
    let mut client = TcpStream::connect(edge.clients).await.unwrap();
    let asks = post(PATH, "", &chat(r#""max_tokens":9,"stream":true"#));
    client.write_all(asks.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&answer).contains(r#""content":"Ri""#) {
            assert!(client.read_buf(&mut answer).await.unwrap() > 0);
        }
        seen.send(()).unwrap();
        client.read_to_end(&mut answer).await.unwrap();
    };
    timeout(PATIENCE, reading).await.unwrap();
    assert!(String::from_utf8_lossy(&answer).contains("[DONE]"));
    upstream.abort();
    edge.stop().await;
}
