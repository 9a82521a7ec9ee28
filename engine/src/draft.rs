//! Where a sequence repeats itself: what came after its latest tokens when they stood there before.
//!
//! This is prompt lookup (Saxena, "Prompt Lookup Decoding", 2023): an answer that quotes its prompt, edits code or extracts
//! fields goes on as the text did before, so a guess costs a look into a table and no second model. One table says where
//! runs of 8, 4 and 2 tokens ended last. It holds places alone: what a slot is of, the text itself tells, and a run that found
//! no slot is only a guess that is not made. It must not know what a guess is worth: that is `speculate`.

use crate::limits::DRAFT_SLOTS_MAX;
use crate::random::splitmix64;

/// Lengths of the runs that are looked for, the longest first: the longer a run, the surer what follows it.
pub(crate) const RUNS: [usize; 3] = [8, 4, 2];

/// Slots of the first table.
const SLOTS_MIN: usize = 1 << 10;

/// Slots for each run: half empty, most runs find a slot of their own.
const SLOTS_PER_RUN: usize = 2;

/// Slots in a row that a run may have.
const NEIGHBOURS: usize = 4;

/// The tokens of a sequence: its prompt, then its completion.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text<'a> {
    /// The prompt.
    pub(crate) prompt: &'a [u32],
    /// The completion.
    pub(crate) output: &'a [u32],
}

/// Where the runs of a sequence ended last.
#[derive(Debug, Default)]
pub(crate) struct DraftIndex {
    /// By a run's hash the place right after it; 0 where there is none.
    slots: Vec<u32>,
    /// Runs that end before this place are in the table.
    known: usize,
}

/// The latest tokens stood somewhere before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    /// How many of them, as an index into [`RUNS`].
    pub(crate) run: usize,
    /// The place right after them.
    pub(crate) after: usize,
}

impl DraftIndex {
    /// The place where the longest run of latest tokens stood last.
    pub(crate) fn find(&mut self, text: Text<'_>) -> Option<Found> {
        self.make_room(text.len());
        self.learn(text);
        let place = |length: usize| {
            let slot = self.slot(text, text.len(), length)?;
            let after = self.slots[slot] as usize;
            text.repeats(text.len(), after, length).then_some(after)
        };
        let mut runs = RUNS.iter().enumerate();
        runs.find_map(|(run, &length)| place(length).map(|after| Found { run, after }))
    }

    /// A table with slots for each token, as far as its bound goes. A larger one is filled from the start, which as it
    /// doubles costs each token twice at most.
    fn make_room(&mut self, tokens: usize) {
        let wanted = tokens.saturating_mul(RUNS.len() * SLOTS_PER_RUN);
        let wanted = wanted.clamp(SLOTS_MIN, DRAFT_SLOTS_MAX);
        if self.slots.len() < wanted {
            self.slots = vec![0; wanted.next_power_of_two()];
            self.known = 0;
        }
    }

    /// Notes all runs but those at the very end, which are what is looked for.
    fn learn(&mut self, text: Text<'_>) {
        for end in self.known..text.len() {
            for length in RUNS {
                if let Some(slot) = self.slot(text, end, length) {
                    self.slots[slot] = u32::try_from(end).unwrap_or(0);
                }
            }
        }
        self.known = text.len();
    }

    /// The slot of the run of `length` tokens that ends at `end`: the one that it has, or may have. `None` where the text
    /// is not that long.
    fn slot(&self, text: Text<'_>, end: usize, length: usize) -> Option<usize> {
        let run = end.checked_sub(length)?..end;
        let hash = run.fold(length as u64, |hash, at| {
            splitmix64(hash ^ u64::from(text.at(at)))
        });
        let slot = |nth: usize| (hash as usize).wrapping_add(nth) & (self.slots.len() - 1);
        let is_its = |&slot: &usize| match self.slots[slot] as usize {
            0 => true,
            after => text.repeats(end, after, length),
        };
        let its = (0..NEIGHBOURS).map(slot).find(is_its);
        Some(its.unwrap_or_else(|| slot(0)))
    }
}

