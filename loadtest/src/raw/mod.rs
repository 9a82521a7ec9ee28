//! What is kept of every request of a run, or of a sample of them, and the way back: what `--raw` writes and `compare`
//! reads. Holds no prompt and no answer.
//!
//! This file is a run as its file tells it, and [`file`] what a run writes to; a file has a line of JSON for each request
//! ([`lines`]), or is one of Parquet ([`parquet`]) where its name ends so.

pub mod file;
mod line;
mod lines;
mod parquet;
mod reservoir;

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use self::file::RawFile;
use self::line::Line;
use crate::drive::record::Record;
use crate::limits::MAX_COMPARED;
use crate::problems::Problems;

/// Name and version, by which a file of ours is known.
pub const SCHEMA: &str = "hansa-loadtest/raw/1";

/// How a run ended; only one that came to its report has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tail {
    /// The client was the bottleneck.
    pub client_bound: bool,
    /// It was stopped early.
    pub interrupted: bool,
    /// Requests of the run, where the file holds a sample of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampled_from: Option<u64>,
}

/// A run as its raw file tells it.
#[derive(Debug, Clone)]
pub struct Run {
    /// Requests that were good or failed, in the order in which they were due.
    pub requests: Vec<Request>,
    /// Requests that the client gave up, as it was told to.
    pub aborted: u64,
    /// The client was the bottleneck.
    pub client_bound: bool,
    /// It was stopped early.
    pub interrupted: bool,
    /// Requests of the run for each one here: 1, but for samples.
    pub weight: f64,
}

/// A judged request as [`Record`] defines its latencies; they count only where it was good.
#[derive(Debug, Clone)]
pub struct Request {
    /// What is known of it.
    pub record: Record,
    /// It was good.
    pub good: bool,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            requests: Vec::new(),
            aborted: 0,
            client_bound: false,
            interrupted: false,
            weight: 1.0,
        }
    }
}

impl Run {
    /// Reads a raw file, whatever its format.
    ///
    /// # Errors
    /// Every line that is none of such a file; a file without an end is that of a run that broke down.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        let unreadable = |error: io::Error| Problems::one(path, format!("cannot be read: {error}"));
        let mut file = File::open(path).map_err(unreadable)?;
        let is_parquet = begins_with(&mut file, parquet::MAGIC).map_err(unreadable)?;
        let mut run = Self::default();
        let tail = if is_parquet {
            parquet::read(file, path, &mut run)?
        } else {
            lines::read(file, path, &mut run)?
        };
        run.end(&tail);
        Ok(run)
    }

    /// Whether requests of the run are missing here.
    #[must_use]
    pub fn is_sample(&self) -> bool {
        self.weight > 1.0
    }

    /// Takes a request in.
    ///
    /// # Errors
    /// There are more than a comparison holds.
    fn take(&mut self, line: Line<'_>) -> Result<(), String> {
        if line.is_aborted() {
            self.aborted += 1;
        } else {
            self.requests.push(line.request());
        }
        match self.requests.len() {
            0..=MAX_COMPARED => Ok(()),
            _ => Err(format!("has more than {MAX_COMPARED} requests")),
        }
    }

    fn end(&mut self, tail: &Tail) {
        (self.client_bound, self.interrupted) = (tail.client_bound, tail.interrupted);
        let kept = self.requests.len() as f64 + self.aborted as f64;
        let all = tail.sampled_from.map_or(kept, |all| all as f64);
        self.weight = if kept > 0.0 { all / kept } else { 1.0 };
        self.requests
            .sort_by_key(|request| request.record.stamps.intended);
    }
}

/// Whether a file begins with these bytes; it is read from its beginning afterwards.
fn begins_with(file: &mut File, magic: &[u8]) -> io::Result<bool> {
    let mut first = Vec::new();
    file.by_ref()
        .take(magic.len() as u64)
        .read_to_end(&mut first)?;
    file.rewind()?;
    Ok(first == magic)
}

/// What is said of another file.
fn not_ours() -> String {
    format!("is no raw file of this program ({SCHEMA})")
}

#[cfg(test)]
mod tests;
