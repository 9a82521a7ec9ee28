//! Requests that are too large or make no sense. Each has one good answer: a refusal, or an end without one.

use super::wire::{End, head, send, with_body};
use super::{Outcome, Victim};
use crate::limits::{ABUSE_BODY_BYTES, ABUSE_DEPTH, ABUSE_HEADER_BYTES, ABUSE_HEADERS};

/// A request and what it is called.
type Case = (&'static str, Vec<u8>);

pub(super) async fn oversized(victim: &Victim) -> Outcome {
    let many: String = (0..ABUSE_HEADERS)
        .map(|n| format!("x-{n}: y\r\n"))
        .collect();
    let long = format!("x-long: {}\r\n", "y".repeat(ABUSE_HEADER_BYTES));
    let claim = head(victim, "content-length: 10995116277760\r\n\r\n{").into_bytes();
    let padded = [&b"{\"model\":\""[..], &vec![b'x'; ABUSE_BODY_BYTES]].concat();
    let chunked = head(
        victim,
        "transfer-encoding: chunked\r\n\r\nffffffffffffffff0\r\n",
    )
    .into_bytes();
    let cases = vec![
        ("a body said to have 10 TiB", claim),
        ("a body of 64 MiB", with_body(victim, "", &padded)),
        ("a header of 1 MiB", with_body(victim, &long, b"{}")),
        ("10,000 headers", with_body(victim, &many, b"{}")),
        ("a chunk beyond all numbers", chunked),
    ];
    refused(victim, cases, "what is too large").await
}

pub(super) async fn malformed(victim: &Victim) -> Outcome {
    let json = |body: &[u8]| with_body(victim, "", body);
    let raw = |headers: &str, rest: &str| (head(victim, headers) + rest).into_bytes();
    let deep = [vec![b'['; ABUSE_DEPTH], vec![b']'; ABUSE_DEPTH]].concat();
    let cases = vec![
        (
            "no HTTP",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(),
        ),
        ("no JSON", json(b"hello")),
        (
            "half of a JSON",
            json(br#"{"model":"x","messages":[{"role":"#),
        ),
        ("an empty body", json(b"")),
        ("JSON that is no object", json(b"[1,2,3]")),
        ("JSON of great depth", json(&deep)),
        ("bytes that are no UTF-8", json(b"{\"model\":\"\xff\xfe\"}")),
        (
            "a number beyond all numbers",
            json(br#"{"model":"x","messages":[],"max_tokens":1e999}"#),
        ),
        (
            "messages of the wrong kind",
            json(br#"{"model":"x","messages":"hi"}"#),
        ),
        (
            "two lengths",
            raw("content-length: 2\r\ncontent-length: 5\r\n\r\n", "{}"),
        ),
        (
            "a length and chunks",
            raw(
                "content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n",
                "0\r\n\r\n",
            ),
        ),
        (
            "a length that is no number",
            raw("content-length: two\r\n\r\n", "{}"),
        ),
        (
            "a chunk without a size",
            raw(
                "transfer-encoding: chunked\r\n\r\n",
                "zz\r\n{}\r\n0\r\n\r\n",
            ),
        ),
        (
            "a header with a zero byte",
            raw("x-bad: a\0b\r\ncontent-length: 2\r\n\r\n", "{}"),
        ),
    ];
    refused(victim, cases, "what makes no sense").await
}

/// One after the other, each on a connection of its own.
async fn refused(victim: &Victim, cases: Vec<Case>, what: &str) -> Outcome {
    let (count, mut bad) = (cases.len(), Vec::new());
    for (name, bytes) in cases {
        let end = send(victim, &bytes).await;
        if !matches!(end, End::Status(400..=499) | End::Closed | End::Reset) {
            bad.push(format!("{name}: {end}"));
        }
    }
    Outcome {
        expected: format!("{what} is refused with a status of 4xx, or the connection is ended"),
        seen: match bad.is_empty() {
            true => format!("{count} of {count} kinds refused"),
            false => format!(
                "{} of {count} kinds refused; {}",
                count - bad.len(),
                bad.join(", ")
            ),
        },
        good: bad.is_empty(),
    }
}
