//! Bare connections to the abused server, and the well-behaved client beside them.

use std::fmt;
use std::io;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::Victim;
use crate::clock::Clock;
use crate::limits::{ABUSE_ANSWER_BYTES, ABUSE_OTHERS_WITHIN, ABUSE_WITNESS_PAUSE};

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    /// With an answer of this status.
    Status(u16),
    /// Closed without an answer.
    Closed,
    /// Reset.
    Reset,
    /// Not at all, as long as anybody waited.
    Open,
    /// It was still bringing its answer.
    GoesOn,
    /// It could not be made.
    Refused,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "{status}"),
            Self::Closed => f.write_str("closed"),
            Self::Reset => f.write_str("reset"),
            Self::Open => f.write_str("left open"),
            Self::GoesOn => f.write_str("going on"),
            Self::Refused => f.write_str("refused"),
        }
    }
}

/// Sends bytes as they are and waits for the first of an answer, or the end.
pub(super) async fn send(victim: &Victim, bytes: &[u8]) -> End {
    let talk = async {
        let Ok(mut stream) = TcpStream::connect(victim.address).await else {
            return End::Refused;
        };
        let (mut read, mut write) = stream.split();
        let sending = async {
            // A server may answer and close before all is sent.
            write.write_all(bytes).await.ok();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = sending => End::Open,
            end = answer(&mut read) => end,
        }
    };
    timeout(victim.patience, talk).await.unwrap_or(End::Open)
}

/// Reads until the status of an answer has come, or the end.
pub(super) async fn answer(read: &mut (impl tokio::io::AsyncRead + Unpin)) -> End {
    let mut bytes = Vec::new();
    loop {
        if let Some(status) = status(&bytes) {
            return End::Status(status);
        }
        match read.read_buf(&mut bytes).await {
            Ok(0) => return End::Closed,
            Ok(_) if bytes.len() > ABUSE_ANSWER_BYTES => return End::Closed,
            Ok(_) => {}
            Err(error) => return of_error(&error),
        }
    }
}

/// Reads to the end and keeps nothing; `on_bytes` hears whenever something came.
pub(super) async fn exhaust(
    read: &mut (impl tokio::io::AsyncRead + Unpin),
    mut on_bytes: impl FnMut(),
) -> End {
    let mut piece = vec![0; ABUSE_ANSWER_BYTES];
    loop {
        match read.read(&mut piece).await {
            Ok(0) => return End::Closed,
            Ok(_) => on_bytes(),
            Err(error) => return of_error(&error),
        }
    }
}

fn of_error(error: &io::Error) -> End {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => End::Reset,
        _ => End::Closed,
    }
}

fn status(bytes: &[u8]) -> Option<u16> {
    let line = bytes.get(..12)?;
    std::str::from_utf8(line.strip_prefix(b"HTTP/1.")?.get(2..)?)
        .ok()?
        .parse()
        .ok()
}

/// A request for a streamed answer of so many tokens, with these headers besides.
pub(super) fn request(victim: &Victim, tokens: u32, headers: &str) -> Vec<u8> {
    let message = json!({"role": "user", "content": "Name a city of the Hanseatic League."});
    let body =
        json!({"model": victim.model, "stream": true, "max_tokens": tokens, "messages": [message]});
    with_body(victim, headers, body.to_string().as_bytes())
}

/// A request with this body.
pub(super) fn with_body(victim: &Victim, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = head(victim, &format!("{headers}content-length: {length}\r\n"));
    [head.as_bytes(), b"\r\n", body].concat()
}

/// The head of a request for a chat, without the blank line that ends it.
pub(super) fn head(victim: &Victim, headers: &str) -> String {
    let key = victim.authorization.as_ref();
    let key = key.map_or(String::new(), |value| format!("authorization: {value}\r\n"));
    let host = &victim.host;
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\n{key}content-type: application/json\r\n{headers}"
    )
}

/// How a well-behaved client was served.
#[derive(Debug, Default)]
pub(super) struct Witness {
    asked: u32,
    failed: u32,
    slowest: Duration,
}

impl Witness {
    /// Asks again and again while `attack` goes on.
    pub(super) async fn beside<T>(victim: &Victim, attack: impl Future<Output = T>) -> (T, Self) {
        let mut witness = Self::default();
        let asking = witness.keep_asking(victim);
        let outcome = tokio::select! {
            outcome = attack => outcome,
            never = asking => match never {},
        };
        // Once more, now that it is over.
        witness.ask(victim).await;
        (outcome, witness)
    }

    async fn keep_asking(&mut self, victim: &Victim) -> std::convert::Infallible {
        loop {
            self.ask(victim).await;
            sleep(ABUSE_WITNESS_PAUSE).await;
        }
    }

    async fn ask(&mut self, victim: &Victim) {
        let clock = Clock::start();
        let key = victim.authorization.as_ref();
        let key = key.map_or(String::new(), |value| format!("authorization: {value}\r\n"));
        let request = format!(
            "GET /v1/models HTTP/1.1\r\nhost: {}\r\n{key}connection: close\r\n\r\n",
            victim.host
        );
        let end = timeout(ABUSE_OTHERS_WITHIN, send(victim, request.as_bytes())).await;
        self.asked += 1;
        self.failed += u32::from(end != Ok(End::Status(200)));
        self.slowest = self.slowest.max(Duration::from_nanos(clock.now()));
    }

    pub(super) fn was_served(&self) -> bool {
        self.failed == 0
    }
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (asked, slowest) = (self.asked, self.slowest.as_secs_f64() * 1e3);
        match self.failed {
            0 => write!(
                f,
                "{asked} requests of others answered, the slowest in {slowest:.0} ms"
            ),
            failed => write!(
                f,
                "{failed} of {asked} requests of others got no answer in {ABUSE_OTHERS_WITHIN:?}"
            ),
        }
    }
}
