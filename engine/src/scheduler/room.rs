//! Who gets KV blocks and a seat, and who gives them back for it.

use std::time::Duration;

use super::{Order, Scheduler, Step};
use crate::api::Priority;
use crate::limits::PAUSE_KEEPS_BLOCKS;
use crate::sequence::{Sequence, SequenceId};

/// Giving room and taking it.
impl Scheduler {
    /// Puts a new sequence in line. It must fit the cache alone, prompt and completion, or it would wait forever.
    pub(crate) fn enqueue(&mut self, sequence: Sequence) {
        assert!(
            self.waiting.back().is_none_or(|last| last.id < sequence.id),
            "sequences arrive in order"
        );
        self.flows.enter(sequence.submission.flow);
        self.waiting.push_back(sequence);
    }

    /// Whether a waiting sequence has room, at the cost of those who were paused for long, and where it is interactive of
    /// those who are not.
    pub(super) fn make_room(&mut self, id: SequenceId, now: Duration, step: &mut Step) -> bool {
        loop {
            let Some(index) = self.index_in_line(id) else {
                return false;
            };
            let idle = self.long_paused(now);
            let interactive = self.waiting[index].priority == Priority::Interactive;
            let yielding = interactive.then(|| self.last_of_batch()).flatten();
            let has_seat = self.running.len() < self.sequences_max;
            // Looking for its blocks costs time, and would be for nothing.
            if !has_seat && idle.is_none() && yielding.is_none() {
                return false;
            }
            let taken = self.blocks_taken(index);
            if has_seat && self.fits(taken) {
                return true;
            }
            let yielding = yielding.filter(|_| self.suffices_to_yield(taken));
            let Some(victim) = idle.or(yielding) else {
                return false;
            };
            self.preempt(victim, step);
        }
    }

    /// Free blocks that a waiting sequence would take.
    fn blocks_taken(&mut self, waiting_index: usize) -> u32 {
        let sequence = &mut self.waiting[waiting_index];
        let found = sequence.found_in(&self.blocks);
        self.blocks.blocks_taken(sequence.len(), &found)
    }

    /// Whether a sequence can start without soon taking blocks from those that run: each of them may need another one.
    fn fits(&self, blocks_taken: u32) -> bool {
        let growing = self.running.iter().filter(|s| !s.is_paused()).count() as u32;
        blocks_taken + growing <= self.blocks.free()
    }

    /// The last in rank of those who yield to an interactive sequence.
    fn last_of_batch(&self) -> Option<usize> {
        let last = self.running.len().checked_sub(1)?;
        yields(&self.running[last]).then_some(last)
    }

    /// Whether a sequence would fit if all who may did yield to it.
    fn suffices_to_yield(&self, blocks_taken: u32) -> bool {
        let (yielding, staying): (Vec<_>, Vec<_>) = self.running.iter().partition(|s| yields(s));
        let given: u32 = yielding.iter().map(|s| s.table.len()).sum();
        let growing = staying.iter().filter(|s| !s.is_paused()).count() as u32;
        blocks_taken + growing <= self.blocks.free() + given
    }

    /// Moves a sequence from the line to those that run, with the blocks of its beginning that are computed already.
    pub(super) fn start(&mut self, id: SequenceId, order: Order) -> usize {
        let index = self.index_in_line(id);
        let sequence = index.and_then(|index| self.waiting.remove(index));
        #[expect(clippy::expect_used, reason = "room was made for one in line")]
        let mut sequence = sequence.expect("it was in line");
        if order == Order::ByArrival {
            // It waited so long that nobody may take its place now.
            sequence.priority = Priority::Interactive;
        }
        let found = sequence.found_in(&self.blocks);
        if sequence.adopt(&found, &mut self.blocks) && sequence.id.choice == 0 {
            self.counts.looked_up += u64::from(sequence.prompt_len());
            self.counts.found += u64::from(sequence.cached());
        }
        let granted = self.blocks.grow(sequence.len(), &mut sequence.table);
        assert!(granted, "a sequence starts only where its blocks are free");
        let rank = sequence.rank();
        let place = self.running.partition_point(|other| other.rank() < rank);
        self.running.insert(place, sequence);
        place
    }

    /// The last sequence in rank whose reader has been behind for so long that others may have its place.
    fn long_paused(&self, now: Duration) -> Option<usize> {
        let is_long = |s: &Sequence| s.paused_for(now).is_some_and(|t| t >= PAUSE_KEEPS_BLOCKS);
        self.running.iter().rposition(is_long)
    }

    /// Takes the blocks of the last sequence in rank, a paused one first since nobody misses its tokens. Returns where it
    /// was.
    pub(super) fn preempt_last(&mut self, step: &mut Step) -> usize {
        let last_paused = self.running.iter().rposition(Sequence::is_paused);
        let victim = last_paused.unwrap_or(self.running.len() - 1);
        self.preempt(victim, step);
        victim
    }

    /// Puts a running sequence back in line, at its place; what it had computed is computed again, unless it is found.
    fn preempt(&mut self, running_index: usize, step: &mut Step) {
        let mut sequence = self.running.remove(running_index);
        step.take_out(&sequence);
        step.preemptions += 1;
        self.blocks.release(&mut sequence.table);
        sequence.forget();
        let place = self.waiting.partition_point(|other| other.id < sequence.id);
        self.waiting.insert(place, sequence);
    }

    fn index_in_line(&self, id: SequenceId) -> Option<usize> {
        self.waiting.binary_search_by_key(&id, |s| s.id).ok()
    }
}

fn yields(sequence: &Sequence) -> bool {
    sequence.priority == Priority::Batch
}
