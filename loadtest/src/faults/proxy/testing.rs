//! A bare client of HTTP/1.1 for tests: what it sends and reads are the bytes on the wire.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longer than anything here may take; a test that hangs fails by it.
pub(in crate::faults) const PATIENCE: Duration = Duration::from_secs(30);

/// An answer, or what came of it.
#[derive(Debug)]
pub(in crate::faults) struct Answer {
    pub(in crate::faults) status: u16,
    head: String,
    /// Without the marks of its chunks.
    pub(in crate::faults) body: String,
    /// How the connection ended.
    pub(in crate::faults) end: Result<(), std::io::ErrorKind>,
}

impl Answer {
    pub(in crate::faults) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(found, _)| *found == name)
            .map(|(_, value)| value)
    }
}

pub(in crate::faults) fn post(path: &str, body: &Value) -> String {
    let body = body.to_string();
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

/// Sends a request on a connection of its own and reads to its end.
pub(in crate::faults) async fn exchange(address: SocketAddr, request: &str) -> Answer {
    let talk = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        let end = stream.read_to_end(&mut bytes).await;
        Ok::<_, std::io::Error>((bytes, end))
    };
    let said = tokio::time::timeout(PATIENCE, talk).await;
    let said = said.unwrap_or_else(|late| Err(late.into()));
    let (bytes, end) = said.unwrap_or_else(|error| (Vec::new(), Err(error)));
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let chunked = head.contains("transfer-encoding: chunked");
    Answer {
        status: head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap_or(0),
        body: if chunked {
            dechunked(body)
        } else {
            body.to_owned()
        },
        head: head.to_owned(),
        end: end.map(drop).map_err(|error| error.kind()),
    }
}

/// The data of all events.
pub(in crate::faults) fn events(body: &str) -> Vec<String> {
    let data = body.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(str::to_owned).collect()
}

fn dechunked(body: &str) -> String {
    let (mut rest, mut whole) = (body, String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        let Some(chunk) = after.get(..size).filter(|_| size > 0) else {
            break;
        };
        whole += chunk;
        rest = after.get(size + 2..).unwrap_or_default();
    }
    whole
}
