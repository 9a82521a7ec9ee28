//! Clients that take their time: with their heads, with their bodies, with reading.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::wire::{End, answer, exhaust, head, request};
use super::{Outcome, Victim};
use crate::clock::{Clock, nanos};
use crate::limits::{
    ABUSE_BYTE_PAUSE, ABUSE_READER_BUFFER, ABUSE_READER_PAUSE, ABUSE_READER_TOKENS,
};

pub(super) async fn headers(victim: &Victim) -> Outcome {
    drip(victim, head(victim, "x-slow: "), "slow heads").await
}

pub(super) async fn bodies(victim: &Victim) -> Outcome {
    drip(
        victim,
        head(victim, "content-length: 100000\r\n\r\n"),
        "slow bodies",
    )
    .await
}

/// Begins requests and goes on with them a byte at a time, until the server has had enough.
async fn drip(victim: &Victim, beginning: String, what: &str) -> Outcome {
    let clock = Clock::start();
    let mut drips = JoinSet::new();
    for _ in 0..victim.connections {
        let (victim, beginning) = (victim.clone(), beginning.clone());
        drips.spawn(async move {
            timeout(victim.patience, drip_one(&victim, &beginning))
                .await
                .unwrap_or(End::Open)
        });
    }
    let ends = drips.join_all().await;
    let after = Duration::from_nanos(clock.now());
    let open = ends.iter().filter(|end| **end == End::Open).count();
    Outcome {
        expected: format!(
            "every connection with {what} is closed or answered within {:?}",
            victim.patience
        ),
        seen: match open {
            0 => format!(
                "{} of {} ended, the last after {:.1} s",
                ends.len(),
                ends.len(),
                after.as_secs_f64()
            ),
            open => format!("{open} of {} were still open", ends.len()),
        },
        good: open == 0,
    }
}

async fn drip_one(victim: &Victim, beginning: &str) -> End {
    let Ok(mut stream) = TcpStream::connect(victim.address).await else {
        return End::Refused;
    };
    let (mut read, mut write) = stream.split();
    let dripping = async {
        let mut sent = write.write_all(beginning.as_bytes()).await;
        while sent.is_ok() {
            sleep(ABUSE_BYTE_PAUSE).await;
            sent = write.write_all(b" ").await;
        }
        End::Reset
    };
    tokio::select! {
        end = dripping => end,
        end = answer(&mut read) => end,
    }
}

/// Asks for long streams and reads nothing for a while; then reads, and the stream must have an end.
pub(super) async fn readers(victim: &Victim) -> Outcome {
    let mut readers = JoinSet::new();
    for _ in 0..victim.connections {
        let victim = victim.clone();
        readers.spawn(async move { read_late(&victim).await });
    }
    let ends = readers.join_all().await;
    let count = |wanted: End| ends.iter().filter(|end| **end == wanted).count();
    let (open, going) = (count(End::Open), count(End::GoesOn));
    Outcome {
        expected: format!(
            "streams that nobody reads for {ABUSE_READER_PAUSE:?} are ended, or go on when they are read"
        ),
        seen: format!(
            "{} of {} came to an end, {going} went on, {open} stood still",
            ends.len() - open - going,
            ends.len()
        ),
        good: open == 0,
    }
}

async fn read_late(victim: &Victim) -> End {
    let Ok(Ok(mut stream)) = timeout(victim.patience, narrow(victim)).await else {
        return End::Refused;
    };
    let request = request(victim, ABUSE_READER_TOKENS, "connection: close\r\n");
    if stream.write_all(&request).await.is_err() {
        return End::Reset;
    }
    sleep(ABUSE_READER_PAUSE).await;
    let clock = Clock::start();
    let mut last = clock.now();
    let reading = exhaust(&mut stream, || last = clock.now());
    match timeout(victim.patience, reading).await {
        Ok(end) => end,
        // A slow model may need longer than anybody waits here; one that is stuck says nothing more after what lay in buffers.
        Err(_) if clock.now() - last < nanos(victim.patience) / 2 => End::GoesOn,
        Err(_) => End::Open,
    }
}

/// A connection that takes little at a time, so that the server soon has to keep what is not read.
async fn narrow(victim: &Victim) -> std::io::Result<TcpStream> {
    let socket = if victim.address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.set_recv_buffer_size(ABUSE_READER_BUFFER)?;
    socket.connect(victim.address).await
}
