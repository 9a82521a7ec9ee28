//! A norm on each head of queries and keys, before they are rotated (Henry et al. 2020, <https://arxiv.org/abs/2010.04245>).

use candle_core::{Result, Tensor};

use super::attention::AttentionShape;
use super::norm::RmsNorm;

/// One norm for all heads of queries and one for all heads of keys.
#[derive(Debug)]
pub(crate) struct QkNorm {
    pub(crate) queries: RmsNorm,
    pub(crate) keys: RmsNorm,
}

impl QkNorm {
    /// Queries, keys and values side by side, `[T, qkv_width]`, to the same with queries and keys normed.
    pub(crate) fn forward(&self, qkv: &Tensor, shape: AttentionShape) -> Result<Tensor> {
        let (q_width, kv_width) = (shape.q_width(), shape.kv_width());
        let heads = |first: usize, width: usize, norm: &RmsNorm| {
            let part = qkv.narrow(1, first, width)?.contiguous()?;
            let normed = norm.forward(&part.reshape(((), shape.head_dim))?)?;
            normed.reshape(((), width))
        };
        let queries = heads(0, q_width, &self.queries)?;
        let keys = heads(q_width, kv_width, &self.keys)?;
        let values = qkv.narrow(1, q_width + kv_width, kv_width)?;
        Tensor::cat(&[queries, keys, values], 1)
    }
}
