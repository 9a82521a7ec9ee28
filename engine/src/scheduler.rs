//! Which sequences go into the next step, and with how many tokens.
//!
//! Pure code over numbers: no tensor, no clock, no channel, nothing that can fail. The rule is vLLM v1's: there is no
//! prefill phase and no decode phase, only sequences with tokens still to compute and a token budget for the step.
//! Decodes come first, so that nobody's stream stalls behind a long prompt; what is left of the budget goes to prompts,
//! in chunks, in order of arrival.
//!
//! **Why it cannot starve or lock.** Both lists are kept in order of arrival, and room is taken from the newest. So the
//! oldest sequence that is not paused always goes on, and every one becomes the oldest in time. A prompt gets all its
//! blocks when it is admitted, so two half-prefilled prompts cannot wait for each other; only a decode can run out of
//! blocks.

use std::collections::VecDeque;
use std::time::Duration;

use crate::block_manager::BlockManager;
use crate::limits::PAUSE_KEEPS_BLOCKS;
use crate::runner::RowOutcome;
use crate::sequence::{RequestId, Sequence, SequenceId};

/// Sequences of one engine and its KV blocks.
#[derive(Debug)]
pub(crate) struct Scheduler {
    sequences_max: usize,
    step_tokens_max: u32,
    blocks: BlockManager,
    /// Without blocks, in order of arrival: new ones and preempted ones.
    waiting: VecDeque<Sequence>,
    /// With blocks, in order of arrival.
    running: Vec<Sequence>,
}

/// What a step holds in all; each sequence's own share is its `scheduled`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// Tokens of prompts, and of sequences that are computed again.
    pub(crate) prefill_tokens: u32,
    /// Sequences that go on by one token.
    pub(crate) decodes: u32,
    /// Sequences that lost their blocks to it.
    pub(crate) preemptions: u32,
}

/// What becomes of a sequence after its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It wants another one.
    GoesOn,
    /// It gives its blocks back.
    Ends,
}

impl Step {
    /// Tokens of the step.
    pub(crate) fn tokens(&self) -> u32 {
        self.prefill_tokens + self.decodes
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.tokens() == 0
    }
}

impl Scheduler {
    /// A scheduler over `blocks`. Every running sequence must have room to decode in each step, so `step_tokens_max`
    /// bounds the running ones too.
    pub(crate) fn new(sequences_max: u32, step_tokens_max: u32, blocks: BlockManager) -> Self {
        let step_tokens_max = step_tokens_max.max(1);
        Self {
            sequences_max: sequences_max.clamp(1, step_tokens_max) as usize,
            step_tokens_max,
            blocks,
            waiting: VecDeque::new(),
            running: Vec::new(),
        }
    }

    /// Puts a new sequence at the end of the line. It must fit the cache alone, prompt and completion, or it would wait
    /// forever.
    pub(crate) fn enqueue(&mut self, sequence: Sequence) {
        assert!(
            self.waiting.back().is_none_or(|last| last.id < sequence.id),
            "sequences arrive in order"
        );
        self.waiting.push_back(sequence);
    }

    /// Fills the next step.
    pub(crate) fn schedule(&mut self, now: Duration) -> Step {
        let mut step = Step::default();
        self.schedule_decodes(&mut step);
        self.schedule_forced(&mut step);
        self.schedule_prefills(&mut step);
        if step.preemptions == 0 {
            self.admit(now, &mut step);
        }
        step
    }

    /// One token for every sequence that decodes. The oldest take blocks from the newest where none is free.
    fn schedule_decodes(&mut self, step: &mut Step) {
        let mut index = 0;
        while let Some(sequence) = self.running.get_mut(index) {
            let decodes = sequence.is_decoding() && !sequence.is_paused();
            if decodes && !self.blocks.grow(sequence.len(), &mut sequence.table) {
                // The victim may be this sequence: then it was the last one.
                let victim = self.preempt_newest();
                step.preemptions += 1;
                index -= usize::from(victim < index);
                continue;
            }
            if decodes {
                sequence.scheduled = 1;
                step.decodes += 1;
            }
            index += 1;
        }
    }

    /// The rest of what the last draw of a decoding sequence brought, as far as the budget goes: its blocks are there.
    fn schedule_forced(&mut self, step: &mut Step) {
        for sequence in self.running.iter_mut().filter(|s| s.scheduled > 0) {
            let forced = sequence.remaining() - sequence.scheduled;
            let scheduled = forced.min(self.step_tokens_max - step.tokens());
            sequence.scheduled += scheduled;
            step.prefill_tokens += scheduled;
        }
    }

    /// Chunks of prompts that were admitted earlier, as far as the budget goes. Their blocks are theirs already.
    fn schedule_prefills(&mut self, step: &mut Step) {
        for sequence in &mut self.running {
            if !sequence.is_decoding() && !sequence.is_paused() {
                sequence.scheduled = sequence
                    .remaining()
                    .min(self.step_tokens_max - step.tokens());
                step.prefill_tokens += sequence.scheduled;
            }
        }
    }

    /// Sequences from the line, strictly in order: one that does not fit is waited for, or long prompts would starve.
    fn admit(&mut self, now: Duration, step: &mut Step) {
        while step.tokens() < self.step_tokens_max {
            let Some(next) = self.waiting.iter().position(|s| !s.is_paused()) else {
                return;
            };
            if self.fits(&self.waiting[next]) {
                self.start(next, step);
            } else if let Some(idle) = self.long_paused(now) {
                self.preempt(idle);
                step.preemptions += 1;
            } else {
                return;
            }
        }
    }

