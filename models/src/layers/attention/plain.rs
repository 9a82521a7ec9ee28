//! Attention in plain Candle operations: the reference, and the path of every device without kernels of ours.
//!
//! Sequences that bring the same number of tokens are attended together, so that all decodes of a step are one chain of
//! operations. Their context is gathered through the block tables and padded to the longest; a query head shares its
//! group's keys and values without repeating them.

use candle_core::{DType, Device, Result, Tensor};

use super::AttentionShape;
use crate::batch::Batch;
use crate::layers::rope::RopeAngles;
use crate::limits::ATTENTION_GATHER_POSITIONS_MAX;

/// A step's indices and masks on the device.
pub(crate) struct PlainStep {
    shape: AttentionShape,
    cos: Tensor,
    sin: Tensor,
    /// Slot of each token, repeated over the width of the cache: `[T, kv_width]`.
    slots: Tensor,
    groups: Vec<Group>,
    /// Puts the groups' rows back into the order of the step, unless they are in it.
    order: Option<Tensor>,
}

/// Sequences with the same number of new tokens.
struct Group {
    sequences: usize,
    q_len: usize,
    kv_len_max: usize,
    /// Rows of the step: `[sequences * q_len]`.
    rows: Tensor,
    /// Slots of the context: `[sequences * kv_len_max]`.
    context: Tensor,
    /// 0 where a token may look and minus infinity where not: `[sequences, 1, 1, q_len, kv_len_max]`.
    mask: Tensor,
}

impl PlainStep {
    pub(crate) fn new(
        shape: AttentionShape,
        angles: &RopeAngles,
        batch: &Batch,
        block_size: usize,
        window: Option<usize>,
        device: &Device,
    ) -> Result<Self> {
        let (cos, sin) = angles.tensors(device)?;
        let slots = Tensor::new(batch.slots.as_slice(), device)?
            .unsqueeze(1)?
            .broadcast_as((batch.token_count(), shape.kv_width()))?
            .contiguous()?;
        let members = group_sequences(batch);
        let groups = members
            .iter()
            .map(|group| Group::new(batch, group, block_size, window, device))
            .collect::<Result<Vec<_>>>()?;
        let rows: Vec<u32> = members
            .iter()
            .flatten()
            .flat_map(|&s| token_range(batch, s))
            .map(|row| row as u32)
            .collect();
        Ok(Self {
            shape,
            cos,
            sin,
            slots,
            groups,
            order: inverse_order(&rows, device)?,
        })
    }

    pub(crate) fn attend(&self, qkv: &Tensor, keys: &Tensor, values: &Tensor) -> Result<Tensor> {
        let (q_width, kv_width) = (self.shape.q_width(), self.shape.kv_width());
        let q = self.rotate(&qkv.narrow(1, 0, q_width)?, self.shape.heads)?;
        let k = self.rotate(&qkv.narrow(1, q_width, kv_width)?, self.shape.kv_heads)?;
        let v = qkv.narrow(1, q_width + kv_width, kv_width)?;
        self.write(keys, &k)?;
        self.write(values, &v)?;
        let results = self
            .groups
            .iter()
            .map(|group| group.attend(self.shape, &q, keys, values))
            .collect::<Result<Vec<_>>>()?;
        let joined = Tensor::cat(&results, 0)?;
        match &self.order {
            Some(order) => joined.index_select(order, 0),
            None => Ok(joined),
        }
    }

    /// Every token is a batch row of its own for Candle, so that each has its own position.
    fn rotate(&self, x: &Tensor, heads: usize) -> Result<Tensor> {
        let (tokens, width) = x.dims2()?;
        let x = x
            .contiguous()?
            .reshape((tokens, heads, 1, self.shape.head_dim))?;
        candle_nn::rotary_emb::rope_i(&x, &self.cos, &self.sin)?.reshape((tokens, width))
    }

    fn write(&self, cache: &Tensor, rows: &Tensor) -> Result<()> {
        let rows = rows.to_dtype(cache.dtype())?.contiguous()?;
        cache.scatter_set(&self.slots, &rows, 0)
    }
}

