//! A plain HTTP client: one connection a request, so that closing it is a client's disconnect.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// A client of one address.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    address: SocketAddr,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Response headers.
    pub headers: http::HeaderMap,
    /// Body.
    pub body: Bytes,
}

/// A streamed answer. Dropping it closes the connection.
#[derive(Debug)]
pub struct Stream {
    /// HTTP status.
    pub status: u16,
    /// Response headers.
    pub headers: http::HeaderMap,
    body: Incoming,
    buffer: String,
    // Aborted when dropped, which closes the socket.
    _connection: JoinSet<()>,
}

impl Client {
    /// A client of `address`.
    #[must_use]
    pub const fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    /// `GET path`.
    ///
    /// # Errors
    /// Where the connection or the answer fails.
    pub async fn get(&self, path: &str) -> Result<Reply> {
        self.send("GET", path, Bytes::new()).await
    }

    /// `POST path` with a JSON body.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<Reply> {
        self.send("POST", path, body.to_string().into()).await
    }

    /// Any method with any body.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn send(&self, method: &str, path: &str, body: Bytes) -> Result<Reply> {
        self.send_with(method, path, &[], body).await
    }

    /// The same with further headers.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn send_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Reply> {
        let stream = self.open(method, path, headers, body).await?;
        let Stream {
            status,
            headers,
            body,
            _connection,
            ..
        } = stream;
        let body = body.collect().await?.to_bytes();
        Ok(Reply {
            status,
            headers,
            body,
        })
    }

    /// `POST path` whose answer is read as it comes.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn stream(&self, path: &str, body: &Value) -> Result<Stream> {
        self.open("POST", path, &[], body.to_string().into()).await
    }

    async fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Stream> {
        let io = TokioIo::new(TcpStream::connect(self.address).await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        let mut task = JoinSet::new();
        task.spawn(async move {
            let _ = connection.await;
        });
        let mut request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address.to_string())
            .header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body))?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        Ok(Stream {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
            buffer: String::new(),
            _connection: task,
        })
    }
}

impl Reply {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// Where it is none; the error shows it.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON: {}", self.text()))
    }
}

impl Stream {
    /// The `data` of the next server-sent event, comments skipped; `None` where the body ends.
    ///
    /// # Errors
    /// Where the connection breaks or the bytes are no UTF-8.
    pub async fn next_data(&mut self) -> Result<Option<String>> {
        loop {
            while let Some(end) = self.buffer.find("\n\n") {
                let event: String = self.buffer.drain(..end + 2).collect();
                if let Some(data) = event.strip_prefix("data: ") {
                    return Ok(Some(data.trim_end().to_owned()));
                }
            }
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            if let Ok(data) = frame?.into_data() {
                self.buffer.push_str(std::str::from_utf8(&data)?);
            }
        }
    }

    /// Everything that is still to come.
    ///
    /// # Errors
    /// As [`Stream::next_data`].
    pub async fn rest(&mut self) -> Result<Vec<String>> {
        let mut events = Vec::new();
        while let Some(data) = self.next_data().await? {
            events.push(data);
        }
        Ok(events)
    }
}
