//! Our model behind a cache of fixed places, one for each stream.

use std::path::Path;

use anyhow::Result;
use candle_core::Device;
use hansa_models::weights::gguf::GgufFile;
use hansa_models::{Batch, CausalLm, KvType, LoadOptions, PagedKv, ThreadPool, load_tensors};

const BLOCK: u32 = 16;
const BLOCKS_PER_STREAM: u32 = 64;
const STREAMS_MAX: u32 = 33;

pub struct Ours {
    model: Box<dyn CausalLm>,
    kv: PagedKv,
    pool: ThreadPool,
    /// Tokens of each stream so far.
    lens: Vec<usize>,
}

impl Ours {
    pub fn load(path: &Path, kv_type: KvType) -> Result<Self> {
        let options = LoadOptions {
            device: Device::Cpu,
            kv_type,
            quantise: None,
        };
        let model = load_tensors(&GgufFile::open(path)?, &options)?;
        let blocks = BLOCKS_PER_STREAM * STREAMS_MAX;
        let kv = PagedKv::new(model.spec(), blocks, BLOCK, kv_type, &Device::Cpu)?;
        Ok(Self {
            model,
            kv,
            pool: ThreadPool::new(candle_core::utils::get_num_threads())?,
            lens: Vec::new(),
        })
    }

    pub fn clear(&mut self) {
        self.lens.clear();
    }

    /// Puts a prompt into the place `stream`; the logits of its last token.
    pub fn prefill(&mut self, stream: usize, tokens: &[u32]) -> Result<Vec<f32>> {
        self.lens.resize(self.lens.len().max(stream + 1), 0);
        self.lens[stream] = 0;
        let mut batch = Batch::default();
        self.add(&mut batch, stream, tokens);
        Ok(self.forward(&batch)?.remove(0))
    }

    /// One token for each of the first streams, in one step; the logits of each.
    pub fn decode(&mut self, tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
        self.decode_beside(tokens, &[])
    }

    /// The same beside the next `part` of a prompt in the place after those streams.
    pub fn decode_beside(&mut self, tokens: &[u32], part: &[u32]) -> Result<Vec<Vec<f32>>> {
        let mut batch = Batch::default();
        for (stream, token) in tokens.iter().enumerate() {
            self.add(&mut batch, stream, &[*token]);
        }
        if !part.is_empty() {
            self.add(&mut batch, tokens.len(), part);
        }
        self.forward(&batch)
    }

    fn add(&mut self, batch: &mut Batch, stream: usize, tokens: &[u32]) {
        let first_block = stream as u32 * BLOCKS_PER_STREAM;
        let start = self.lens[stream];
        for (position, &token) in (start as u32..).zip(tokens) {
            batch.tokens.push(token);
            batch.positions.push(position);
            batch.slots.push(first_block * BLOCK + position);
        }
        self.lens[stream] = start + tokens.len();
        batch.q_lens.push(tokens.len() as u32);
        batch.kv_lens.push(self.lens[stream] as u32);
        batch
            .block_tables
            .push((first_block..first_block + BLOCKS_PER_STREAM).collect());
        batch.logit_rows.push(batch.tokens.len() as u32 - 1);
    }

    fn forward(&mut self, batch: &Batch) -> Result<Vec<Vec<f32>>> {
        let Self {
            model, kv, pool, ..
        } = self;
        Ok(pool.install(|| model.forward(batch, kv))?.to_vec2()?)
    }
}
