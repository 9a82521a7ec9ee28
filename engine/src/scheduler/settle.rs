//! What a step that went well brought: computed tokens, drawn ones, and guesses that were right or not.

use super::{Fate, Scheduler, Word};
use crate::runner::RowOutcome;
use crate::sequence::Sequence;

/// Booking.
impl Scheduler {
    /// Books a step that went well: `outcomes` are those of its rows, in the order of [`Scheduler::scheduled`] and of each
    /// sequence in the order of its batch; `settle` says for each token what becomes of its sequence, and for each one that
    /// a grammar forces after it too. `end` is the token that ends a generation.
    pub(crate) fn advance(
        &mut self,
        outcomes: &[RowOutcome],
        end: Option<u32>,
        mut settle: impl FnMut(&Sequence, Word<'_>) -> Fate,
    ) {
        let mut rest = outcomes;
        let (blocks, flows, counts) = (&mut self.blocks, &mut self.flows, &mut self.counts);
        self.running.retain_mut(|sequence| {
            let weighed = sequence.prompt_rows().len();
            let outcomes;
            (outcomes, rest) = rest.split_at(sequence.rows().min(rest.len()));
            let (weighed, drawn) = outcomes.split_at(weighed.min(outcomes.len()));
            let before = sequence.produced();
            sequence.advance();
            let mut fate = weigh(sequence, weighed, &mut settle);
            if fate == Fate::GoesOn {
                fate = say_all(sequence, drawn, end, &mut settle);
            }
            counts.accepted += u64::from(sequence.check(before));
            sequence.publish(blocks);
            let sure = weighed.iter().chain(drawn.first());
            if sure.into_iter().any(|o| *o == RowOutcome::InvalidLogits) {
                blocks.hide(&sequence.table);
            }
            let said = sequence.produced() - before;
            flows.charge_output(sequence.submission.flow, said);
            if fate == Fate::Ends {
                blocks.release(&mut sequence.table);
                flows.leave(sequence.submission.flow);
            }
            fate == Fate::GoesOn
        });
    }
}

/// Tells how likely the tokens of a prompt were.
fn weigh(
    sequence: &Sequence,
    weighed: &[RowOutcome],
    settle: &mut impl FnMut(&Sequence, Word<'_>) -> Fate,
) -> Fate {
    let ends = |outcome| settle(sequence, Word::Prompt(outcome)) == Fate::Ends;
    if weighed.iter().any(ends) {
        Fate::Ends
    } else {
        Fate::GoesOn
    }
}

/// Gives a sequence the draws that stand on what was really said: the first one, and each that follows a right guess.
fn say_all(
    sequence: &mut Sequence,
    drawn: &[RowOutcome],
    end: Option<u32>,
    settle: &mut impl FnMut(&Sequence, Word<'_>) -> Fate,
) -> Fate {
    let before = sequence.produced();
    let Some(first) = drawn.first() else {
        return Fate::GoesOn;
    };
    let mut fate = say(sequence, first, end, settle);
    while fate == Fate::GoesOn {
        let row = sequence.confirmed(before);
        // Where nothing could be drawn on a guess, the next step has the last word: it draws the same without one.
        let Some(next) = row
            .and_then(|row| drawn.get(row))
            .filter(|o| o.token().is_some())
        else {
            break;
        };
        fate = say(sequence, next, end, settle);
    }
    fate
}

/// Gives a sequence what was drawn for it, and what must follow, until it ends.
fn say(
    sequence: &mut Sequence,
    outcome: &RowOutcome,
    end: Option<u32>,
    settle: &mut impl FnMut(&Sequence, Word<'_>) -> Fate,
) -> Fate {
    let Some(token) = outcome.token() else {
        return settle(sequence, Word::Next(outcome));
    };
    let forced = sequence.push(token, end);
    let mut fate = settle(sequence, Word::Next(outcome));
    for token in forced {
        if fate == Fate::GoesOn {
            sequence.append(token);
            fate = settle(sequence, Word::Next(&RowOutcome::Token(token)));
        }
    }
    fate
}
