//! Many clients at once, and clients that go away.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::wire::{End, request, send};
use super::{Outcome, Victim};
use crate::limits::{ABUSE_ANSWER_BYTES, ABUSE_FLOOD_FACTOR, ABUSE_READER_TOKENS};

/// All at once, and each must get an answer: a good one, or one that says that there is too much.
pub(super) async fn flood(victim: &Victim) -> Outcome {
    let mut crowd = JoinSet::new();
    for _ in 0..victim.connections * ABUSE_FLOOD_FACTOR {
        let victim = victim.clone();
        crowd.spawn(
            async move { send(&victim, &request(&victim, 1, "connection: close\r\n")).await },
        );
    }
    let ends = crowd.join_all().await;
    let good = |end: &End| matches!(end, End::Status(200 | 429 | 503));
    Outcome {
        expected: "each request is served, or refused with 429 or 503".to_owned(),
        seen: counted(&ends),
        good: ends.iter().all(good),
    }
}

/// Each reads the beginning of a long answer and is gone; then one more is asked for, which must be served.
pub(super) async fn disconnects(victim: &Victim) -> Outcome {
    let mut crowd = JoinSet::new();
    for _ in 0..victim.connections {
        let victim = victim.clone();
        crowd.spawn(async move {
            timeout(victim.patience, leave(&victim))
                .await
                .unwrap_or(false)
        });
    }
    let left = crowd
        .join_all()
        .await
        .into_iter()
        .filter(|left| *left)
        .count();
    let after = send(victim, &request(victim, 1, "connection: close\r\n")).await;
    Outcome {
        expected: "what they asked for is given up, and the next request is served".to_owned(),
        seen: format!(
            "{left} of {} left in the middle of an answer; the next request: {after}",
            victim.connections
        ),
        good: after == End::Status(200),
    }
}

async fn leave(victim: &Victim) -> bool {
    let Ok(mut stream) = TcpStream::connect(victim.address).await else {
        return false;
    };
    let asked = stream
        .write_all(&request(victim, ABUSE_READER_TOKENS, ""))
        .await;
    let mut piece = vec![0; ABUSE_ANSWER_BYTES];
    asked.is_ok() && matches!(stream.read(&mut piece).await, Ok(1..))
}

/// Ends, each with its number: `200: 12, reset: 1`.
pub(super) fn counted(ends: &[End]) -> String {
    let mut counts = BTreeMap::new();
    ends.iter()
        .for_each(|end| *counts.entry(*end).or_insert(0) += 1);
    let mut text = String::new();
    for (end, count) in counts {
        let comma = if text.is_empty() { "" } else { ", " };
        // Writing to a text does not fail.
        write!(text, "{comma}{end}: {count}").ok();
    }
    text
}
