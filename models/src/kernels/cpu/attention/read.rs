//! What the tokens of a step see in the cache: shares it out over threads and puts the shares together in a fixed order.

use std::cmp::Reverse;
use std::ops::Range;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape};

use super::super::elementwise::f32_slice;
use super::super::out::{Finish, OutPtr, written};
use super::super::pool::{for_each, pieces_max};
use super::super::simd::LANES;
use super::cache_number::CacheNumber;
use super::flash::{Rows, Tile, attend_tile};
use super::{PagedStep, Run};

/// Positions whose share of a row's result is summed on its own, so that several threads can read one long context.
const CHUNK: usize = 256;

/// Attention of a step: `qkv`, keys, values to `[T, q_width]`.
pub(super) struct PagedAttention<'a> {
    pub(super) step: &'a PagedStep<'a>,
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
        #[expect(unsafe_code, reason = "see SAFETY")]
        // SAFETY: the runs are all tokens of the step, and a run's items all heads.
        unsafe {
            written(len, shape.q_width(), |out| self.attend_all(inputs, out))
        }
    }

    /// All items, shared out evenly: the long ones first, and those that would keep one thread busy after the others have
    /// ended in parts, whose results are put together in the order of positions.
    fn attend_all<T: CacheNumber>(&self, inputs: Inputs<'_, T>, out: OutPtr) {
        let items: Vec<Item> = self.items().collect();
        let fair = items.iter().map(Item::pairs).sum::<usize>() / pieces_max();
        let (long, whole): (Vec<Item>, Vec<Item>) =
            items.into_iter().partition(|item| item.pairs() > fair);
        let chunks: Vec<Vec<Item>> = long.iter().map(Item::chunks).collect();
        let mut shares: Vec<Vec<Option<Rows>>> = chunks
            .iter()
            .map(|chunks| chunks.iter().map(|_| None).collect())
            .collect();
        let parts = chunks.iter().flatten();
        let parts = parts.zip(shares.iter_mut().flatten().map(Some));
        let mut tasks: Vec<(&Item, Option<&mut Option<Rows>>)> =
            parts.chain(whole.iter().map(|item| (item, None))).collect();
        tasks.sort_by_key(|(item, _)| Reverse(item.pairs()));
        for_each(tasks, |(item, share)| {
            let rows = self.attend(item, inputs);
            match share {
                Some(share) => *share = Some(rows),
                None => self.store(item, rows, out),
            }
        });
        for (item, shares) in long.iter().zip(shares) {
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
    /// Pairs of a token and a position: how much work it is.
    fn pairs(&self) -> usize {
        self.run.tokens * self.positions.len()
    }

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
