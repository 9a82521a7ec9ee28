//! Formats of one JSON object a line: Mooncake's and our own.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::csv::name;
use super::{BLOCK_TOKENS, Entry, Prompt, Raw, tokens};
use crate::drive::prompt::Message;
use crate::limits::{MAX_TRACE_LINE_BYTES, MAX_TRACE_SECONDS};
use crate::problems::Problems;

/// A line of Mooncake's traces; other tools add further fields, which say nothing that is replayed here.
#[derive(Deserialize)]
struct Mooncake {
    /// Milliseconds.
    timestamp: f64,
    input_length: u64,
    output_length: u64,
    #[serde(default)]
    hash_ids: Vec<u64>,
}

/// A line of our own format. Unknown fields are refused: a misspelt one must not be ignored.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    /// Milliseconds from any moment; all lines have one, or none.
    at_ms: Option<f64>,
    /// Length of the prompt; needed where `messages` are not given.
    prompt_tokens: Option<u64>,
    /// Names of the prompt's blocks of 512 tokens.
    hash_ids: Option<Vec<u64>>,
    /// Prompts of one session grow from the same words.
    session: Option<String>,
    /// The prompt itself.
    messages: Option<Vec<Message>>,
    output_tokens: u64,
    model: Option<String>,
    priority: Option<i32>,
}

/// `{"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [...]}`, a hash for every 512 tokens.
pub(super) fn mooncake(path: &Path, limit: usize, problems: &mut Problems) -> io::Result<Vec<Raw>> {
    lines(path, limit, problems, |line: Mooncake| {
        let at = milliseconds(line.timestamp, "timestamp")?;
        let prompt = blocks(line.input_length, line.hash_ids, "input_length")?;
        let entry = Entry {
            at: 0,
            prompt,
            output_tokens: tokens(line.output_length, "output_length")?,
            model: None,
            priority: None,
        };
        Ok(Raw {
            at: Some(at),
            entry,
            goes_on: false,
        })
    })
}

/// Our own format; see [`Own`].
pub(super) fn own(path: &Path, limit: usize, problems: &mut Problems) -> io::Result<Vec<Raw>> {
    lines(path, limit, problems, |line: Own| {
        let at = line.at_ms.map(|at| milliseconds(at, "at_ms")).transpose()?;
        let prompt = match (line.messages, line.prompt_tokens, line.hash_ids) {
            (Some(messages), None, None) if !messages.is_empty() => {
                let messages: Arc<[Message]> = messages.into();
                let upto = messages.len();
                Prompt::Chat { messages, upto }
            }
            (None, Some(count), Some(ids)) if line.session.is_none() => {
                blocks(count, ids, "prompt_tokens")?
            }
            (None, Some(count), None) => Prompt::Words {
                tokens: tokens(count, "prompt_tokens")?,
                stream: line.session.as_deref().map(name),
            },
            _ => {
                let what = "needs either messages, or prompt_tokens with at most one of hash_ids and session";
                return Err(what.to_owned());
            }
        };
        let entry = Entry {
            at: 0,
            prompt,
            output_tokens: tokens(line.output_tokens, "output_tokens")?,
            model: line.model.map(Into::into),
            priority: line.priority,
        };
        Ok(Raw {
            at,
            entry,
            goes_on: false,
        })
    })
}

fn milliseconds(at: f64, field: &str) -> Result<i128, String> {
    if at.abs() <= MAX_TRACE_SECONDS * 1e3 {
        Ok((at * 1e6).round() as i128)
    } else {
        Err(format!("{field} {at:?} is no time in milliseconds"))
    }
}

/// More names than blocks would mean text that the prompt has no room for.
fn blocks(count: u64, ids: Vec<u64>, field: &str) -> Result<Prompt, String> {
    let tokens = tokens(count, field)?;
    if ids.len() as u64 > u64::from(tokens.div_ceil(BLOCK_TOKENS)) {
        return Err(format!(
            "{} hash_ids for {field} {count}: there is one for every {BLOCK_TOKENS} tokens",
            ids.len()
        ));
    }
    Ok(Prompt::Blocks {
        tokens,
        ids: ids.into(),
    })
}

fn lines<T: DeserializeOwned>(
    path: &Path,
    limit: usize,
    problems: &mut Problems,
    read: impl Fn(T) -> Result<Raw, String>,
) -> io::Result<Vec<Raw>> {
    let mut reader = BufReader::new(File::open(path)?);
    let mut rows = Vec::new();
    let mut bytes = Vec::new();
    let mut number = 0;
    while rows.len() < limit {
        bytes.clear();
        number += 1;
        let mut line = reader.by_ref().take(MAX_TRACE_LINE_BYTES);
        if line.read_until(b'\n', &mut bytes)? == 0 {
            break;
        }
        if bytes.len() as u64 == MAX_TRACE_LINE_BYTES {
            problems.add(number, "is longer than the bound of a line");
            break;
        }
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let parsed = serde_json::from_slice(&bytes).map_err(|error| in_words(&error));
        match parsed.and_then(&read) {
            Ok(raw) => rows.push(raw),
            Err(what) => problems.add(number, what),
        }
    }
    Ok(rows)
}

/// The error without serde's own line number, which is always 1 here.
pub(super) fn in_words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(at) => format!("{} (column {})", &text[..at], error.column()),
        None => text,
    }
}
