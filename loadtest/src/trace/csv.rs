//! Azure's and BurstGPT's tables. Columns are found by their names, since the files came in several versions.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::path::Path;

use csv::{Position, ReaderBuilder, StringRecord};

use super::{Entry, Prompt, Raw, timestamp, tokens};
use crate::limits::{MAX_TRACE_BYTES, MAX_TRACE_SECONDS};
use crate::problems::{Problems, quote};

/// Columns of a table by name.
struct Columns<'a> {
    at: HashMap<String, usize>,
    record: &'a StringRecord,
}

/// `TIMESTAMP,ContextTokens,GeneratedTokens`.
pub(super) fn azure(path: &Path, limit: usize, problems: &mut Problems) -> io::Result<Vec<Raw>> {
    let needed = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"];
    rows(path, &needed, limit, problems, |columns| {
        let text = columns.text("TIMESTAMP")?;
        let at = timestamp::nanos(text)
            .ok_or_else(|| format!("TIMESTAMP {} is no date and time", quote(text)))?;
        let prompt = Prompt::Words {
            tokens: tokens(columns.whole("ContextTokens")?, "ContextTokens")?,
            stream: None,
        };
        raw(
            at,
            prompt,
            columns.whole("GeneratedTokens")?,
            "GeneratedTokens",
        )
    })
}

/// `Timestamp` in seconds, `Request tokens`, `Response tokens`, and `Session ID` in newer files: prompts of a session
/// then grow from the same words, as chats do.
pub(super) fn burstgpt(path: &Path, limit: usize, problems: &mut Problems) -> io::Result<Vec<Raw>> {
    let needed = ["Timestamp", "Request tokens", "Response tokens"];
    rows(path, &needed, limit, problems, |columns| {
        let text = columns.text("Timestamp")?;
        let seconds = text.parse::<f64>().ok();
        let seconds = seconds
            .filter(|seconds| (0.0..=MAX_TRACE_SECONDS).contains(seconds))
            .ok_or_else(|| format!("Timestamp {} is no time in seconds", quote(text)))?;
        let session = columns
            .find("Session ID")
            .filter(|session| !session.is_empty());
        let prompt = Prompt::Words {
            tokens: tokens(columns.whole("Request tokens")?, "Request tokens")?,
            stream: session.map(name),
        };
        let at = (seconds * 1e9).round() as i128;
        raw(
            at,
            prompt,
            columns.whole("Response tokens")?,
            "Response tokens",
        )
    })
}

fn raw(at: i128, prompt: Prompt, output: u64, column: &str) -> Result<Raw, String> {
    let entry = Entry {
        at: 0,
        prompt,
        output_tokens: tokens(output, column)?,
        model: None,
        priority: None,
    };
    Ok(Raw {
        at: Some(at),
        entry,
        goes_on: false,
    })
}

/// A number for a name, the same on every machine (FNV-1a).
pub(super) fn name(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn rows(
    path: &Path,
    needed: &[&str],
    limit: usize,
    problems: &mut Problems,
    read: impl Fn(&Columns<'_>) -> Result<Raw, String>,
) -> io::Result<Vec<Raw>> {
    let file = File::open(path)?.take(MAX_TRACE_BYTES);
    let mut reader = ReaderBuilder::new().flexible(true).from_reader(file);
    let names = reader.headers().map_err(io::Error::other)?.clone();
    let trimmed = names
        .iter()
        .map(|name| name.trim_start_matches('\u{feff}').trim().to_owned());
    let at: HashMap<String, usize> = trimmed.zip(0..).collect();
    for name in needed.iter().filter(|name| !at.contains_key(**name)) {
        problems.add(1, format!("the header has no column {name:?}"));
    }
    let mut rows = Vec::new();
    if !problems.is_empty() {
        return Ok(rows);
    }
    let mut record = StringRecord::new();
    let mut columns = at;
    while rows.len() < limit {
        let line = reader.position().line();
        match reader.read_record(&mut record) {
            Ok(false) => break,
            Ok(true) => {
                let row = Columns {
                    at: columns,
                    record: &record,
                };
                match read(&row) {
                    Ok(raw) => rows.push(raw),
                    Err(what) => problems.add(line_of(path, record.position())?, what),
                }
                columns = row.at;
            }
            Err(error) if error.is_io_error() => return Err(io::Error::other(error)),
            Err(_) => problems.add(usize::try_from(line).unwrap_or(0), "is no UTF-8 text"),
        }
    }
    Ok(rows)
}

/// The line of a row, from 1. The reader says where it began to look for the row, and passes over empty lines.
fn line_of(path: &Path, position: Option<&Position>) -> io::Result<usize> {
    let Some(position) = position else {
        return Ok(0);
    };
    let mut file = BufReader::new(File::open(path)?);
    file.seek(SeekFrom::Start(position.byte()))?;
    let mut line = usize::try_from(position.line()).unwrap_or(0);
    for byte in file.bytes() {
        match byte? {
            b'\n' => line += 1,
            b'\r' => {}
            _ => break,
        }
    }
    Ok(line)
}

impl Columns<'_> {
    fn find(&self, name: &str) -> Option<&str> {
        self.at
            .get(name)
            .and_then(|&at| self.record.get(at))
            .map(str::trim)
    }

    fn text(&self, name: &str) -> Result<&str, String> {
        self.find(name).ok_or_else(|| format!("has no {name}"))
    }

    fn whole(&self, name: &str) -> Result<u64, String> {
        let text = self.text(name)?;
        text.parse()
            .map_err(|_| format!("{name} {} is no whole number", quote(text)))
    }
}
