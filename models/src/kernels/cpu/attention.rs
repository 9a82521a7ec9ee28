//! Paged attention in place: keys and values are written through slots and read through block tables, never gathered.
//!
//! The bytes of a block are ordered for these kernels: values by head, position, number; keys by head, number, position,
//! so that one register holds the same number of 16 keys and a score needs no sum across lanes.
//!
//! A row's result is computed by the same operations in the same order whatever else is in the step and however its
//! prompt was cut: positions are taken in tiles and chunks counted from 0, and a row uses no position beyond its own.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp3, InplaceOp2, Layout, Result, Shape, Tensor};
use half::f16;

use super::elementwise::f32_slice;
use super::flash::{Rows, Tile, attend_tile};
use super::matmul::{Finish, OutPtr, written};
use super::pool::{for_each, pieces_max};
use super::simd::{LANES, Simd, simd_dispatch};
use crate::batch::Batch;
use crate::layers::attention::{AttentionKind, AttentionShape};
use crate::layers::rope::RopeAngles;

/// New tokens of one sequence that share the conversion of a tile.
const TOKENS_PER_RUN: usize = 32;
/// Positions whose share of a row's result is summed on its own, so that several threads can read one long context.
const CHUNK: usize = 256;

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

/// Writes columns `first ..` of `qkv` to the step's slots.
struct CacheWrite<'a> {
    step: &'a PagedStep<'a>,
    first: usize,
    part: CachePart,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CachePart {
    Keys,
    Values,
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
        let AttentionShape { head_dim, .. } = self.step.shape;
        let block_size = self.step.block_size;
        let width = self.step.shape.kv_width();
        let mut rotated = vec![0.0; width];
        let rows = qkv.chunks_exact(self.step.shape.qkv_width()).enumerate();
        for ((t, row), &slot) in rows.zip(&self.step.batch.slots) {
            let (block, offset) = (slot as usize / block_size, slot as usize % block_size);
            let block = &mut cache[block * block_size * width..][..block_size * width];
            let heads = block.chunks_exact_mut(block_size * head_dim);
            let row = &row[self.first..][..width];
            match self.part {
                CachePart::Keys => {
                    self.step.rotate(t, row, 1.0, &mut rotated);
                    for (row, head) in rotated.chunks_exact(head_dim).zip(heads) {
                        let to = head[offset..].iter_mut().step_by(block_size);
                        to.zip(row).for_each(|(to, &from)| *to = T::narrow(from));
                    }
                }
                CachePart::Values => {
                    for (row, head) in row.chunks_exact(head_dim).zip(heads) {
                        let to = &mut head[offset * head_dim..][..head_dim];
                        to.iter_mut()
                            .zip(row)
                            .for_each(|(to, &from)| *to = T::narrow(from));
                    }
                }
            }
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

/// A piece of work: a run of tokens, a head of keys, and the positions to look at.
struct Item {
    run: Run,
    head: usize,
    positions: Range<usize>,
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
    fn run<T: CacheNumber>(&self, inputs: Inputs<'_, T>) -> Vec<f32> {
        let shape = self.step.shape;
        let len = self.step.batch.token_count() * shape.q_width();
        let whole: Vec<Item> = self.items().collect();
        let run = |out| {
            if whole.len() < pieces_max() {
                return self.run_in_chunks(&whole, inputs, out);
            }
            for_each(whole.iter().collect(), |item| {
                let rows = self.attend(item, inputs);
                self.store(item, rows, out);
            });
        };
        #[expect(unsafe_code, reason = "see SAFETY")]
        // SAFETY: the runs are all tokens of the step, and a run's items all heads.
        unsafe {
            written(len, shape.q_width(), run)
        }
    }

    /// Few sequences: several threads read one context, and their shares are added up in the order of positions.
    fn run_in_chunks<T: CacheNumber>(&self, whole: &[Item], inputs: Inputs<'_, T>, out: OutPtr) {
        let chunks: Vec<Vec<Item>> = whole.iter().map(Item::chunks).collect();
        let mut shares: Vec<Vec<Option<Rows>>> = chunks
            .iter()
            .map(|chunks| chunks.iter().map(|_| None).collect())
            .collect();
        let pairs = chunks
            .iter()
            .flatten()
            .zip(shares.iter_mut().flatten())
            .collect();
        for_each(pairs, |(item, share): (&Item, &mut Option<Rows>)| {
            *share = Some(self.attend(item, inputs));
        });
        for (item, shares) in whole.iter().zip(shares) {
            let merged = shares.into_iter().flatten().reduce(|mut rows, later| {
                rows.merge(&later);
                rows
            });
            merged
                .into_iter()
                .for_each(|rows| self.store(item, rows, out));
        }
    }

    fn items(&self) -> impl Iterator<Item = Item> {
        let heads = self.step.shape.kv_heads;
        self.step.runs.iter().flat_map(move |&run| {
            let first = self.sees(run.start).start;
            let end = self.sees(run.start + run.tokens - 1).end;
            (0..heads).map(move |head| Item {
                run,
                head,
                positions: first..end,
            })
        })
    }

    /// Positions that token `t` may look at.
    fn sees(&self, t: usize) -> Range<usize> {
        let end = self.step.batch.positions[t] as usize + 1;
        self.step
            .window
            .map_or(0, |window| end.saturating_sub(window))..end
    }

    /// What the item's rows see at its positions, chunk by chunk: `[tokens, group]` rows.
    fn attend<T: CacheNumber>(&self, item: &Item, inputs: Inputs<'_, T>) -> Rows {
        let head_dim = self.step.shape.head_dim;
        let mut tile = Tile::new(head_dim);
        let mut rows = self.rows(item, inputs.qkv);
        let mut total: Option<Rows> = None;
        for chunk in item.chunks() {
            if total.is_some() {
                rows.restart();
            }
            let start = chunk.positions.start / Tile::POSITIONS * Tile::POSITIONS;
            for first in (start..chunk.positions.end).step_by(Tile::POSITIONS) {
                self.load(item, first, inputs, &mut tile);
                attend_tile(&tile, &mut rows);
            }
            if chunk.positions.end == item.positions.end && total.is_none() {
                return rows;
            }
            match &mut total {
                Some(total) => total.merge(&rows),
                None => total = Some(rows.clone()),
            }
        }
        total.unwrap_or(rows)
    }

    /// The item's queries, rotated and scaled.
    fn rows(&self, item: &Item, qkv: &[f32]) -> Rows {
        let step = self.step;
        let (group, head_dim) = (step.shape.group(), step.shape.head_dim);
        let width = group * head_dim;
        let tokens = item.run.start..item.run.start + item.run.tokens;
        let mut queries = vec![0.0; item.run.tokens * width];
        for (t, to) in tokens.clone().zip(queries.chunks_exact_mut(width)) {
            let from = &qkv[t * step.shape.qkv_width() + item.head * width..][..width];
            step.rotate(t, from, step.shape.scale(), to);
        }
        let sees = tokens.flat_map(|t| std::iter::repeat_n(self.sees(t), group));
        Rows::new(head_dim, queries, sees.collect())
    }

    /// Keys and values of positions `first ..` of the item's head.
    fn load<T: CacheNumber>(
        &self,
        item: &Item,
        first: usize,
        inputs: Inputs<'_, T>,
        to: &mut Tile,
    ) {
        let step = self.step;
        let (head_dim, block_size) = (step.shape.head_dim, step.block_size);
        let head_len = block_size * head_dim;
        let table = &step.batch.block_tables[item.run.sequence];
        let place = |position: usize| {
            let block = table[position / block_size] as usize * step.shape.kv_heads + item.head;
            (block * head_len, position % block_size)
        };
        to.first = first;
        let end = item.positions.end.min(first + Tile::POSITIONS);
        let width = head_dim / LANES;
        let value_rows = to.values.chunks_exact_mut(width);
        for (position, row) in (first..end).zip(value_rows) {
            let (head, offset) = place(position);
            T::widen(&inputs.values[head + offset * head_dim..][..head_dim], row);
        }
        for (vector, first) in (first..end).step_by(LANES).enumerate() {
            let (head, offset) = place(first);
            let keys = &inputs.keys[head..][..head_len];
            if block_size.is_multiple_of(LANES) {
                T::widen_columns(&keys[offset..], block_size, vector, &mut to.keys);
                continue;
            }
            for (lane, position) in (first..end.min(first + LANES)).enumerate() {
                let (head, offset) = place(position);
                let column = inputs.keys[head + offset..][..head_len - offset].iter();
                for (to, &from) in to.keys.iter_mut().zip(column.step_by(block_size)) {
                    to[vector][lane] = from.into();
                }
            }
        }
    }

    /// The item's results to their tokens' rows.
    fn store(&self, item: &Item, mut rows: Rows, out: OutPtr) {
        let width = self.step.shape.group() * self.step.shape.head_dim;
        for (i, row) in rows.finish().chunks_exact(width).enumerate() {
            #[expect(unsafe_code, reason = "see SAFETY")]
            // SAFETY: no other item has this token and head, and both are inside the result.
            unsafe {
                out.finish(item.run.start + i, item.head * width, row, Finish::Store);
            }
        }
    }
}

impl Item {
    /// The same work cut at every [`CHUNK`] positions.
    fn chunks(&self) -> Vec<Self> {
        let Range { start, end } = self.positions;
        (start / CHUNK * CHUNK..end)
            .step_by(CHUNK)
            .map(|first| Self {
                run: self.run,
                head: self.head,
                positions: first.max(start)..end.min(first + CHUNK),
            })
            .collect()
    }
}

/// A number type of the cache.
trait CacheNumber: Copy + Send + Sync + Into<f32> {
    /// From F32, rounded to the nearest.
    fn narrow(from: f32) -> Self;
    /// A row of whole registers to F32.
    fn widen(from: &[Self], to: &mut [[f32; LANES]]);
    /// [`LANES`] numbers at the start of every `stride` to register `vector` of each row.
    fn widen_columns<const V: usize>(
        from: &[Self],
        stride: usize,
        vector: usize,
        to: &mut [[[f32; LANES]; V]],
    );
}

impl CacheNumber for f32 {
    fn narrow(from: f32) -> Self {
        from
    }

    fn widen(from: &[Self], to: &mut [[f32; LANES]]) {
        to.as_flattened_mut().copy_from_slice(from);
    }

    fn widen_columns<const V: usize>(
        from: &[Self],
        stride: usize,
        vector: usize,
        to: &mut [[[f32; LANES]; V]],
    ) {
        for (from, to) in from.chunks(stride).zip(to) {
            to[vector].copy_from_slice(&from[..LANES]);
        }
    }
}

impl CacheNumber for f16 {
    fn narrow(from: f32) -> Self {
        Self::from_f32(from)
    }

    fn widen(from: &[Self], to: &mut [[f32; LANES]]) {
        widen_row(from.as_chunks().0, to);
    }

    fn widen_columns<const V: usize>(
        from: &[Self],
        stride: usize,
        vector: usize,
        to: &mut [[[f32; LANES]; V]],
    ) {
        widen_strided(from, stride, &mut to.as_flattened_mut()[vector..], V);
    }
}

simd_dispatch! {
    fn widen_row = widen_row_body(from: &[[f16; LANES]], to: &mut [[f32; LANES]])
}

#[inline(always)]
fn widen_row_body<S: Simd>(from: &[[f16; LANES]], to: &mut [[f32; LANES]]) {
    from.iter()
        .zip(to)
        .for_each(|(from, to)| S::widen(from, to));
}

simd_dispatch! {
    /// Registers at the start of every `from_stride` numbers to every `to_stride`th register.
    fn widen_strided = widen_strided_body(
        from: &[f16],
        from_stride: usize,
        to: &mut [[f32; LANES]],
        to_stride: usize,
    )
}

#[inline(always)]
fn widen_strided_body<S: Simd>(
    from: &[f16],
    from_stride: usize,
    to: &mut [[f32; LANES]],
    to_stride: usize,
) {
    for (from, to) in from
        .chunks(from_stride)
        .zip(to.iter_mut().step_by(to_stride))
    {
        if let Some(from) = from.first_chunk() {
            S::widen(from, to);
        }
    }
}
