//! Gemma 3, text only.

use super::variant::{HeadOrder, Variant, Windows};
use crate::layers::mlp::Activation;

/// Norms before and after each block and on the heads, embeddings scaled, tanh-approximated GELU, and five layers with a
/// window to each without (Gemma Team 2025, <https://arxiv.org/abs/2503.19786>). Layers with a window rotate by the base
/// 10,000 and are not scaled to longer contexts; the others by the file's base. Scores are not capped as in Gemma 2. Norms
/// multiply with `1 + w`: GGUF files hold the sum, Hugging Face's `w`.
pub(crate) const GEMMA3: Variant = Variant {
    name: "gemma3",
    folder_types: &["gemma3_text"],
    gguf_heads: HeadOrder::Halves,
    qkv_bias: false,
    qk_norm: true,
    post_norms: true,
    activation: Activation::GeluTanh,
    scaled_embeddings: true,
    folder_norms_less_one: true,
    windows: Windows::AllButEach {
        period: 6,
        rope_base: 10_000.0,
    },
};
