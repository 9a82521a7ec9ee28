//! Recorded loads: what was asked for and when, read from the formats of the field into one shape. Every line that
//! cannot be read is named with its number; nothing is left out in silence.
//!
//! Knows nothing of clocks and sockets. Most traces hold lengths and no texts; prompts of the same lengths, with the
//! same shared beginnings, are made from the seed.

mod csv;
mod jsonl;
mod sharegpt;
mod timestamp;

use std::path::Path;
use std::sync::Arc;

use crate::clock::Nanos;
use crate::drive::prompt::{Message, Role};
use crate::limits::{MAX_ARRIVALS, MAX_DURATION, MAX_TOKENS};
use crate::problems::Problems;
use crate::rng::SplitMix64;
use crate::workload::{Place, text};

/// A recorded load, in the order in which its requests came.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    entries: Vec<Entry>,
    /// Index of the first entry of each session.
    starts: Vec<usize>,
    /// It says when requests came.
    timed: bool,
}

/// One recorded request.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// When it came, after the first one.
    pub at: Nanos,
    /// What it said.
    pub prompt: Prompt,
    /// Length of its answer; at least 1.
    pub output_tokens: u32,
    /// The model it asked for, where replays keep it.
    pub model: Option<Arc<str>>,
    /// Its priority.
    pub priority: Option<i32>,
}

/// What is known of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// Its length. Prompts of one stream begin with the same words; without one, nothing is shared.
    Words {
        /// Words.
        tokens: u32,
        /// What it grows from.
        stream: Option<u64>,
    },
    /// Its length and the names of its blocks: equal names stand for equal text.
    Blocks {
        /// Words.
        tokens: u32,
        /// Names, from the beginning.
        ids: Box<[u64]>,
    },
    /// All of it: the first `upto` messages of a chat.
    Chat {
        /// The whole chat.
        messages: Arc<[Message]>,
        /// Messages up to the one that is answered.
        upto: usize,
    },
}

/// The formats that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Azure LLM inference traces of 2023 and 2024, CSV.
    Azure,
    /// BurstGPT, CSV.
    Burstgpt,
    /// Mooncake (FAST'25), JSON lines.
    Mooncake,
    /// ShareGPT conversations, JSON. Says nothing of times.
    Sharegpt,
    /// This program's own, JSON lines.
    Jsonl,
}

/// How much of a trace is played, and how fast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cut {
    /// Times are multiplied by this: 0.5 plays an hour in half an hour.
    pub time_scale: f64,
    /// At most this many requests, from the beginning.
    pub limit: usize,
}

/// Tokens of a block of Mooncake's traces.
pub const BLOCK_TOKENS: u32 = 512;

/// Family of draws.
const THINNING: u64 = 0x7468_696e;

/// An entry as a format gives it: its time is not yet relative to the first.
struct Raw {
    /// Nanoseconds from any moment.
    at: Option<i128>,
    entry: Entry,
    /// It goes on from the entry before.
    goes_on: bool,
}

impl Trace {
    /// Reads a trace.
    ///
    /// # Errors
    /// Every line that cannot be read, or the one reason why the file cannot.
    pub fn load(path: &Path, format: Format, cut: Cut) -> Result<Self, Problems> {
        let mut problems = Problems::new(path);
        // One more than may be, so that a longer file is told and not cut off in silence.
        let limit = cut.limit.min(MAX_ARRIVALS as usize + 1);
        let raw = match format {
            Format::Azure => csv::azure(path, limit, &mut problems),
            Format::Burstgpt => csv::burstgpt(path, limit, &mut problems),
            Format::Mooncake => jsonl::mooncake(path, limit, &mut problems),
            Format::Jsonl => jsonl::own(path, limit, &mut problems),
            Format::Sharegpt => sharegpt::read(path, limit, &mut problems),
        };
        let raw = raw.map_err(|error| Problems::one(path, format!("cannot be read: {error}")))?;
        let trace = Self::of(raw, cut.time_scale, &mut problems);
        problems.or(trace)
    }

    fn of(mut raw: Vec<Raw>, time_scale: f64, problems: &mut Problems) -> Self {
        let timed = raw.first().is_some_and(|first| first.at.is_some());
        if raw.iter().any(|raw| raw.at.is_some() != timed) {
            problems.add(0, "some requests have a time and some have none");
        }
        if raw.is_empty() && problems.is_empty() {
            problems.add(0, "holds no request");
        }
        if raw.len() as u64 > MAX_ARRIVALS {
            problems.add(
                0,
                format!("holds more than {MAX_ARRIVALS} requests; set a limit"),
            );
        }
        // Some recorders write requests down when they end. A stable sort loses none of them.
        raw.sort_by_key(|raw| raw.at);
        let first = raw.first().and_then(|raw| raw.at).unwrap_or(0);
        let mut starts = Vec::new();
        let mut entries = Vec::with_capacity(raw.len());
        for Raw {
            at,
            mut entry,
            goes_on,
        } in raw
        {
            entry.at = ((at.unwrap_or(first) - first) as f64 * time_scale).round() as Nanos;
            if !goes_on || entries.is_empty() {
                starts.push(entries.len());
            }
            entries.push(entry);
        }
        if entries
            .last()
            .is_some_and(|last: &Entry| u128::from(last.at) > MAX_DURATION.as_nanos())
        {
            problems.add(
                0,
                "lasts more than 24h; set a limit or a smaller time_scale",
            );
        }
        Self {
            entries,
            starts,
            timed,
        }
    }

