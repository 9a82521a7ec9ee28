//! Guessed tokens in a step: only what nobody else has a use for.

use super::{Scheduler, Step};
use crate::sequence::Sequence;

/// Guessing.
impl Scheduler {
    /// Guesses for those that decode, the first in rank first. They come last in a step, after decodes and prompts have
    /// what is theirs; the step's budget and its time hold for them too, and no block is taken from anyone for a guess.
    pub(super) fn schedule_drafts(&mut self, step: &mut Step) {
        if self.speculation.draft_tokens_max == 0 || step.decodes == 0 {
            return;
        }
        let price = self.pace.draft_price(step.decodes);
        let in_time = self.pace.draft_tokens_max(*step);
        let mut room = in_time.min(self.step_tokens_max - step.tokens());
        for index in 0..self.running.len() {
            if room == 0 {
                return;
            }
            let max = self.draft_max(&self.running[index]).min(room);
            if max == 0 {
                continue;
            }
            let sequence = &mut self.running[index];
            sequence.guess(max, price);
            let wanted = sequence.drafted();
            let count = self.make_draft_room(index, wanted);
            self.running[index].schedule_draft(count);
            self.counts.drafted += u64::from(count);
            step.drafted_tokens += count;
            room -= count;
        }
    }

    /// Tokens that a sequence may guess: with one more that is drawn they stay within its length and the context.
    fn draft_max(&self, sequence: &Sequence) -> u32 {
        if !sequence.is_decoding() || !sequence.samples() {
            return 0;
        }
        let submission = &sequence.submission;
        let by_length = submission
            .stop
            .max_tokens
            .saturating_sub(sequence.produced());
        let by_context = self.speculation.context_len.saturating_sub(sequence.len());
        let left = by_length.min(by_context).saturating_sub(1);
        left.min(self.speculation.draft_tokens_max)
    }

    /// As many of the wanted tokens as its blocks hold, with free ones where the others' next tokens do not need them.
    fn make_draft_room(&mut self, index: usize, wanted: u32) -> u32 {
        let growing = self.running.iter().filter(|s| !s.is_paused()).count() as u32;
        let sequence = &mut self.running[index];
        let tokens = sequence.len() + wanted;
        let missing = self
            .blocks
            .blocks_for(tokens)
            .saturating_sub(sequence.table.len());
        let has_room = missing == 0
            || missing + growing <= self.blocks.free()
                && self.blocks.grow(tokens, &mut sequence.table);
        if has_room {
            return wanted;
        }
        let held = sequence.table.len() * self.blocks.block_size();
        wanted.min(held - sequence.len())
    }
}
