//! Paged attention in place: keys and values are written through slots and read through block tables, never gathered.
//!
//! The bytes of a block are ordered for these kernels: values by head, position, number; keys by head, number, position,
//! so that one register holds the same number of 16 keys and a score needs no sum across lanes.
//!
//! A row's result is computed by the same operations in the same order whatever else is in the step and however its
//! prompt was cut: positions are taken in tiles and chunks counted from 0, and a row uses no position beyond its own.

mod cache_number;
mod flash;
mod read;
mod write;

use candle_core::{Result, Tensor};

use crate::batch::Batch;
use crate::layers::attention::{AttentionKind, AttentionShape};
use crate::layers::rope::RopeAngles;
use read::PagedAttention;
use write::{CachePart, CacheWrite};

/// New tokens of one sequence that share the conversion of a tile.
const TOKENS_PER_RUN: usize = 32;

/// A step over the paged cache: what every layer's attention shares.
pub(crate) struct PagedStep<'a> {
    shape: AttentionShape,
    window: Option<usize>,
    angles: RopeAngles,
    batch: &'a Batch,
    block_size: usize,
    runs: Vec<Run>,
}

/// Up to [`TOKENS_PER_RUN`] tokens of one sequence, one after another.
#[derive(Debug, Clone, Copy)]
struct Run {
    sequence: usize,
    start: usize,
    tokens: usize,
}

impl<'a> PagedStep<'a> {
    /// `batch` has been validated against the cache.
    pub(crate) fn new(
        kind: &AttentionKind,
        angles: RopeAngles,
        batch: &'a Batch,
        block_size: usize,
    ) -> Self {
        let mut runs = Vec::new();
        let mut start = 0;
        for (sequence, &q_len) in batch.q_lens.iter().enumerate() {
            let end = start + q_len as usize;
            while start < end {
                let tokens = TOKENS_PER_RUN.min(end - start);
                runs.push(Run {
                    sequence,
                    start,
                    tokens,
                });
                start += tokens;
            }
        }
        Self {
            shape: kind.shape,
            window: kind.window,
            angles,
            batch,
            block_size,
            runs,
        }
    }

    /// As [`crate::layers::attention::AttentionStep::attend`].
    pub(crate) fn attend(&self, qkv: &Tensor, keys: &Tensor, values: &Tensor) -> Result<Tensor> {
        let (q_width, kv_width) = (self.shape.q_width(), self.shape.kv_width());
        let key_write = CacheWrite {
            step: self,
            first: q_width,
            part: CachePart::Keys,
        };
        let value_write = CacheWrite {
            step: self,
            first: q_width + kv_width,
            part: CachePart::Values,
        };
        keys.inplace_op2(qkv, &key_write)?;
        values.inplace_op2(qkv, &value_write)?;
        qkv.apply_op3_no_bwd(keys, values, &PagedAttention { step: self })
    }

    /// Copies the heads at the start of `from` to `to`, rotated to the position of token `t` and multiplied with `scale`.
    fn rotate(&self, t: usize, from: &[f32], scale: f32, to: &mut [f32]) {
        let (cos, sin) = self.angles.row(t);
        let rotated = 2 * self.angles.width;
        let head_dim = self.shape.head_dim;
        for (from, to) in from
            .chunks_exact(head_dim)
            .zip(to.chunks_exact_mut(head_dim))
        {
            let pairs = from.chunks_exact(2).zip(to.chunks_exact_mut(2));
            for ((from, to), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
                to[0] = (from[0] * cos - from[1] * sin) * scale;
                to[1] = (from[0] * sin + from[1] * cos) * scale;
            }
            for (from, to) in from.iter().zip(to).skip(rotated) {
                *to = from * scale;
            }
        }
    }
}
