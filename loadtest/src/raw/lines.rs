//! A raw file in lines of JSON: one that says what it is, one for each request, one that says how the run ended.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::line::Line;
use super::{Run, SCHEMA, Tail};
use crate::limits::MAX_RAW_LINE_BYTES;
use crate::problems::Problems;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Head<'a> {
    schema: Cow<'a, str>,
}

/// Writes the first line.
///
/// # Errors
/// Those of the writer.
pub(super) fn begin(out: &mut impl Write) -> io::Result<()> {
    let head = Head {
        schema: SCHEMA.into(),
    };
    line(out, &head)
}

/// Writes a request.
///
/// # Errors
/// Those of the writer.
pub(super) fn write(out: &mut impl Write, request: &Line<'_>) -> io::Result<()> {
    line(out, request)
}

/// Writes the last line.
///
/// # Errors
/// Those of the writer.
pub(super) fn end(out: &mut impl Write, tail: &Tail) -> io::Result<()> {
    line(out, tail)?;
    out.flush()
}

fn line(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

/// Reads all requests into `run`, and how it ended.
///
/// # Errors
/// Every line that is none of such a file, or none at the end.
pub(super) fn read(file: File, path: &Path, run: &mut Run) -> Result<Tail, Problems> {
    let unreadable = |error: io::Error| Problems::one(path, format!("cannot be read: {error}"));
    let mut reader = BufReader::new(file);
    let mut problems = Problems::new(path);
    let mut tail = None;
    let mut text = String::new();
    for number in 1.. {
        text.clear();
        let mut bounded = reader.by_ref().take(MAX_RAW_LINE_BYTES);
        if bounded.read_line(&mut text).map_err(unreadable)? == 0 {
            break;
        }
        if number == 1 {
            let head: Option<Head<'_>> = serde_json::from_str(&text).ok();
            if head.is_none_or(|head| head.schema != SCHEMA) {
                return Err(Problems::one(path, super::not_ours()));
            }
        } else if let Ok(line) = serde_json::from_str::<Line<'_>>(&text) {
            run.take(line).map_err(|what| Problems::one(path, what))?;
        } else if let Ok(end) = serde_json::from_str::<Tail>(&text) {
            tail = Some(end);
        } else {
            problems.add(number, "is no request");
        }
    }
    match tail {
        Some(tail) => problems.or(tail),
        None => {
            problems.add(0, "has no last line: the run did not come to its end");
            problems.or(()).and(Err(Problems::new(path)))
        }
    }
}
