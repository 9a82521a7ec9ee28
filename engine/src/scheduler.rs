//! Which sequences go into the next step, and with how many tokens.
//!
//! Pure code over numbers: no tensor, no clock, no channel, nothing that can fail. The rule is vLLM v1's: there is no
//! prefill phase and no decode phase, only sequences with tokens still to compute and a token budget for the step.
//! Decodes come first, so that nobody's stream stalls behind a long prompt; what is left of the budget, and of the time
//! that decodes may be kept waiting (`pace`), goes to prompts in chunks: the higher class first, of one class the flow
//! that was served least (`flows`), of one flow the earliest.
//!
//! **Why it cannot starve or lock.** Room is taken from the last in rank, so the first in rank that is not paused always
//! goes on, and of one class every sequence becomes the first in time. Where class or flow keep an old sequence from its
//! prefill for long, it gets the first pick of every eighth step, and until it has its room nobody else is let in; once
//! in, it counts as of the highest class. A prompt gets all its blocks when it is admitted, so two half-prefilled prompts
//! cannot wait for each other; only a decode can run out of blocks.

mod drafts;
mod room;
mod settle;
pub(crate) mod step;

use std::collections::VecDeque;
use std::time::Duration;

use crate::api::Priority;
use crate::block_manager::{BlockManager, BlockTable};
use crate::flows::Flows;
use crate::limits::{AGES_AFTER, PASSED_OVER_MAX, PROMPT_ROWS_MAX};
use crate::pace::Pace;
use crate::runner::RowOutcome;
use crate::sequence::{RequestId, Sequence, SequenceId};

use step::Step;

/// Sequences of one engine and its KV blocks.
#[derive(Debug)]
pub(crate) struct Scheduler {
    sequences_max: usize,
    step_tokens_max: u32,
    blocks: BlockManager,
    /// Without blocks, in order of arrival: new ones and preempted ones.
    waiting: VecDeque<Sequence>,
    /// With blocks, in order of rank.
    running: Vec<Sequence>,
    flows: Flows,
    pace: Pace,
    /// Steps with prefills since the oldest sequence had the first pick.
    passed_over: u32,
    counts: Counts,
    speculation: Speculation,
}

/// Bounds of what is guessed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Speculation {
    /// Tokens that one sequence guesses at most in a step; 0 guesses nothing.
    pub(crate) draft_tokens_max: u32,
    /// Tokens of prompt and completion together: nothing is guessed beyond.
    pub(crate) context_len: u32,
}

/// Tokens since the start; those of prompts counted when a sequence first starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Looked for in the prefix cache.
    pub(crate) looked_up: u64,
    /// Found there.
    pub(crate) found: u64,
    /// Tokens guessed.
    pub(crate) drafted: u64,
    /// Of these, guessed right.
    pub(crate) accepted: u64,
}

/// What became of a row, as its request takes it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Word<'a> {
    /// How likely the next token of the prompt was.
    Prompt(&'a RowOutcome),
    /// The next token of the completion.
    Next(&'a RowOutcome),
}

/// What becomes of a sequence after its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It wants another one.
    GoesOn,
    /// It gives its blocks back.
    Ends,
}

/// Who picks first among those with tokens to prefill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// The higher class, then the flow that was served least.
    ByShare,
    /// The oldest, who waited for too long.
    ByArrival,
}

/// A sequence with tokens to prefill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Candidate {
    /// Index among the running ones.
    Running(usize),
    Waiting(SequenceId),
}

/// Filling a step.
impl Scheduler {
    /// A scheduler over `blocks`. Every running sequence must have room to decode in each step, so `step_tokens_max`
    /// bounds the running ones too.
    pub(crate) fn new(
        sequences_max: u32,
        step_tokens_max: u32,
        blocks: BlockManager,
        pace: Pace,
    ) -> Self {
        let step_tokens_max = step_tokens_max.max(1);
        Self {
            sequences_max: sequences_max.clamp(1, step_tokens_max) as usize,
            step_tokens_max,
            blocks,
            waiting: VecDeque::new(),
            running: Vec::new(),
            flows: Flows::default(),
            pace,
            passed_over: 0,
            counts: Counts::default(),
            speculation: Speculation::default(),
        }
    }

    /// The same, with sequences that guess.
    pub(crate) fn with_speculation(self, speculation: Speculation) -> Self {
        Self {
            speculation,
            ..self
        }
    }

    /// Fills the next step.
    pub(crate) fn schedule(&mut self, now: Duration) -> Step {
        let mut step = Step::default();
        self.schedule_decodes(&mut step);
        self.schedule_forced(&mut step);
        self.schedule_prefills(now, &mut step);
        self.schedule_drafts(&mut step);
        step
    }

