//! One choice of one submission, as the scheduler sees it: tokens, how many of them are computed, and their blocks.

use std::sync::Arc;
use std::time::Duration;

use crate::api::Submission;
use crate::block_manager::BlockTable;
use crate::grammar::{Grammar, Guide};
use crate::history::History;

/// Number of a submission in order of arrival.
pub(crate) type RequestId = u64;

/// A sequence in order of arrival: its submission, then its choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SequenceId {
    /// The submission.
    pub(crate) request: RequestId,
    /// The choice.
    pub(crate) choice: u32,
}

/// Tokens of a prompt and its completion so far.
///
/// `computed` of them have keys and values in `table`. Prefill, decode and recompute after a preemption are one thing:
/// computing the `remaining` ones. When none remain, the model has said what comes next.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// Who it is, and who came first.
    pub(crate) id: SequenceId,
    /// What was asked.
    pub(crate) submission: Arc<Submission>,
    /// Its KV blocks.
    pub(crate) table: BlockTable,
    /// Tokens that it brings to the step in hand.
    pub(crate) scheduled: u32,
    output: Vec<u32>,
    /// What its penalties count.
    history: Option<History>,
    /// What its grammar allows next.
    guide: Option<Guide>,
    /// Tokens that the last draw brought, those that a grammar forces after it included.
    drawn: u32,
    computed: u32,
    paused_since: Option<Duration>,
}

impl Sequence {
    /// A choice that has produced nothing yet.
    pub(crate) fn new(id: SequenceId, submission: Arc<Submission>) -> Self {
        Self {
            id,
            history: History::of(&submission.prompt, &submission.sampling),
            guide: submission.grammar.as_ref().map(Grammar::guide),
            drawn: 0,
            submission,
            table: BlockTable::default(),
            scheduled: 0,
            output: Vec::new(),
            computed: 0,
            paused_since: None,
        }
    }

    /// Tokens of prompt and completion.
    pub(crate) fn len(&self) -> u32 {
        (self.submission.prompt.len() + self.output.len()) as u32
    }

    /// Tokens produced.
    pub(crate) fn produced(&self) -> u32 {
        self.output.len() as u32
    }

    /// Tokens whose keys and values are in the cache.
    pub(crate) fn computed(&self) -> u32 {
        self.computed
    }

    /// Tokens still to compute; never 0 between steps.
    pub(crate) fn remaining(&self) -> u32 {
        self.len() - self.computed
    }

    /// Whether it goes on by what the last draw brought, mostly one token; otherwise it is still to be prefilled.
    pub(crate) fn is_decoding(&self) -> bool {
        self.remaining() <= self.drawn.max(1) && !self.output.is_empty()
    }

    /// Whether the step in hand computes its last token, so that the next one is drawn.
    pub(crate) fn samples(&self) -> bool {
        self.scheduled > 0 && self.scheduled == self.remaining()
    }

    /// Whether its reader is behind.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused_since.is_some()
    }

    /// How long its reader has been behind.
    pub(crate) fn paused_for(&self, now: Duration) -> Option<Duration> {
        self.paused_since.map(|since| now.saturating_sub(since))
    }

    /// Keeps it out of steps until [`Sequence::resume`].
    pub(crate) fn pause(&mut self, now: Duration) {
        self.paused_since.get_or_insert(now);
    }

    /// Lets it into steps again.
    pub(crate) fn resume(&mut self) {
        self.paused_since = None;
    }

    /// The tokens that the step in hand computes, in order, appended to `out`.
    pub(crate) fn extend_with_scheduled(&self, out: &mut Vec<u32>) {
        let prompt = &self.submission.prompt;
        let (from, to) = (
            self.computed as usize,
            (self.computed + self.scheduled) as usize,
        );
        out.extend_from_slice(&prompt[from.min(prompt.len())..to.min(prompt.len())]);
        let output = from.saturating_sub(prompt.len())..to.saturating_sub(prompt.len());
        out.extend_from_slice(&self.output[output]);
    }

    /// The step went well: what it brought is computed.
    pub(crate) fn advance(&mut self) {
        self.computed += std::mem::take(&mut self.scheduled);
    }

    /// The model's next token. Returns those that its grammar forces after it, where `end` is the one that ends a
    /// generation; they are the caller's to [`Sequence::append`].
    pub(crate) fn push(&mut self, token: u32, end: Option<u32>) -> Vec<u32> {
        self.drawn = 0;
        self.append(token);
        let (Some(guide), Some(end)) = (&self.guide, end) else {
            return Vec::new();
        };
        guide.push(token);
        // What is forced was never drawn, so nobody would know how likely it was.
        if self.submission.sampling.logprobs.is_some() {
            return guide.end_if_over(end).into_iter().collect();
        }
        guide.force(end)
    }

    /// One more token of the last draw.
    pub(crate) fn append(&mut self, token: u32) {
        self.drawn += 1;
        self.output.push(token);
        if let Some(history) = &mut self.history {
            history.push(token);
        }
    }

    /// What its grammar allows next.
    pub(crate) fn guide(&self) -> Option<&Guide> {
        self.guide.as_ref()
    }

    /// What its penalties count.
    pub(crate) fn history(&self) -> Option<&History> {
        self.history.as_ref()
    }

    /// Its keys and values are gone: everything is to be computed again.
    pub(crate) fn forget(&mut self) {
        self.computed = 0;
        self.scheduled = 0;
    }
}
