//! Llama, and its kin by the same name in GGUF: Llama 2 and 3, Mistral, SmolLM.

use super::variant::{HeadOrder, Variant, Windows};
use crate::layers::mlp::Activation;

/// The plain form (Touvron et al. 2023, <https://arxiv.org/abs/2307.09288>). GGUF files hold queries and keys reordered, so
/// that what is rotated together lies side by side. Mistral 7B v0.1 has a window of 4,096 positions in every layer
/// (Jiang et al. 2023, <https://arxiv.org/abs/2310.06825>).
pub(crate) const LLAMA: Variant = Variant {
    name: "llama",
    folder_types: &["llama", "mistral"],
    gguf_heads: HeadOrder::Interleaved,
    qkv_bias: false,
    qk_norm: false,
    post_norms: false,
    activation: Activation::Silu,
    scaled_embeddings: false,
    folder_norms_less_one: false,
    windows: Windows::EveryLayer,
};