    /// Whether a sequence can start without soon taking blocks from those that run: each of them may need another one.
    fn fits(&self, sequence: &Sequence) -> bool {
        let growing = self.running.iter().filter(|s| !s.is_paused()).count() as u32;
        let wanted = self.blocks.blocks_for(sequence.len());
        self.running.len() < self.sequences_max && wanted + growing <= self.blocks.free()
    }

    /// Moves a sequence from the line into the step.
    fn start(&mut self, waiting_index: usize, step: &mut Step) {
        let Some(mut sequence) = self.waiting.remove(waiting_index) else {
            return;
        };
        let granted = self.blocks.grow(sequence.len(), &mut sequence.table);
        assert!(granted, "a sequence starts only where its blocks are free");
        sequence.scheduled = sequence
            .remaining()
            .min(self.step_tokens_max - step.tokens());
        step.prefill_tokens += sequence.scheduled;
        let place = self.running.partition_point(|other| other.id < sequence.id);
        self.running.insert(place, sequence);
    }

    /// The newest sequence whose reader has been behind for so long that others may have its place.
    fn long_paused(&self, now: Duration) -> Option<usize> {
        let is_long = |s: &Sequence| s.paused_for(now).is_some_and(|t| t >= PAUSE_KEEPS_BLOCKS);
        self.running.iter().rposition(is_long)
    }

    /// Takes the blocks of the newest sequence, a paused one first since nobody misses its tokens. Returns where it was.
    fn preempt_newest(&mut self) -> usize {
        let newest_paused = self.running.iter().rposition(Sequence::is_paused);
        let victim = newest_paused.unwrap_or(self.running.len() - 1);
        self.preempt(victim);
        victim
    }

    /// Puts a running sequence back in line, at its place; what it had computed is computed again.
    fn preempt(&mut self, running_index: usize) {
        let mut sequence = self.running.remove(running_index);
        self.blocks.release(&mut sequence.table);
        sequence.forget();
        let place = self.waiting.partition_point(|other| other.id < sequence.id);
        self.waiting.insert(place, sequence);
    }

    /// The sequences of the step in hand, in the order of its batch.
    pub(crate) fn scheduled(&self) -> impl Iterator<Item = &Sequence> {
        self.running.iter().filter(|s| s.scheduled > 0)
    }

    /// Books a step that went well: `outcomes` are those of the sequences that sampled, in the order of
    /// [`Scheduler::scheduled`]; `settle` says for each what becomes of it, and for each token that a grammar forces after
    /// it too. `end` is the token that ends a generation.
    pub(crate) fn advance(
        &mut self,
        outcomes: &[RowOutcome],
        end: Option<u32>,
        mut settle: impl FnMut(SequenceId, &RowOutcome) -> Fate,
    ) {
        let mut outcomes = outcomes.iter();
        self.running.retain_mut(|sequence| {
            let samples = sequence.samples();
            sequence.advance();
            let Some(outcome) = samples.then(|| outcomes.next()).flatten() else {
                return true;
            };
            let goes_on = say(sequence, outcome, end, &mut settle) == Fate::GoesOn;
            if !goes_on {
                self.blocks.release(&mut sequence.table);
            }
            goes_on
        });
    }

    /// Forgets all sequences of a submission and frees their blocks.
    pub(crate) fn remove(&mut self, request: RequestId) {
        self.waiting
            .retain(|sequence| sequence.id.request != request);
        self.running.retain_mut(|sequence| {
            let stays = sequence.id.request != request;
            if !stays {
                self.blocks.release(&mut sequence.table);
            }
            stays
        });
    }

    /// Keeps the sequences of a submission out of steps: its reader is behind.
    pub(crate) fn pause(&mut self, request: RequestId, now: Duration) {
        self.each_of(request, |sequence| sequence.pause(now));
    }

    /// Lets the sequences of a submission into steps again.
    pub(crate) fn resume(&mut self, request: RequestId) {
        self.each_of(request, Sequence::resume);
    }

    fn each_of(&mut self, request: RequestId, mut f: impl FnMut(&mut Sequence)) {
        let all = self.waiting.iter_mut().chain(&mut self.running);
        all.filter(|s| s.id.request == request).for_each(&mut f);
    }

    /// Sequences in line, in order of arrival.
    pub(crate) fn waiting(&self) -> &VecDeque<Sequence> {
        &self.waiting
    }

    /// Sequences with blocks, in order of arrival.
    pub(crate) fn running(&self) -> &[Sequence] {
        &self.running
    }

    /// Sequences that may run at once.
    pub(crate) fn sequences_max(&self) -> usize {
        self.sequences_max
    }

    /// The KV blocks.
    pub(crate) fn blocks(&self) -> &BlockManager {
        &self.blocks
    }

    /// Tokens still to prefill, running and waiting.
    pub(crate) fn waiting_prefill_tokens(&self) -> u64 {
        let all = self.waiting.iter().chain(&self.running);
        let prefilling = all.filter(|s| !s.is_decoding());
        prefilling.map(|s| u64::from(s.remaining())).sum()
    }
}

/// Gives a sequence what was drawn for it, and what must follow, until it ends.
fn say(
    sequence: &mut Sequence,
    outcome: &RowOutcome,
    end: Option<u32>,
    settle: &mut impl FnMut(SequenceId, &RowOutcome) -> Fate,
) -> Fate {
    let Some(token) = outcome.token() else {
        return settle(sequence.id, outcome);
    };
    let forced = sequence.push(token, end);
    let mut fate = settle(sequence.id, outcome);
    for token in forced {
        if fate == Fate::GoesOn {
            sequence.append(token);
            fate = settle(sequence.id, &RowOutcome::Token(token));
        }
    }
    fate
}
