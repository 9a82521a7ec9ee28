//! Qwen 3, the dense models.

use super::variant::{HeadOrder, Variant, Windows};
use crate::layers::mlp::Activation;

/// Qwen 2 without the biases and with a norm on each head of queries and keys (Yang et al. 2025,
/// <https://arxiv.org/abs/2505.09388>). A head's size is its own, not the width divided by the heads.
pub(crate) const QWEN3: Variant = Variant {
    name: "qwen3",
    folder_types: &["qwen3"],
    gguf_heads: HeadOrder::Halves,
    qkv_bias: false,
    qk_norm: true,
    post_norms: false,
    activation: Activation::Silu,
    scaled_embeddings: false,
    folder_norms_less_one: false,
    windows: Windows::None,
};