    /// One token for every sequence that decodes. The first in rank take blocks from the last where none is free.
    fn schedule_decodes(&mut self, step: &mut Step) {
        let mut index = 0;
        while let Some(sequence) = self.running.get_mut(index) {
            let decodes = sequence.is_decoding() && !sequence.is_paused();
            if decodes && !self.blocks.grow(sequence.len(), &mut sequence.table) {
                // The victim may be this sequence: then it was the last one.
                let victim = self.preempt_last(step);
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

    /// The rest of what the last draw of a decoding sequence brought, as far as the step goes: its blocks are there.
    fn schedule_forced(&mut self, step: &mut Step) {
        for sequence in self.running.iter_mut().filter(|s| s.scheduled > 0) {
            let forced = sequence.remaining() - sequence.scheduled;
            let scheduled = forced.min(self.step_tokens_max - step.tokens());
            sequence.scheduled += scheduled;
            step.forced_tokens += scheduled;
        }
    }

    /// Chunks of prompts, of those that run and of those that can start, as far as the budget goes.
    fn schedule_prefills(&mut self, now: Duration, step: &mut Step) {
        let room = self.step_tokens_max - step.tokens();
        let budget = room.min(self.pace.prefill_tokens_max(step.decodes));
        let oldest = self.oldest_prefill();
        let order = self.order(oldest, now);
        // Where decodes fought for room nobody is let in.
        let mut admits = step.preemptions == 0;
        while step.prefill_tokens < budget {
            let index = match self.next_prefill(order, admits, step) {
                None => break,
                Some(Candidate::Running(index)) => index,
                Some(Candidate::Waiting(id)) if self.make_room(id, now, step) => {
                    self.start(id, order)
                }
                // It is waited for, or long prompts would starve.
                Some(Candidate::Waiting(_)) => {
                    admits = false;
                    continue;
                }
            };
            self.take_chunk(index, budget, step);
        }
        self.note_order(order, oldest.map(|(id, _)| id), step);
    }

    /// The sequence that picks next; none of the waiting ones where nobody is let in, and none that weighs its prompt where
    /// no rows are left for that.
    fn next_prefill(&self, order: Order, admits: bool, step: &Step) -> Option<Candidate> {
        let has_rows = step.prompt_rows < PROMPT_ROWS_MAX;
        let key = |s: &Sequence| match order {
            Order::ByShare => (s.priority, self.flows.served(s.submission.flow), s.id),
            Order::ByArrival => (Priority::Interactive, 0, s.id),
        };
        let running = self.running.iter().enumerate();
        let running = running.filter(|(_, s)| s.scheduled == 0 && is_prefilling(s));
        let running = running.filter(|(_, s)| has_rows || !s.weighs_prompt());
        let running = running.map(|(index, s)| (key(s), Candidate::Running(index)));
        let waiting = self.waiting.iter().filter(|s| admits && self.may_start(s));
        let waiting = waiting.filter(|s| has_rows || !s.submission.prompt_logprobs);
        let waiting = waiting.map(|s| (key(s), Candidate::Waiting(s.id)));
        let first = running.chain(waiting).min_by_key(|&(key, _)| key);
        first.map(|(_, candidate)| candidate)
    }

    /// Whether a waiting sequence has a reader, and no other choice of its submission is computing what both can share, or
    /// weighing the prompt for both.
    fn may_start(&self, sequence: &Sequence) -> bool {
        let shareable = sequence.shareable(self.blocks.block_size());
        let sibling = |other: &Sequence| {
            let is_busy = other.computed() < shareable || other.weighs_prompt();
            other.id.request == sequence.id.request && is_busy
        };
        let shares = shareable > 0 || sequence.submission.prompt_logprobs;
        let is_first = sequence.id.choice == 0 || !shares;
        !sequence.is_paused() && (is_first || !self.running.iter().any(sibling))
    }

    /// Gives a running sequence what the budget leaves, and charges its flow for what is computed the first time.
    fn take_chunk(&mut self, index: usize, budget: u32, step: &mut Step) {
        let sequence = &mut self.running[index];
        sequence.scheduled = sequence.remaining().min(budget - step.prefill_tokens);
        if sequence.weighs_prompt() {
            let rows_left = PROMPT_ROWS_MAX - step.prompt_rows;
            sequence.scheduled = sequence.scheduled.min(rows_left);
            step.prompt_rows += sequence.prompt_rows().len() as u32;
        }
        step.prefill_tokens += sequence.scheduled;
        let due = sequence.charge_until(sequence.computed() + sequence.scheduled);
        self.flows.charge_input(sequence.submission.flow, due);
    }

    /// The oldest sequence with tokens to prefill, and when it came.
    fn oldest_prefill(&self) -> Option<(SequenceId, Duration)> {
        let running = self.running.iter().filter(|s| is_prefilling(s));
        let waiting = self.waiting.iter().find(|s| self.may_start(s));
        let oldest = running.chain(waiting).min_by_key(|s| s.id);
        oldest.map(|s| (s.id, s.arrived))
    }

    /// By arrival once in a while, provided that somebody has waited for long.
    fn order(&self, oldest: Option<(SequenceId, Duration)>, now: Duration) -> Order {
        let is_old = oldest.is_some_and(|(_, at)| now.saturating_sub(at) >= AGES_AFTER);
        if is_old && self.passed_over >= PASSED_OVER_MAX {
            Order::ByArrival
        } else {
            Order::ByShare
        }
    }

    /// Counts the steps in which the oldest did not pick first.
    fn note_order(&mut self, order: Order, oldest: Option<SequenceId>, step: &Step) {
        let was_served = |s: &Sequence| Some(s.id) == oldest && s.scheduled > 0;
        match order {
            Order::ByShare => self.passed_over += u32::from(step.prefill_tokens > 0),
            Order::ByArrival if self.running.iter().any(was_served) => self.passed_over = 0,
            Order::ByArrival => {}
        }
    }

    /// Learns how long a step took.
    pub(crate) fn observe(&mut self, step: Step, took: Duration) {
        self.pace.observe(step, took);
    }
}

fn is_prefilling(sequence: &Sequence) -> bool {
    !sequence.is_decoding() && !sequence.is_paused()
}

/// What happened to sequences.
impl Scheduler {
    /// The sequences of the step in hand, in the order of its batch.
    pub(crate) fn scheduled(&self) -> impl Iterator<Item = &Sequence> {
        self.running.iter().filter(|s| s.scheduled > 0)
    }

    /// Takes a sequence out of the step in hand.
    pub(crate) fn unschedule(&mut self, id: SequenceId) {
        let sequence = self.running.iter_mut().find(|s| s.id == id);
        sequence.into_iter().for_each(Sequence::unschedule);
    }

    /// Lends a free block that nobody can find; `None` where there is none.
    pub(crate) fn with_spare_block<T>(&mut self, f: impl FnOnce(u32) -> T) -> Option<T> {
        let mut table = BlockTable::new(0);
        let granted = self.blocks.grow(1, &mut table);
        let result = granted.then(|| f(table.blocks()[0]));
        self.blocks.release(&mut table);
        result
    }

    /// Forgets all sequences of a submission and frees their blocks.
    pub(crate) fn remove(&mut self, request: RequestId) {
        let (blocks, flows) = (&mut self.blocks, &mut self.flows);
        let mut stays = |sequence: &mut Sequence| {
            let stays = sequence.id.request != request;
            if !stays {
                blocks.release(&mut sequence.table);
                flows.leave(sequence.submission.flow);
            }
            stays
        };
        self.waiting.retain_mut(&mut stays);
        self.running.retain_mut(&mut stays);
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
}

/// Figures.
impl Scheduler {
    /// Sequences in line, in order of arrival.
    pub(crate) fn waiting(&self) -> &VecDeque<Sequence> {
        &self.waiting
    }

    /// Sequences with blocks, in order of rank.
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

    /// Prompt tokens looked for and found in the prefix cache.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// Tokens still to prefill, running and waiting.
    pub(crate) fn waiting_prefill_tokens(&self) -> u64 {
        let all = self.waiting.iter().chain(&self.running);
        let prefilling = all.filter(|s| !s.is_decoding());
        prefilling.map(|s| u64::from(s.remaining())).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::tests::model::submission;

    #[test]
    fn who_leaves_a_step_takes_its_own_tokens_along() {
        let whole = Step {
            prefill_tokens: 20,
            decodes: 2,
            forced_tokens: 6,
            ..Step::default()
        };
        let left = |produced: usize, forced: u32, scheduled: u32| {
            let mut submission = submission(1, 9, 40);
            submission.resume = vec![vec![1; produced]];
            let id = SequenceId {
                request: 0,
                choice: 0,
            };
            let mut sequence = Sequence::new(id, Arc::new(submission), Duration::ZERO);
            if forced > 0 {
                sequence.scheduled = sequence.remaining();
                sequence.advance();
                sequence.push(1, None);
                (1..forced).for_each(|_| sequence.append(1));
            }
            sequence.scheduled = scheduled;
            let mut step = whole;
            step.take_out(&sequence);
            step
        };
        // One that is prefilled while others were forced.
        let step = left(0, 0, 8);
        assert_eq!(
            (step.prefill_tokens, step.decodes, step.forced_tokens),
            (12, 2, 6)
        );
        // One that goes on by a token, and by three of which two were forced.
        let step = left(0, 1, 1);
        assert_eq!(
            (step.prefill_tokens, step.decodes, step.forced_tokens),
            (20, 1, 6)
        );
        let step = left(0, 3, 3);
        assert_eq!(
            (step.prefill_tokens, step.decodes, step.forced_tokens),
            (20, 1, 4)
        );
        assert_eq!(left(0, 3, 0), whole);
    }
}
