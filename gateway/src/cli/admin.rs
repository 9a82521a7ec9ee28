//! The admin API of a running server, as the subcommands use it: one request, one answer.

use std::fmt::Write as _;
use std::net::SocketAddr;

use bytes::Bytes;
use chrono::{DateTime, NaiveDate, NaiveTime};
use clap::Args;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::runtime::Builder;

use super::Failure;
use crate::limits::{ADMIN_ANSWER_BYTES_MAX, ADMIN_ANSWER_TIME_MAX};

/// Which server. HANSA_ADMIN_KEY holds a key or token with the role that is needed.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct AdminArgs {
    /// Address of its admin listener. HANSA_ADMIN_KEY holds the key of an operator, or of a manager for its own project
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9900")]
    admin: SocketAddr,
}

impl AdminArgs {
    pub(super) fn get(self, path: &str) -> Result<Value, Failure> {
        call(self.admin, Method::GET, path, None)
    }

    pub(super) fn put(self, path: &str, body: &Value) -> Result<Value, Failure> {
        call(self.admin, Method::PUT, path, Some(body))
    }

    pub(super) fn post(self, path: &str, body: &Value) -> Result<Value, Failure> {
        call(self.admin, Method::POST, path, Some(body))
    }

    pub(super) fn delete(self, path: &str) -> Result<Value, Failure> {
        call(self.admin, Method::DELETE, path, None)
    }

    /// The entries of a list.
    pub(super) fn list(self, path: &str) -> Result<Vec<Value>, Failure> {
        let mut answer = self.get(path)?;
        match answer["data"].take() {
            Value::Array(entries) => Ok(entries),
            _ => Err(Failure::failed("the admin listener answers without a list")),
        }
    }
}

/// An id as part of a path.
pub(super) fn escaped(id: &str) -> String {
    let mut path = String::new();
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            path.push(byte.into());
        } else {
            let _ = write!(path, "%{byte:02X}");
        }
    }
    path
}

/// A text of an answer; empty where there is none.
pub(super) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// A day in UTC or a moment with its zone, in seconds since the epoch.
pub(super) fn moment(text: &str) -> Result<i64, String> {
    if let Ok(day) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Ok(day.and_time(NaiveTime::MIN).and_utc().timestamp());
    }
    let moment = DateTime::parse_from_rfc3339(text);
    let moment = moment.map(|moment| moment.timestamp());
    moment.map_err(|_| {
        "neither a day such as 2026-11-01 nor a moment such as 2026-11-01T12:00:00Z".to_owned()
    })
}

/// Asks the admin API and gives its answer's body.
pub(super) fn call(
    admin: SocketAddr,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, Failure> {
    let key = std::env::var("HANSA_ADMIN_KEY")
        .map_err(|_| Failure::usage("HANSA_ADMIN_KEY must hold the key of an operator"))?;
    let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, admin.to_string())
        .header(header::AUTHORIZATION, format!("Bearer {key}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|_| Failure::usage("HANSA_ADMIN_KEY is no key"))?;
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Failure::failed)?;
    // Inside the runtime, which the timer needs.
    let asked = async { tokio::time::timeout(ADMIN_ANSWER_TIME_MAX, ask(admin, request)).await };
    let asked = runtime.block_on(asked);
    let unreachable = |why: &dyn std::fmt::Display| {
        Failure::failed(format!("the admin listener {admin} does not answer: {why}"))
    };
    match asked {
        Ok(Ok((true, answer))) => Ok(answer),
        Ok(Ok((false, answer))) => {
            let message = answer["error"]["message"].as_str();
            let message = message.or_else(|| answer["error"].as_str());
            Err(Failure::failed(
                message.unwrap_or("refused without a reason"),
            ))
        }
        Ok(Err(error)) => Err(unreachable(&error)),
        Err(_) => Err(unreachable(&"it takes too long")),
    }
}

/// One request on one connection: whether it went well, and what came back.
async fn ask(
    admin: SocketAddr,
    request: Request<Full<Bytes>>,
) -> Result<(bool, Value), Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(admin).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async move {
        // Dropped when the answer is here, which ends the connection.
        let mut sender = sender;
        let response = sender.send_request(request).await?;
        let well = response.status().is_success();
        let body = Limited::new(response.into_body(), ADMIN_ANSWER_BYTES_MAX);
        let body = body.collect().await?.to_bytes();
        Ok((well, serde_json::from_slice(&body).unwrap_or_default()))
    };
    // A connection that breaks fails the exchange as well, which says why.
    let (answered, _) = futures::join!(exchange, connection);
    answered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_moments_are_seconds() {
        assert_eq!(moment("1970-01-02"), Ok(86_400));
        assert_eq!(moment("2026-11-01T00:00:00Z"), Ok(1_793_491_200));
        assert_eq!(moment("2026-11-01T01:00:00+01:00"), Ok(1_793_491_200));
        for wrong in [
            "",
            "yesterday",
            "2026-13-01",
            "2026-11-01T00:00:00",
            "1793491200",
        ] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ids_become_parts_of_paths() {
        assert_eq!(escaped("uni/physics"), "uni%2Fphysics");
        assert_eq!(escaped("a?b#c %"), "a%3Fb%23c%20%25");
    }
}
