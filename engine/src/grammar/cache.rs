//! Compiled grammars, as many as a bound on their bytes holds; who was not asked for longest goes first.

use std::collections::HashMap;

use llguidance::Matcher;

use super::GrammarSpec;
use crate::limits::{GRAMMAR_BASE_BYTES, GRAMMAR_BYTES_PER_BYTE, GRAMMAR_CACHE_BYTES_MAX};

/// Grammars of one model as they were compiled. Nobody computes with these: they would grow.
#[derive(Default)]
pub(super) struct Cache {
    entries: HashMap<GrammarSpec, Entry>,
    bytes: usize,
    /// Counts what was asked.
    clock: u64,
}

struct Entry {
    matcher: Matcher,
    bytes: usize,
    asked_at: u64,
}

impl Cache {
    /// A copy of a grammar, with memory of its own.
    pub(super) fn get(&mut self, spec: &GrammarSpec) -> Option<Matcher> {
        self.clock += 1;
        let entry = self.entries.get_mut(spec)?;
        entry.asked_at = self.clock;
        Some(entry.matcher.deep_clone())
    }

    /// Keeps a grammar, at the cost of others.
    pub(super) fn put(&mut self, spec: GrammarSpec, matcher: Matcher) {
        let bytes = estimated_bytes(&spec);
        if bytes > GRAMMAR_CACHE_BYTES_MAX {
            return;
        }
        self.clock += 1;
        let entry = Entry {
            matcher,
            bytes,
            asked_at: self.clock,
        };
        self.bytes += bytes;
        if let Some(same) = self.entries.insert(spec, entry) {
            self.bytes -= same.bytes;
        }
        while self.bytes > GRAMMAR_CACHE_BYTES_MAX {
            self.drop_oldest();
        }
    }

    /// Bytes that the grammars are taken to need.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn drop_oldest(&mut self) {
        let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.asked_at);
        let Some(spec) = oldest.map(|(spec, _)| spec.clone()) else {
            self.bytes = 0;
            return;
        };
        if let Some(entry) = self.entries.remove(&spec) {
            self.bytes -= entry.bytes;
        }
    }
}

/// The library does not tell what a grammar takes; this is above what most of them were seen to take.
fn estimated_bytes(spec: &GrammarSpec) -> usize {
    let bytes = match spec {
        GrammarSpec::JsonSchema(text) | GrammarSpec::Regex(text) | GrammarSpec::Lark(text) => {
            text.len()
        }
        GrammarSpec::Calls(calls) => calls.bytes(),
    };
    GRAMMAR_BASE_BYTES + bytes * GRAMMAR_BYTES_PER_BYTE
}
