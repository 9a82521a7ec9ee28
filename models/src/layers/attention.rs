//! Attention of a ragged step over the paged cache: rotate, write keys and values, attend.
//!
//! There are two paths with one result: plain Candle operations, which run on every device and are the reference, and
//! kernels that walk the block tables in place.

mod plain;

use candle_core::{Result, Tensor};

use super::rope::{Rope, RopeAngles};
use crate::batch::Batch;
use crate::kernels::cpu;

/// Heads of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AttentionShape {
    /// Heads of queries, a multiple of `kv_heads`.
    pub(crate) heads: usize,
    /// Heads of keys and values, each shared by a group of query heads.
    pub(crate) kv_heads: usize,
    /// Numbers in a head.
    pub(crate) head_dim: usize,
    /// Positions that a token sees, its own included; all where there is no window.
    pub(crate) window: Option<usize>,
}

impl AttentionShape {
    /// Numbers of a token's queries.
    pub(crate) fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Numbers of a token's keys, and of its values.
    pub(crate) fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Numbers of a token's queries, keys and values side by side.
    pub(crate) fn qkv_width(&self) -> usize {
        self.q_width() + 2 * self.kv_width()
    }

    /// Query heads that share one head of keys and values.
    pub(crate) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// What scores are multiplied with.
    pub(crate) fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }
}

/// Which path computes attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttentionPath {
    /// Candle operations, any device.
    Plain,
    /// Kernels for CPUs.
    Cpu,
}

impl AttentionPath {
    /// The fastest path for a device and a shape.
    pub(crate) fn select(device: &candle_core::Device, shape: AttentionShape) -> Self {
        if device.is_cpu() && shape.head_dim.is_multiple_of(cpu::ATTENTION_LANES) {
            Self::Cpu
        } else {
            Self::Plain
        }
    }
}

/// What attention needs to know of a step, prepared once and used by every layer.
pub(crate) enum AttentionStep<'a> {
    Plain(plain::PlainStep),
    Cpu(cpu::PagedStep<'a>),
}

impl<'a> AttentionStep<'a> {
    /// `batch` has been validated against the cache.
    pub(crate) fn new(
        path: AttentionPath,
        shape: AttentionShape,
        rope: &Rope,
        batch: &'a Batch,
        cache: &Tensor,
        block_size: u32,
    ) -> Result<Self> {
        let angles: RopeAngles = rope.angles(&batch.positions);
        match path {
            AttentionPath::Plain => {
                plain::PlainStep::new(shape, &angles, batch, block_size as usize, cache.device())
                    .map(Self::Plain)
            }
            AttentionPath::Cpu => Ok(Self::Cpu(cpu::PagedStep::new(
                shape,
                angles,
                batch,
                block_size as usize,
            ))),
        }
    }

    /// Rotates queries and keys, writes keys and values to the step's slots and attends: `qkv` `[T, qkv_width]` to
    /// `[T, q_width]`, both F32.
    pub(crate) fn attend(&self, qkv: &Tensor, keys: &Tensor, values: &Tensor) -> Result<Tensor> {
        match self {
            Self::Plain(step) => step.attend(qkv, keys, values),
            Self::Cpu(step) => step.attend(qkv, keys, values),
        }
    }
}
