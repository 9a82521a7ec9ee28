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

/// How the layers of one kind attend. Most models have one kind; those with a window in some layers have two.
#[derive(Debug)]
pub(crate) struct AttentionKind {
    pub(crate) path: AttentionPath,
    pub(crate) shape: AttentionShape,
    pub(crate) rope: Rope,
    /// Positions that a token sees, its own included; all where there is none.
    pub(crate) window: Option<usize>,
}

impl AttentionKind {
    /// `batch` has been validated against the cache.
    pub(crate) fn step<'a>(
        &self,
        batch: &'a Batch,
        cache: &Tensor,
        block_size: u32,
    ) -> Result<AttentionStep<'a>> {
        let angles: RopeAngles = self.rope.angles(&batch.positions);
        let block_size = block_size as usize;
        match self.path {
            AttentionPath::Cpu => Ok(AttentionStep::Cpu(cpu::PagedStep::new(
                self, angles, batch, block_size,
            ))),
            AttentionPath::Plain => {
                let device = cache.device();
                plain::PlainStep::new(self.shape, &angles, batch, block_size, self.window, device)
                    .map(AttentionStep::Plain)
            }
        }
    }
}

impl AttentionStep<'_> {
    /// Rotates queries and keys, writes keys and values to the step's slots and attends: `qkv` `[T, qkv_width]` to
    /// `[T, q_width]`, both F32.
    pub(crate) fn attend(&self, qkv: &Tensor, keys: &Tensor, values: &Tensor) -> Result<Tensor> {
        match self {
            Self::Plain(step) => step.attend(qkv, keys, values),
            Self::Cpu(step) => step.attend(qkv, keys, values),
        }
    }
}
