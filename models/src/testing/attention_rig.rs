//! One layer's attention over made-up numbers, for benchmarks of the kernel alone.

use candle_core::{Device, Result, Tensor};

use crate::batch::Batch;
use crate::causal_lm::PagedKv;
use crate::layers::attention::{AttentionKind, AttentionPath, AttentionShape};
use crate::layers::rope::{Rope, RopeConfig, RopeScaling};
use crate::spec::{KvType, ModelSpec};

const BLOCK: u32 = 16;

/// A step of one layer, ready to be run again and again.
#[derive(Debug)]
pub struct AttentionRig {
    kind: AttentionKind,
    batch: Batch,
    kv: PagedKv,
    qkv: Tensor,
}

impl AttentionRig {
    /// `sequences` that each bring `q_len` tokens to a context of `kv_len`, with 9 heads of queries on 3 of keys, 64 numbers
    /// each.
    ///
    /// # Errors
    /// Where there is no memory.
    pub fn new(sequences: u32, q_len: u32, kv_len: u32, kv_type: KvType) -> Result<Self> {
        let shape = AttentionShape {
            heads: 9,
            kv_heads: 3,
            head_dim: 64,
        };
        let table_len = kv_len.div_ceil(BLOCK);
        let mut batch = Batch::default();
        for sequence in 0..sequences {
            let first = sequence * table_len;
            batch.positions.extend(kv_len - q_len..kv_len);
            let slots = kv_len - q_len..kv_len;
            batch.slots.extend(slots.map(|slot| first * BLOCK + slot));
            batch.tokens.extend((0..q_len).map(|_| 0));
            batch.q_lens.push(q_len);
            batch.kv_lens.push(kv_len);
            batch
                .block_tables
                .push((first..first + table_len).collect());
        }
        let spec = ModelSpec {
            architecture: "attention".to_owned(),
            vocab_size: 1,
            context_len: kv_len,
            layers: 1,
            kv_heads: shape.kv_heads as u32,
            head_dim: shape.head_dim as u32,
        };
        let device = Device::Cpu;
        let rows = (sequences * q_len) as usize;
        Ok(Self {
            kv: PagedKv::new(&spec, sequences * table_len, BLOCK, kv_type, &device)?,
            qkv: Tensor::randn(0f32, 1f32, (rows, shape.qkv_width()), &device)?,
            batch,
            kind: AttentionKind {
                path: AttentionPath::Cpu,
                shape,
                rope: Rope::new(&RopeConfig {
                    dims: shape.head_dim,
                    base: 10_000.0,
                    scaling: RopeScaling::None,
                    factors: None,
                }),
                window: None,
            },
        })
    }

    /// Runs the layer's attention.
    ///
    /// # Errors
    /// As the kernel.
    pub fn run(&self) -> Result<Tensor> {
        let (keys, values) = (&self.kv.keys[0], &self.kv.values[0]);
        let step = self.kind.step(&self.batch, keys, self.kv.block_size)?;
        step.attend(&self.qkv, keys, values)
    }

    /// Multiplications and additions of scores and weighted values.
    #[must_use]
    pub fn operations(&self) -> u64 {
        let shape = self.kind.shape;
        let seen: u64 = self.batch.positions.iter().map(|&p| u64::from(p) + 1).sum();
        seen * (shape.heads * shape.head_dim) as u64 * 4
    }
}
