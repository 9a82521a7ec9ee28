//! Keys and values of a step to their slots of the cache.

use candle_core::{CpuStorage, InplaceOp2, Layout, Result};

use super::super::elementwise::f32_slice;
use super::PagedStep;
use super::cache_number::CacheNumber;
use crate::layers::attention::AttentionShape;

/// Writes columns `first ..` of `qkv` to the step's slots.
pub(super) struct CacheWrite<'a> {
    pub(super) step: &'a PagedStep<'a>,
    pub(super) first: usize,
    pub(super) part: CachePart,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum CachePart {
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
