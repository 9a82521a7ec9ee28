//! One ragged step: the tokens of many sequences laid end to end, and where their keys and values live.

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
}
