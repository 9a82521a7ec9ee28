//! Paged attention in place: keys and values are written through slots and read through block tables, never gathered.
//!
//! A row's result is computed by the same operations in the same order whatever else is in the step and however its
//! prompt was cut: positions are taken in tiles counted from 0, each tile in order, and a row reads no position beyond
//! its own. Sharing a tile between the rows and heads of one sequence only saves converting it again.

use candle_core::{CpuStorage, CustomOp3, InplaceOp2, Layout, Result, Shape, Tensor};
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::elementwise::f32_slice;
use super::flash::{Tile, attend_tile};
use super::pool::for_each;
use crate::batch::Batch;
use crate::layers::attention::AttentionShape;
use crate::layers::rope::{RopeAngles, RopePairs};

/// New tokens of one sequence that share the conversion of a tile.
const TOKENS_PER_ITEM: usize = 8;

/// A step over the paged cache: what every layer's attention shares.
pub(crate) struct PagedStep<'a> {
    shape: AttentionShape,
    angles: RopeAngles,
    batch: &'a Batch,
    block_size: usize,
    runs: Vec<Run>,
}

/// Up to [`TOKENS_PER_ITEM`] tokens of one sequence, one after another.
#[derive(Debug, Clone, Copy)]
struct Run {
    sequence: usize,
    start: usize,
    tokens: usize,
}

impl<'a> PagedStep<'a> {
    /// `batch` has been validated against the cache.
    pub(crate) fn new(
        shape: AttentionShape,
        angles: RopeAngles,
        batch: &'a Batch,
        block_size: usize,
    ) -> Self {
        let mut runs = Vec::new();
        let mut start = 0;
        for (sequence, &q_len) in batch.q_lens.iter().enumerate() {
            let end = start + q_len as usize;
            while start < end {
                let tokens = TOKENS_PER_ITEM.min(end - start);
                runs.push(Run {
                    sequence,
                    start,
                    tokens,
                });
                start += tokens;
            }
        }
        Self {
            shape,
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
            rotate: true,
        };
        let value_write = CacheWrite {
            step: self,
            first: q_width + kv_width,
            rotate: false,
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
            match self.angles.pairs {
                RopePairs::Interleaved => {
                    let pairs = from.chunks_exact(2).zip(to.chunks_exact_mut(2));
                    for ((from, to), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
                        to[0] = (from[0] * cos - from[1] * sin) * scale;
                        to[1] = (from[0] * sin + from[1] * cos) * scale;
                    }
                }
            }
            for (from, to) in from.iter().zip(to).skip(rotated) {
                *to = from * scale;
            }
        }
    }
}

/// Writes columns `first ..` of `qkv` to the step's slots.
struct CacheWrite<'a> {
    step: &'a PagedStep<'a>,
    first: usize,
    rotate: bool,
}

impl InplaceOp2 for CacheWrite<'_> {
    fn name(&self) -> &'static str {
        "cpu-cache-write"
    }

    fn cpu_fwd(
        &self,
        cache: &mut CpuStorage,
        cache_layout: &Layout,
        qkv: &CpuStorage,
        qkv_layout: &Layout,
    ) -> Result<()> {
        let Some((start, end)) = cache_layout.contiguous_offsets() else {
            candle_core::bail!("the cache is not contiguous")
        };
        let qkv = f32_slice(qkv, qkv_layout)?;
        match cache {
            CpuStorage::F16(cache) => self.write(&mut cache[start..end], qkv),
            CpuStorage::F32(cache) => self.write(&mut cache[start..end], qkv),
            _ => candle_core::bail!("the cache must be F16 or F32"),
        }
        Ok(())
    }
}

impl CacheWrite<'_> {
    fn write<T: CacheNumber>(&self, cache: &mut [T], qkv: &[f32]) {
        let shape = self.step.shape;
        let width = shape.kv_width();
        let mut rotated = vec![0.0; width];
        let rows = qkv.chunks_exact(shape.qkv_width()).enumerate();
        for ((t, row), &slot) in rows.zip(&self.step.batch.slots) {
            let mut row = &row[self.first..][..width];
            if self.rotate {
                self.step.rotate(t, row, 1.0, &mut rotated);
                row = &rotated;
            }
            T::narrow(row, &mut cache[slot as usize * width..][..width]);
        }
    }
}

/// Attention of a step: `qkv`, keys, values to `[T, q_width]`.
struct PagedAttention<'a> {
    step: &'a PagedStep<'a>,
}

/// The numbers of a step's queries, keys and values side by side, and of one layer's cache.
#[derive(Debug, Clone, Copy)]
struct Inputs<'a, T> {
    qkv: &'a [f32],
    keys: &'a [T],
    values: &'a [T],
}

