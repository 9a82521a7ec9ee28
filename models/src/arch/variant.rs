//! What one architecture differs in from the others that [`super::decoder`] runs.
//!
//! Every architecture here is the same pre-norm transformer with grouped-query attention, rotary positions and a gated
//! feed-forward block; each states its differences in a file of its own, as one constant of this type.

use crate::layers::mlp::Activation;

/// The differences of one architecture.
#[derive(Debug)]
pub(crate) struct Variant {
    /// `general.architecture` of its GGUF files, and the prefix of their keys.
    pub(crate) name: &'static str,
    /// `model_type`s of its Hugging Face folders.
    pub(crate) folder_types: &'static [&'static str],
    /// How the heads of queries and keys lie in its GGUF files. Hugging Face's always lie in halves.
    pub(crate) gguf_heads: HeadOrder,
    /// Whether queries, keys and values have biases.
    pub(crate) qkv_bias: bool,
    /// Whether each head of queries and keys is normed before it is rotated.
    pub(crate) qk_norm: bool,
    /// Whether what attention and feed-forward give is normed once more before it is added.
    pub(crate) post_norms: bool,
    /// Between the two products of the feed-forward block.
    pub(crate) activation: Activation,
    /// Whether embeddings are multiplied with the square root of their width.
    pub(crate) scaled_embeddings: bool,
    /// Whether the norms of its Hugging Face folders multiply with `1 + w`; in GGUF files the sum is stored.
    pub(crate) folder_norms_less_one: bool,
    /// Which layers look only at the last positions, where the file gives a window.
    pub(crate) windows: Windows,
}

/// How the numbers of a head lie that are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadOrder {
    /// Side by side, `(2i, 2i + 1)`.
    Interleaved,
    /// In the two halves, `(i, i + half)`.
    Halves,
}

/// Which layers have a window.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Windows {
    /// No layer: a file that gives a window is refused.
    None,
    /// Every layer, with the same positions as without a window.
    EveryLayer,
    /// All but each `period`th, and those with a window rotate by a base of their own.
    AllButEach {
        /// The `period`th, twice the `period`th and so on have none, counted from 1.
        period: usize,
        /// Rotary base of the layers with a window, where the file gives none.
        rope_base: f32,
    },
}
