//! The shape of a model, as far as those who feed it must know.

/// Dimensions of a loaded model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSpec {
    /// Architecture as GGUF names it, for example `llama`.
    pub architecture: String,
    /// Width of the logits: every token id in or out is below it.
    pub vocab_size: u32,
    /// Positions that the model was trained for: prompt and completion together.
    pub context_len: u32,
    /// Transformer layers.
    pub layers: u32,
    /// Heads of keys and values in a layer.
    pub kv_heads: u32,
    /// Width of one head.
    pub head_dim: u32,
}

/// Number type of cached keys and values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KvType {
    /// Half precision: half the memory and bandwidth.
    #[default]
    F16,
    /// Single precision.
    F32,
}

impl KvType {
    /// Bytes of one number.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}

impl ModelSpec {
    /// Bytes that one token's keys and values take over all layers.
    #[must_use]
    pub fn kv_bytes_per_token(&self, kv_type: KvType) -> u64 {
        2 * u64::from(self.layers)
            * u64::from(self.kv_heads)
            * u64::from(self.head_dim)
            * kv_type.bytes()
    }
}