impl Group {
    fn new(
        batch: &Batch,
        members: &[usize],
        block_size: usize,
        window: Option<usize>,
        device: &Device,
    ) -> Result<Self> {
        let q_len = members.first().map_or(0, |&s| batch.q_lens[s] as usize);
        let kv_len = |s: usize| batch.kv_lens[s] as usize;
        let kv_len_max = members.iter().map(|&s| kv_len(s)).max().unwrap_or(0);
        let mut rows = Vec::with_capacity(members.len() * q_len);
        let mut context = Vec::with_capacity(members.len() * kv_len_max);
        let mut mask = Vec::with_capacity(members.len() * q_len * kv_len_max);
        for &s in members {
            // Padding reads the sequence's own first slot, so that no other sequence's numbers are touched.
            let slot = |position: usize| {
                let position = if position < kv_len(s) { position } else { 0 };
                batch.block_tables[s][position / block_size] * block_size as u32
                    + (position % block_size) as u32
            };
            context.extend((0..kv_len_max).map(slot));
            for row in token_range(batch, s) {
                rows.push(row as u32);
                let position = batch.positions[row] as usize;
                let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
                mask.extend((0..kv_len_max).map(|j| {
                    if (first..=position).contains(&j) {
                        0.0
                    } else {
                        f32::NEG_INFINITY
                    }
                }));
            }
        }
        let mask_shape = (members.len(), 1, 1, q_len, kv_len_max);
        Ok(Self {
            sequences: members.len(),
            q_len,
            kv_len_max,
            rows: Tensor::new(rows, device)?,
            context: Tensor::new(context, device)?,
            mask: Tensor::from_vec(mask, mask_shape, device)?,
        })
    }

    /// `[rows of the group, q_width]`.
    fn attend(
        &self,
        shape: AttentionShape,
        q: &Tensor,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<Tensor> {
        let AttentionShape {
            kv_heads, head_dim, ..
        } = shape;
        let (sequences, q_len, kv_len, group) =
            (self.sequences, self.q_len, self.kv_len_max, shape.group());
        let batched = sequences * kv_heads;
        let q = q
            .index_select(&self.rows, 0)?
            .reshape((sequences, q_len, kv_heads, group, head_dim))?
            .permute((0, 2, 3, 1, 4))?
            .reshape((batched, group * q_len, head_dim))?;
        let context = |cache: &Tensor| {
            cache
                .index_select(&self.context, 0)?
                .to_dtype(DType::F32)?
                .reshape((sequences, kv_len, kv_heads, head_dim))?
                .transpose(1, 2)?
                .reshape((batched, kv_len, head_dim))
        };
        let (k, v) = (context(keys)?, context(values)?);
        let scores = (q.matmul(&k.t()?)? * f64::from(shape.scale()))?
            .reshape((sequences, kv_heads, group, q_len, kv_len))?
            .broadcast_add(&self.mask)?;
        let weights = candle_nn::ops::softmax_last_dim(&scores)?;
        weights
            .reshape((batched, group * q_len, kv_len))?
            .matmul(&v)?
            .reshape((sequences, kv_heads, group, q_len, head_dim))?
            .permute((0, 3, 1, 2, 4))?
            .reshape((sequences * q_len, shape.q_width()))
    }
}

/// Sequences by number of new tokens. A group is closed when its gathered context would grow beyond the bound.
fn group_sequences(batch: &Batch) -> Vec<Vec<usize>> {
    let mut sequences: Vec<usize> = (0..batch.sequence_count()).collect();
    sequences.sort_by_key(|&s| batch.q_lens[s]);
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut kv_len_max = 0;
    for s in sequences {
        let kv_len = batch.kv_lens[s] as usize;
        let open = groups.last_mut().filter(|group| {
            let padded = (group.len() + 1) * kv_len_max.max(kv_len);
            batch.q_lens[group[0]] == batch.q_lens[s] && padded <= ATTENTION_GATHER_POSITIONS_MAX
        });
        match open {
            Some(group) => {
                group.push(s);
                kv_len_max = kv_len_max.max(kv_len);
            }
            None => {
                groups.push(vec![s]);
                kv_len_max = kv_len;
            }
        }
    }
    groups
}

/// Rows of the step that belong to sequence `s`.
fn token_range(batch: &Batch, s: usize) -> std::ops::Range<usize> {
    let start: usize = batch.q_lens[..s].iter().map(|&q| q as usize).sum();
    start..start + batch.q_lens[s] as usize
}

/// Where to find each row of the step among `rows`.
fn inverse_order(rows: &[u32], device: &Device) -> Result<Option<Tensor>> {
    if rows.is_sorted() {
        return Ok(None);
    }
    let mut order = vec![0u32; rows.len()];
    for (at, &row) in rows.iter().enumerate() {
        order[row as usize] = at as u32;
    }
    Tensor::new(order, device).map(Some)
}
