//! Chunks that differ in their text alone.
//!
//! A stream is hundreds of chunks that are the same to the byte but for a few letters. What was read of one holds for the
//! next where all before and all behind its text is the same, and what is between is one JSON string again: then only
//! that string is read.

use std::borrow::Cow;

use super::wire::{Choice, Chunk, Text};
use crate::limits::TEMPLATE_BYTES_MAX;
use crate::upstream::Endpoint;

/// A chunk whose whole meaning is that one choice goes on with some text.
#[derive(Debug)]
pub(super) struct Template {
    choice: u32,
    /// Everything before the text's first quote.
    before: Box<[u8]>,
    /// Everything behind its last one.
    behind: Box<[u8]>,
}

impl Template {
    /// The template of a chunk that was read from `data`; `None` where it says anything beside its text.
    pub(super) fn of(data: &[u8], chunk: &Chunk<'_>, endpoint: Endpoint) -> Option<Self> {
        let beside = chunk.usage.is_some() || chunk.error.is_some() || chunk.hansa.is_some();
        let Some([choice]) = chunk.choices.as_deref().filter(|_| !beside) else {
            return None;
        };
        // Its place is known where it was borrowed, and so holds no escapes.
        let Some(Cow::Borrowed(text)) = text_alone(choice, endpoint) else {
            return None;
        };
        let start = (text.as_ptr() as usize).checked_sub(data.as_ptr() as usize)?;
        let before = data.get(..start)?.strip_suffix(b"\"")?;
        let behind = data.get(start + text.len()..)?.strip_prefix(b"\"")?;
        (before.len() + behind.len() <= TEMPLATE_BYTES_MAX).then(|| Self {
            choice: choice.index,
            before: before.into(),
            behind: behind.into(),
        })
    }

    /// The choice that goes on.
    pub(super) const fn choice(&self) -> u32 {
        self.choice
    }

    /// The text of a chunk that differs in it alone.
    pub(super) fn text(&self, data: &[u8]) -> Option<String> {
        let rest = data.strip_prefix(&*self.before)?;
        let string = rest.strip_suffix(&*self.behind)?;
        let Text(text) = serde_json::from_slice(string).ok()?;
        Some(text.into_owned())
    }
}

fn text_alone<'c>(choice: &'c Choice<'_>, endpoint: Endpoint) -> Option<&'c Cow<'c, str>> {
    let beside = choice.logprobs.is_some() || choice.hansa.is_some();
    if beside || choice.finish_reason.is_some() {
        return None;
    }
    let delta = choice.delta.as_ref();
    match (endpoint, delta, &choice.text) {
        (Endpoint::Chat, Some(delta), None) if delta.tool_calls.is_none() => delta.content.as_ref(),
        (Endpoint::Completions, None, Some(text)) => Some(text),
        _ => None,
    }
}