impl Text<'_> {
    /// Tokens in all.
    pub(crate) fn len(&self) -> usize {
        self.prompt.len() + self.output.len()
    }

    /// The token at a place of the text.
    fn at(&self, place: usize) -> u32 {
        match place.checked_sub(self.prompt.len()) {
            None => self.prompt[place],
            Some(place) => self.output[place],
        }
    }

    /// Whether the `length` tokens before `end` stand right before the earlier place `after` too.
    fn repeats(&self, end: usize, after: usize, length: usize) -> bool {
        let is_before = after >= length && after < end;
        is_before && (1..=length).all(|back| self.at(after - back) == self.at(end - back))
    }

    /// Appends `count` tokens to `draft`: those from `after` on, and where they reach the end what goes round again.
    pub(crate) fn extend_draft(&self, after: usize, count: usize, draft: &mut Vec<u32>) {
        draft.clear();
        for place in after..after + count {
            let token = match place.checked_sub(self.len()) {
                None => self.at(place),
                Some(place) => draft[place],
            };
            draft.push(token);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drafted(prompt: &[u32], output: &[u32], count: usize) -> Option<(usize, Vec<u32>)> {
        let text = Text { prompt, output };
        let found = DraftIndex::default().find(text)?;
        let mut draft = Vec::new();
        text.extend_draft(found.after, count, &mut draft);
        Some((RUNS[found.run], draft))
    }

    #[test]
    fn what_came_after_the_longest_run_is_drafted() {
        let prompt = [1, 2, 3, 4, 5, 6, 9, 9, 3, 4, 7];
        assert_eq!(drafted(&prompt, &[], 3), None);
        // The last 3, 4 was followed by 7; the last 1, 2, 3, 4 by 5.
        assert_eq!(drafted(&prompt, &[8, 3, 4], 1), Some((2, vec![7])));
        let quoted = [1, 2, 3, 4];
        assert_eq!(drafted(&prompt, &quoted, 3), Some((4, vec![5, 6, 9])));
    }

    #[test]
    fn a_circle_goes_round_again() {
        let draft = drafted(&[1, 2, 3], &[1, 2, 3, 1, 2], 7);
        assert_eq!(draft, Some((4, vec![3, 1, 2, 3, 1, 2, 3])));
    }

    proptest! {
        /// As a text grows, whatever is found stands where it is said to.
        #[test]
        fn nothing_is_found_that_is_not_there(
            tokens in prop::collection::vec(0..4_u32, 1..100),
            prompt in 0_usize..100,
        ) {
            let prompt = prompt.min(tokens.len());
            let mut index = DraftIndex::default();
            for end in prompt.max(1)..=tokens.len() {
                let text = Text { prompt: &tokens[..prompt.min(end)], output: &tokens[prompt.min(end)..end] };
                let found = index.find(text);
                let ends_like_it = |&after: &usize, length: usize| {
                    after >= length && tokens[..after].ends_with(&tokens[end - length..end])
                };
                let last = |length: usize| {
                    (length <= end).then(|| (1..end).rev().find(|after| ends_like_it(after, length))).flatten()
                };
                let longest = RUNS.iter().enumerate().find_map(|(run, &length)| {
                    last(length).map(|after| Found { run, after })
                });
                // A run that found no slot may be missed; what is found is there.
                prop_assert!(longest.is_some() || found.is_none());
                prop_assert!(found.is_none_or(|f| text.repeats(end, f.after, RUNS[f.run])));
            }
        }
    }

    #[test]
    fn the_table_has_a_bound_and_still_knows_the_latest_tokens() {
        let prompt: Vec<u32> = (0..100_000).collect();
        let mut index = DraftIndex::default();
        let found = index.find(Text {
            prompt: &prompt,
            output: &[99_000, 99_001],
        });
        assert_eq!(index.slots.len(), DRAFT_SLOTS_MAX);
        assert!(found.is_none_or(|found| found
            == Found {
                run: 2,
                after: 99_002
            }));
    }
}
