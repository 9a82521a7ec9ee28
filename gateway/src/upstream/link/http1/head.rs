//! The heads of requests and answers as bytes (RFC 9112, sections 2 to 5).
//!
//! It must not know where bytes come from or go to.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, header};
use memchr::memchr_iter;

use super::framing::Framing;
use crate::limits;

/// What is wrong with the head of an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::upstream::link) enum HeadError {
    /// It is no head.
    #[error("its answer is not HTTP/1.1: {0}")]
    Syntax(httparse::Error),
    /// Headers of which nobody could tell where the body ends.
    #[error("the {0} of its answer makes no sense")]
    Header(&'static str),
    /// It wants to speak something else.
    #[error("it wants to change the protocol")]
    Switches,
}

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) answer: Response<()>,
    /// Where its body ends.
    pub(super) framing: Framing,
    /// Whether the connection may be used again after it.
    pub(super) keeps: bool,
}

/// The head of a request for `path` of `host`, whose body has `length` bytes. Neither a `host` nor a `content-length` may
/// be among the `headers`.
pub(super) fn write(
    method: &Method,
    path: &Uri,
    host: &HeaderValue,
    headers: &HeaderMap,
    length: u64,
) -> Bytes {
    let mut head = Vec::with_capacity(limits::H1_REQUEST_HEAD_BYTES);
    head.extend_from_slice(method.as_str().as_bytes());
    head.push(b' ');
    let path = path.path_and_query().map_or("/", |path| path.as_str());
    head.extend_from_slice(path.as_bytes());
    head.extend_from_slice(b" HTTP/1.1\r\n");
    field(&mut head, &header::HOST, host.as_bytes());
    if length > 0 || method == Method::POST {
        let length = length.to_string();
        field(&mut head, &header::CONTENT_LENGTH, length.as_bytes());
    }
    for (name, value) in headers {
        field(&mut head, name, value.as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    head.into()
}

fn field(head: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    head.extend_from_slice(name.as_str().as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n");
}

/// Where the head at the beginning of `bytes` ends, if it does. The first `seen` bytes were looked at before.
pub(super) fn end(bytes: &[u8], seen: usize) -> Option<usize> {
    let fresh = bytes.get(seen..)?;
    let mut lines = memchr_iter(b'\n', fresh).map(|at| seen + at);
    let is_empty = |line: &usize| {
        let before = bytes.get(..*line).unwrap_or_default();
        before.ends_with(b"\n") || before.ends_with(b"\n\r")
    };
    Some(lines.find(is_empty)? + 1)
}

/// The head of an answer in `bytes`, which [end] after it; `None` where others follow it before the true one.
///
/// # Errors
/// Where it is none, or says what cannot be.
pub(super) fn read(bytes: &[u8]) -> Result<Option<Head>, HeadError> {
    let mut fields = [const { MaybeUninit::uninit() }; limits::H1_HEADERS_MAX];
    let mut head = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut head,
        bytes,
        &mut fields,
    );
    match parsed.map_err(HeadError::Syntax)? {
        httparse::Status::Complete(_) => {}
        httparse::Status::Partial => return Err(HeadError::Syntax(httparse::Error::Token)),
    }
    let status = head.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(HeadError::Syntax(httparse::Error::Status))?;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(HeadError::Switches);
    }
    if status.is_informational() {
        return Ok(None);
    }
    let mut headers = HeaderMap::with_capacity(head.headers.len());
    for field in &*head.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let name = name.map_err(|_| HeadError::Syntax(httparse::Error::HeaderName))?;
        let value = HeaderValue::from_bytes(field.value);
        let value = value.map_err(|_| HeadError::Syntax(httparse::Error::HeaderValue))?;
        headers.append(name, value);
    }
    let framing = framing(status, &headers)?;
    let keeps = head.version == Some(1)
        && framing != Framing::UntilClose
        && !lists(&headers, &header::CONNECTION, "close");
    let mut answer = Response::new(());
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    Ok(Some(Head {
        answer,
        framing,
        keeps,
    }))
}

