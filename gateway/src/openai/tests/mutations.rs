//! Bodies that chance made: each gets an answer or an error object, and nothing panics.

use proptest::prelude::*;
use proptest::sample::Index;
use tokio::runtime::Runtime;

use super::{Server, error, hello};

const SEEDS: [&str; 3] = [
    r#"{"model":"m","messages":[{"role":"user","content":"Hi \u00e9\ud83d\ude00"},
        {"role":"assistant","content":[{"type":"text","text":"a"}],"tool_calls":[]}],
        "n":1,"temperature":0.5,"top_p":1e0,"stop":["a","b"],"seed":-7,"stream":false,
        "logit_bias":{},"max_tokens":5}"#,
    r#"{"model":"m","prompt":["a","b"],"best_of":1,"stream":true,
        "stream_options":{"include_usage":true}}"#,
    r#"{"model":"m","prompt":[[1,2],[3]],"echo":false,"suffix":null,"user":"u"}"#,
];

/// What replaces a piece of a body.
const PIECES: [&str; 18] = [
    "",
    "null",
    "{}",
    "[]",
    "[[",
    "{\"",
    "\"",
    "\\u",
    "\\ud800",
    "-",
    "1e999",
    "0.0",
    ",",
    ":",
    "}",
    "]",
    "\u{0}",
    "\u{feff}é",
];

fn mutated(seed: &Index, edits: &[(Index, Index, Index)]) -> Vec<u8> {
    let mut body = SEEDS[seed.index(SEEDS.len())].as_bytes().to_vec();
    for (start, length, piece) in edits {
        let start = start.index(body.len() + 1);
        let end = (start + length.index(12)).min(body.len());
        body.splice(start..end, PIECES[piece.index(PIECES.len())].bytes());
    }
    body
}

async fn check(body: Vec<u8>) {
    for path in ["/v1/chat/completions", "/v1/completions"] {
        let response = Server::saying(hello()).post(path, body.clone()).await;
        match response.status().as_u16() {
            200 => {}
            400 | 404 => drop(error(response).await),
            status => panic!("status {status} for a body of chance"),
        }
    }
}

proptest! {
    #[test]
    fn a_mutated_body_gets_an_answer_or_an_error_object(
        seed in any::<Index>(),
        edits in prop::collection::vec(any::<(Index, Index, Index)>(), 0..6),
    ) {
        Runtime::new().unwrap().block_on(check(mutated(&seed, &edits)));
    }

    #[test]
    fn random_bytes_get_an_error_object(body in prop::collection::vec(any::<u8>(), 0..200)) {
        Runtime::new().unwrap().block_on(check(body));
    }
}