impl CustomOp3 for PagedAttention<'_> {
    fn name(&self) -> &'static str {
        "cpu-paged-attention"
    }

    fn cpu_fwd(
        &self,
        qkv: &CpuStorage,
        qkv_layout: &Layout,
        keys: &CpuStorage,
        keys_layout: &Layout,
        values: &CpuStorage,
        values_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let qkv = f32_slice(qkv, qkv_layout)?;
        let (Some(k), Some(v)) = (
            keys_layout.contiguous_offsets(),
            values_layout.contiguous_offsets(),
        ) else {
            candle_core::bail!("the cache is not contiguous")
        };
        let out = match (keys, values) {
            (CpuStorage::F16(keys), CpuStorage::F16(values)) => self.run(Inputs {
                qkv,
                keys: &keys[k.0..k.1],
                values: &values[v.0..v.1],
            }),
            (CpuStorage::F32(keys), CpuStorage::F32(values)) => self.run(Inputs {
                qkv,
                keys: &keys[k.0..k.1],
                values: &values[v.0..v.1],
            }),
            _ => candle_core::bail!("the cache must be F16 or F32"),
        };
        let shape = Shape::from((self.step.batch.token_count(), self.step.shape.q_width()));
        Ok((CpuStorage::F32(out), shape))
    }
}

impl PagedAttention<'_> {
    /// One item of work is a run of tokens and a head of keys. Items write to a scratch in their own order, where each
    /// owns one piece; with one token a run, that is the order of the result already.
    fn run<T: CacheNumber>(&self, inputs: Inputs<'_, T>) -> Vec<f32> {
        let shape = self.step.shape;
        let group_width = shape.group() * shape.head_dim;
        let mut scratch = vec![0.0; self.step.batch.token_count() * shape.q_width()];
        let mut rest = scratch.as_mut_slice();
        let mut items = Vec::with_capacity(self.step.runs.len() * shape.kv_heads);
        for &run in &self.step.runs {
            for head in 0..shape.kv_heads {
                let (piece, after) = rest.split_at_mut(run.tokens * group_width);
                items.push((run, head, piece));
                rest = after;
            }
        }
        for_each(items, |(run, head, out)| {
            self.attend_run(run, head, inputs, out);
        });
        if self.step.runs.iter().all(|run| run.tokens == 1) {
            return scratch;
        }
        self.in_token_order(&scratch)
    }

    /// Queries of a run against its sequence's context: `[tokens, group, head_dim]`.
    fn attend_run<T: CacheNumber>(
        &self,
        run: Run,
        head: usize,
        inputs: Inputs<'_, T>,
        out: &mut [f32],
    ) {
        let step = self.step;
        let AttentionShape { head_dim, .. } = step.shape;
        let group_width = step.shape.group() * head_dim;
        let mut queries = vec![0.0; out.len()];
        for (i, to) in queries.chunks_exact_mut(group_width).enumerate() {
            let t = run.start + i;
            let from =
                &inputs.qkv[t * step.shape.qkv_width() + head * group_width..][..group_width];
            step.rotate(t, from, step.shape.scale(), to);
        }
        let mut tile = Tile::new(head_dim, step.shape.group(), run.tokens);
        let contexts: Vec<usize> = (run.start..run.start + run.tokens)
            .map(|t| step.batch.positions[t] as usize + 1)
            .collect();
        let context_max = contexts.iter().copied().max().unwrap_or(0);
        let table = &step.batch.block_tables[run.sequence];
        let width = step.shape.kv_width();
        for first in (0..context_max).step_by(Tile::POSITIONS) {
            let positions = first..context_max.min(first + Tile::POSITIONS);
            for (row, position) in positions.enumerate() {
                let slot = table[position / step.block_size] as usize * step.block_size
                    + position % step.block_size;
                let at = slot * width + head * head_dim;
                T::widen(&inputs.keys[at..at + head_dim], tile.key_mut(row));
                T::widen(&inputs.values[at..at + head_dim], tile.value_mut(row));
            }
            attend_tile(&mut tile, first, &queries, &contexts, out);
        }
        tile.finish(out);
    }

    /// Pieces `[run][head][token]` to rows `[token][head]`.
    fn in_token_order(&self, scratch: &[f32]) -> Vec<f32> {
        let shape = self.step.shape;
        let (width, group_width) = (shape.q_width(), shape.group() * shape.head_dim);
        let mut out = vec![0.0; scratch.len()];
        let mut pieces = scratch.chunks_exact(group_width);
        for run in &self.step.runs {
            for head in 0..shape.kv_heads {
                for (t, piece) in (run.start..).zip(pieces.by_ref().take(run.tokens)) {
                    out[t * width + head * group_width..][..group_width].copy_from_slice(piece);
                }
            }
        }
        out
    }
}

/// A number type of the cache.
trait CacheNumber: Copy + Send + Sync {
    /// Converts a row to F32.
    fn widen(from: &[Self], to: &mut [f32]);
    /// Converts a row from F32, rounding to the nearest.
    fn narrow(from: &[f32], to: &mut [Self]);
}

impl CacheNumber for f32 {
    fn widen(from: &[Self], to: &mut [f32]) {
        to.copy_from_slice(from);
    }

    fn narrow(from: &[f32], to: &mut [Self]) {
        to.copy_from_slice(from);
    }
}

impl CacheNumber for f16 {
    fn widen(from: &[Self], to: &mut [f32]) {
        super::flash::widen_f16(from, to);
    }

    fn narrow(from: &[f32], to: &mut [Self]) {
        to.convert_from_f32_slice(from);
    }
}