/// Where the body ends. No request of ours is a `HEAD` or a `CONNECT`, whose answers are different.
fn framing(status: StatusCode, headers: &HeaderMap) -> Result<Framing, HeadError> {
    let coded = headers.contains_key(header::TRANSFER_ENCODING);
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next();
    // Two answers to where a body ends are what smugglers of answers live by.
    if coded && length.is_some() || lengths.any(|other| Some(other) != length) {
        return Err(HeadError::Header("content-length"));
    }
    if status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
        return Ok(Framing::Length(0));
    }
    if coded {
        let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
        let chunked = codings.all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
        return match chunked {
            true => Ok(Framing::chunked()),
            false => Err(HeadError::Header("transfer-encoding")),
        };
    }
    let Some(length) = length else {
        return Ok(Framing::UntilClose);
    };
    let digits = length
        .to_str()
        .ok()
        .filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let length = digits.and_then(|digits| digits.parse().ok());
    let length = length.ok_or(HeadError::Header("content-length"))?;
    Ok(Framing::Length(length))
}

/// Whether `word` is in a header that is a list of words.
fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter();
    let words = values.flat_map(|value| value.as_bytes().split(|b| *b == b','));
    words
        .map(<[u8]>::trim_ascii)
        .any(|listed| listed.eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_all(text: &str) -> Result<Option<Head>, HeadError> {
        let end = end(text.as_bytes(), 0).expect("a head");
        read(&text.as_bytes()[..end])
    }

    #[test]
    fn a_request_is_written_as_the_standard_says() {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        let host = HeaderValue::from_static("x.example:8000");
        let head = |method: &Method, length| {
            let path = Uri::from_static("http://elsewhere.example/v1/x?y");
            let head = write(method, &path, &host, &headers, length);
            String::from_utf8(head.to_vec()).unwrap()
        };
        assert_eq!(
            head(&Method::POST, 17),
            "POST /v1/x?y HTTP/1.1\r\nhost: x.example:8000\r\ncontent-length: 17\r\naccept: */*\r\n\r\n"
        );
        assert!(!head(&Method::GET, 0).contains("content-length"));
        assert!(head(&Method::POST, 0).contains("content-length: 0"));
    }

    #[test]
    fn where_a_body_ends_is_as_the_standard_says() {
        for (fields, framing, keeps) in [
            ("content-length: 5\r\n", Framing::Length(5), true),
            (
                "content-length: 5\r\ncontent-length: 5\r\n",
                Framing::Length(5),
                true,
            ),
            ("Transfer-Encoding: Chunked\r\n", Framing::chunked(), true),
            (
                "content-length: 5\r\nConnection: x, Close\r\n",
                Framing::Length(5),
                false,
            ),
            ("", Framing::UntilClose, false),
        ] {
            let head = read_all(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"));
            let head = head.unwrap().unwrap();
            assert_eq!((head.framing, head.keeps), (framing, keeps), "{fields}");
        }
        let head = read_all("HTTP/1.1 204 No Content\r\n\r\n")
            .unwrap()
            .unwrap();
        assert_eq!((head.framing, head.keeps), (Framing::Length(0), true));
        let old = read_all("HTTP/1.0 200 OK\ncontent-length: 5\n\n")
            .unwrap()
            .unwrap();
        assert!(!old.keeps);
    }

    #[test]
    fn heads_that_make_no_sense_are_errors() {
        for head in [
            "SSH-2.0-OpenSSH\r\n\r\n",
            "HTTP/1.1 abc\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        ] {
            assert!(read_all(head).is_err(), "{head:?}");
        }
        let many = "x: y\r\n".repeat(limits::H1_HEADERS_MAX + 1);
        let many = read_all(&format!("HTTP/1.1 200 OK\r\n{many}\r\n"));
        assert_eq!(
            many.unwrap_err(),
            HeadError::Syntax(httparse::Error::TooManyHeaders)
        );
        assert!(
            read_all("HTTP/1.1 103 Early Hints\r\n\r\n")
                .unwrap()
                .is_none()
        );
    }

    proptest! {
        #[test]
        fn the_end_of_a_head_is_found_wherever_it_is_cut(cut in 0usize..60) {
            let text = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
            let cut = cut.min(text.len());
            prop_assert_eq!(end(&text[..cut], 0).or_else(|| end(text, cut)), Some(text.len() - 2));
        }

        #[test]
        fn no_head_makes_it_panic(text in "(HTTP/1.[01] [0-9]{1,4}|[ -~]{0,9})\r\n([ -~]{0,30}\r\n){0,4}\r\n") {
            let _ = read_all(&text);
        }
    }
}
