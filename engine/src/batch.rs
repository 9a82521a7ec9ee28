//! From the scheduler's choice to the model's input: tokens laid end to end, positions, slots and block tables.

use hansa_models::Batch;

use crate::runner::SampleRow;
use crate::sequence::Sequence;

/// Builds the batch of each step in the memory of the last one.
#[derive(Debug, Default)]
pub(crate) struct BatchBuilder {
    batch: Batch,
    /// Block tables of earlier batches, empty, for the memory they own.
    spare_tables: Vec<Vec<u32>>,
}

impl BatchBuilder {
    /// The batch of the sequences of a step, and its rows: of each sequence those that weigh its prompt, then those that
    /// draw its next tokens, one after the last token and one after each that is guessed.
    pub(crate) fn build<'a>(
        &mut self,
        scheduled: impl Iterator<Item = &'a Sequence>,
        block_size: u32,
    ) -> (&Batch, Vec<SampleRow<'a>>) {
        self.clear();
        let mut rows = Vec::new();
        for sequence in scheduled {
            let start = self.batch.tokens.len() as u32;
            self.push(sequence, block_size);
            let wanted = &mut self.batch.logit_rows;
            for position in sequence.prompt_rows() {
                wanted.push(start + position - sequence.computed());
                rows.push(prompt_row(sequence, position));
            }
            if sequence.samples() {
                let drafted = sequence.drafted();
                let last = start + sequence.scheduled - drafted - 1;
                wanted.extend(last..=last + drafted);
                rows.extend((0..=drafted).map(|ahead| sample_row(sequence, ahead)));
            }
        }
        (&self.batch, rows)
    }

    fn clear(&mut self) {
        for mut table in self.batch.block_tables.drain(..) {
            table.clear();
            self.spare_tables.push(table);
        }
        self.batch.clear();
    }

    fn push(&mut self, sequence: &Sequence, block_size: u32) {
        let positions = sequence.computed()..sequence.computed() + sequence.scheduled;
        let blocks = sequence.table.blocks();
        sequence.extend_with_scheduled(&mut self.batch.tokens);
        for position in positions.clone() {
            let block = blocks[(position / block_size) as usize];
            self.batch
                .slots
                .push(block * block_size + position % block_size);
        }
        self.batch.q_lens.push(sequence.scheduled);
        self.batch.kv_lens.push(positions.end);
        self.batch.positions.extend(positions);
        let mut table = self.spare_tables.pop().unwrap_or_default();
        table.extend_from_slice(blocks);
        self.batch.block_tables.push(table);
    }
}

/// The draw of the token after the first `ahead` guessed ones.
fn sample_row(sequence: &Sequence, ahead: u32) -> SampleRow<'_> {
    SampleRow {
        sampling: &sequence.submission.sampling,
        stop: &sequence.submission.stop,
        history: sequence.history(),
        guide: sequence.guide(),
        seed: sequence.submission.seed,
        choice: sequence.id.choice,
        index: sequence.produced() + ahead,
        drafted: &sequence.draft()[..ahead as usize],
        given: None,
    }
}

/// How likely the token of the prompt after `position` was.
fn prompt_row(sequence: &Sequence, position: u32) -> SampleRow<'_> {
    SampleRow {
        history: None,
        guide: None,
        index: 0,
        drafted: &[],
        given: sequence
            .submission
            .prompt
            .get(position as usize + 1)
            .copied(),
        ..sample_row(sequence, 0)
    }
}
