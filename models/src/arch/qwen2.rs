//! Qwen 2 and 2.5.

use super::variant::{HeadOrder, Variant, Windows};
use crate::layers::mlp::Activation;

/// Llama with biases on queries, keys and values (Yang et al. 2024, <https://arxiv.org/abs/2407.10671>). Windows are off in
/// every published file.
pub(crate) const QWEN2: Variant = Variant {
    name: "qwen2",
    folder_types: &["qwen2"],
    gguf_heads: HeadOrder::Halves,
    qkv_bias: true,
    qk_norm: false,
    post_norms: false,
    activation: Activation::Silu,
    scaled_embeddings: false,
    folder_norms_less_one: false,
    windows: Windows::None,
};