    /// A load of these requests, each a session of its own, whose times are already relative; they are put in order.
    pub fn timed(mut entries: Vec<Entry>) -> Self {
        entries.sort_by_key(|entry| entry.at);
        let first = entries.first().map_or(0, |entry| entry.at);
        entries.iter_mut().for_each(|entry| entry.at -= first);
        Self {
            starts: (0..entries.len()).collect(),
            entries,
            timed: true,
        }
    }

    /// One of so many requests, drawn from a seed, at their times. Requests of one session, or whose prompts grow from the same
    /// words, stay or go together, so that caches find as much as before.
    #[must_use]
    pub fn thinned(&self, by: u32, seed: u64) -> Self {
        let mut kept = Self {
            entries: Vec::new(),
            starts: Vec::new(),
            timed: self.timed,
        };
        for (session, &start) in self.starts.iter().enumerate() {
            let end = self.starts.get(session + 1).copied();
            let turns = &self.entries[start..end.unwrap_or(self.entries.len())];
            let stream = turns.first().and_then(|entry| entry.prompt.stream());
            let name = stream.unwrap_or(session as u64);
            if SplitMix64::for_item(seed ^ THINNING, name).next_unit() * f64::from(by) < 1.0 {
                kept.starts.push(kept.entries.len());
                kept.entries.extend_from_slice(turns);
            }
        }
        kept
    }

    /// All requests, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether it says when requests came.
    pub fn is_timed(&self) -> bool {
        self.timed
    }

    /// Number of sessions.
    pub fn sessions(&self) -> u64 {
        self.starts.len() as u64
    }

    /// Turns of a session; zero for one that does not exist.
    pub fn turns(&self, session: u64) -> u32 {
        let session = usize::try_from(session).unwrap_or(usize::MAX);
        let Some(&start) = self.starts.get(session) else {
            return 0;
        };
        let end = self.starts.get(session + 1).copied();
        u32::try_from(end.unwrap_or(self.entries.len()) - start).unwrap_or(u32::MAX)
    }

    /// The request at `place`.
    pub fn entry(&self, place: Place) -> Option<&Entry> {
        let start = self.starts.get(usize::try_from(place.session).ok()?)?;
        self.entries.get(start + place.turn as usize)
    }

    /// Where request number `index` stands.
    pub fn place(&self, index: u64) -> Place {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let session = self
            .starts
            .partition_point(|&start| start <= index)
            .saturating_sub(1);
        let start = self.starts.get(session).copied().unwrap_or(0);
        Place {
            session: session as u64,
            turn: u32::try_from(index.saturating_sub(start)).unwrap_or(u32::MAX),
        }
    }
}

impl Prompt {
    /// The seed of the words it grows from, where it shares them.
    pub fn stream(&self) -> Option<u64> {
        match self {
            Self::Words { stream, .. } => *stream,
            Self::Blocks { .. } | Self::Chat { .. } => None,
        }
    }

    /// The text: `own` makes words that are this prompt's alone (or its stream's), `block` those of a named block.
    pub fn messages(&self, mut own: SplitMix64, block: impl Fn(u64) -> SplitMix64) -> Vec<Message> {
        match self {
            Self::Words { tokens, .. } => vec![Role::User.says(text::prompt(&mut own, *tokens))],
            Self::Blocks { tokens, ids } => {
                let mut words = String::new();
                let mut left = *tokens;
                for &id in ids {
                    let count = left.min(BLOCK_TOKENS);
                    text::push_words(&mut words, &mut block(id), count);
                    left -= count;
                }
                text::push_words(&mut words, &mut own, left);
                vec![Role::User.says(words)]
            }
            Self::Chat { messages, upto } => messages.iter().take(*upto).cloned().collect(),
        }
    }
}

/// A count of tokens as traces give it. A recorded zero stands for a request that failed or said nothing; it was load
/// all the same, so the least that can be asked for takes its place.
fn tokens(count: u64, name: &str) -> Result<u32, String> {
    match u32::try_from(count.max(1)) {
        Ok(count) if count <= MAX_TOKENS => Ok(count),
        _ => Err(format!("{name} is {count}, more than {MAX_TOKENS}")),
    }
}

#[cfg(test)]
mod tests;
