//! One ragged step: the tokens of many sequences laid end to end, and where their keys and values live.

use crate::spec::ModelSpec;

/// The input of one forward pass over `S` sequences with `T` tokens in all.
///
/// A sequence brings one token when it decodes, many when it prefills a chunk of its prompt; the model sees no
/// difference. Keys and values lie in a paged cache outside the model: token `t` writes its own to `slots[t]`, and
/// attention of sequence `s` reads the first `kv_lens[s]` positions through `block_tables[s]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Token ids, `[T]`, the sequences one after another.
    pub tokens: Vec<u32>,
    /// Position of each token in its sequence, `[T]`, counted from 0.
    pub positions: Vec<u32>,
    /// Slot of the KV cache that each token writes, `[T]`: `block * block_size + offset in block`.
    pub slots: Vec<u32>,
    /// Tokens that each sequence brings to this step, `[S]`; they sum to `T`.
    pub q_lens: Vec<u32>,
    /// Context length of each sequence after this step, `[S]`, so `kv_lens[s] >= q_lens[s]`.
    pub kv_lens: Vec<u32>,
    /// KV blocks of each sequence in order of position, `[S]`, each at least `ceil(kv_lens[s] / block_size)` long.
    pub block_tables: Vec<Vec<u32>>,
    /// Rows of `tokens` whose logits are wanted, `[R]`, ascending. Rows that only prefill cost no output projection.
    pub logit_rows: Vec<u32>,
}

impl Batch {
    /// Number of tokens in the step, `T`.
    #[must_use]
    pub fn token_count(&self) -> usize {
        self.tokens.len()
    }

    /// Number of sequences in the step, `S`.
    #[must_use]
    pub fn sequence_count(&self) -> usize {
        self.q_lens.len()
    }

    /// Empties the batch and keeps its memory for the next step.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.slots.clear();
        self.q_lens.clear();
        self.kv_lens.clear();
        self.block_tables.clear();
        self.logit_rows.clear();
    }

    /// Checks that the parts fit together, the model and a cache of `slots` slots, so that a forward pass reads and
    /// writes nothing outside them.
    ///
    /// # Errors
    /// [`BatchError`] names the part that does not fit.
    pub fn validate(
        &self,
        spec: &ModelSpec,
        block_size: u32,
        slots: usize,
    ) -> Result<(), BatchError> {
        self.validate_lengths()?;
        self.validate_tokens(spec, slots)?;
        let blocks = slots / block_size.max(1) as usize;
        let mut positions = self.positions.iter();
        for s in 0..self.q_lens.len() {
            self.validate_sequence(s, spec, block_size, blocks)?;
            let (q_len, kv_len) = (self.q_lens[s], self.kv_lens[s]);
            let in_order = (kv_len - q_len..kv_len).all(|p| positions.next() == Some(&p));
            ensure(
                in_order,
                "positions are not the last ones of their sequence",
            )?;
        }
        Ok(())
    }

    fn validate_lengths(&self) -> Result<(), BatchError> {
        let (tokens, sequences) = (self.tokens.len(), self.q_lens.len());
        let q_total = self.q_lens.iter().map(|&q| q as usize).sum::<usize>();
        ensure(tokens > 0, "there is no token")?;
        ensure(
            self.positions.len() == tokens,
            "positions are not as many as tokens",
        )?;
        ensure(
            self.slots.len() == tokens,
            "slots are not as many as tokens",
        )?;
        ensure(
            q_total == tokens,
            "the lengths of the sequences do not sum to the tokens",
        )?;
        ensure(
            self.kv_lens.len() == sequences,
            "context lengths are not as many as sequences",
        )?;
        ensure(
            self.block_tables.len() == sequences,
            "block tables are not as many as sequences",
        )
    }

    fn validate_tokens(&self, spec: &ModelSpec, slots: usize) -> Result<(), BatchError> {
        let known = self.tokens.iter().all(|&id| id < spec.vocab_size);
        ensure(known, "a token id is outside the vocabulary")?;
        let cached = self.slots.iter().all(|&slot| (slot as usize) < slots);
        ensure(cached, "a slot is outside the cache")?;
        ensure(
            self.logit_rows.is_sorted_by(|a, b| a < b),
            "rows of logits are not ascending",
        )?;
        let rows = self
            .logit_rows
            .iter()
            .all(|&row| (row as usize) < self.tokens.len());
        ensure(rows, "a row of logits is no token")
    }

    fn validate_sequence(
        &self,
        s: usize,
        spec: &ModelSpec,
        block_size: u32,
        blocks: usize,
    ) -> Result<(), BatchError> {
        let (q_len, kv_len, table) = (self.q_lens[s], self.kv_lens[s], &self.block_tables[s]);
        let brings = q_len > 0 && q_len <= kv_len;
        ensure(
            brings,
            "a sequence brings no token or more than its context",
        )?;
        ensure(
            kv_len <= spec.context_len,
            "a sequence is longer than the model's context",
        )?;
        ensure(block_size > 0, "blocks have no size")?;
        let reaches = table.len() >= kv_len.div_ceil(block_size) as usize;
        ensure(reaches, "a block table is too short")?;
        let inside = table.iter().all(|&block| (block as usize) < blocks);
        ensure(inside, "a block is outside the cache")
    }
}

fn ensure(holds: bool, what: &'static str) -> Result<(), BatchError> {
    if holds { Ok(()) } else { Err(BatchError(what)) }
}

/// Why a batch was refused: the engine that made it has a fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the batch is malformed: {0}")]
pub struct BatchError(&'static str);
