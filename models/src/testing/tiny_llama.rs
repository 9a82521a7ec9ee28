//! A llama of a few kilobytes with random weights: it says nonsense, by the same arithmetic as a real one.

use super::GgufWriter;

/// Sizes of a tiny llama. The defaults exercise grouped queries and rows of several blocks.
#[derive(Debug, Clone)]
pub struct TinyLlama {
    /// Transformer layers.
    pub layers: usize,
    /// Width of the residual stream: `heads * 16`.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Width of the feed-forward block.
    pub mlp_width: usize,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Longest context.
    pub context_len: u32,
    /// Type of the matrices.
    pub matrix_type: TinyType,
    /// Seed of the weights.
    pub seed: u64,
}

/// Types that a tiny llama's matrices may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TinyType {
    /// 32 bits.
    F32,
    /// 4 bits with a scale and a minimum.
    Q4_1,
    /// 8 bits with a scale.
    Q8_0,
}

/// Numbers in a head.
const HEAD_DIM: usize = 16;

impl Default for TinyLlama {
    fn default() -> Self {
        Self {
            layers: 3,
            heads: 8,
            kv_heads: 2,
            mlp_width: 192,
            vocab: 96,
            context_len: 512,
            matrix_type: TinyType::Q4_1,
            seed: 1,
        }
    }
}

impl TinyLlama {
    /// The model's file, to which more keys may be added: a tokenizer, a template.
    #[must_use]
    pub fn writer(&self) -> GgufWriter {
        let mut noise = Noise(self.seed);
        self.writer_of(|_, rows, columns| self.matrix_type.random(rows * columns, &mut noise))
    }

    /// The same with matrices of the caller's: `matrix(name, rows, columns)` gives ggml's number of the type and the bytes.
    #[must_use]
    pub fn writer_of(
        &self,
        mut matrix: impl FnMut(&str, usize, usize) -> (u32, Vec<u8>),
    ) -> GgufWriter {
        let (width, kv_width) = (self.heads * HEAD_DIM, self.kv_heads * HEAD_DIM);
        let mut add = |writer: GgufWriter, name: &str, rows: usize, columns: usize| {
            let (type_id, data) = matrix(name, rows, columns);
            writer.tensor(name, &[rows, columns], type_id, &data)
        };
        let mut writer = add(self.metadata(), "token_embd.weight", self.vocab, width);
        for layer in 0..self.layers {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            for (part, rows, columns) in [
                ("attn_q", width, width),
                ("attn_k", kv_width, width),
                ("attn_v", kv_width, width),
                ("attn_output", width, width),
                ("ffn_gate", self.mlp_width, width),
                ("ffn_up", self.mlp_width, width),
                ("ffn_down", width, self.mlp_width),
            ] {
                writer = add(writer, &name(part), rows, columns);
            }
            writer = ones(writer, &name("attn_norm"), width);
            writer = ones(writer, &name("ffn_norm"), width);
        }
        ones(writer, "output_norm.weight", width)
    }

    fn metadata(&self) -> GgufWriter {
        GgufWriter::default()
            .str("general.architecture", "llama")
            .u32("llama.block_count", self.layers as u32)
            .u32("llama.context_length", self.context_len)
            .u32("llama.embedding_length", (self.heads * HEAD_DIM) as u32)
            .u32("llama.feed_forward_length", self.mlp_width as u32)
            .u32("llama.attention.head_count", self.heads as u32)
            .u32("llama.attention.head_count_kv", self.kv_heads as u32)
            .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
            .f32("llama.rope.freq_base", 10_000.0)
    }
}

fn ones(writer: GgufWriter, name: &str, width: usize) -> GgufWriter {
    let data: Vec<u8> = (0..width).flat_map(|_| 1f32.to_le_bytes()).collect();
    writer.tensor(name, &[width], 0, &data)
}

impl TinyType {
    /// ggml's number of the type, and `count` random weights around 0.
    fn random(self, count: usize, noise: &mut Noise) -> (u32, Vec<u8>) {
        match self {
            Self::F32 => {
                let weights = (0..count).flat_map(|_| noise.weight().to_le_bytes());
                (0, weights.collect())
            }
            Self::Q4_1 => {
                // 0.02 and -0.15 in half precision: codes 0 to 15 become -0.15 to 0.15.
                let head = [0x1f, 0x25, 0xcd, 0xb0];
                (3, blocks(&head, 16, count / 32, noise))
            }
            Self::Q8_0 => {
                // 0.001 in half precision: codes -128 to 127 become -0.13 to 0.13.
                let head = [0x19, 0x14];
                (8, blocks(&head, 32, count / 32, noise))
            }
        }
    }
}

/// Blocks of `head` and then random bytes.
fn blocks(head: &[u8], random: usize, count: usize, noise: &mut Noise) -> Vec<u8> {
    let mut data = Vec::with_capacity(count * (head.len() + random));
    for _ in 0..count {
        data.extend_from_slice(head);
        data.extend((0..random).map(|_| (noise.next() >> 56) as u8));
    }
    data
}

/// splitmix64 (Steele, Lea and Flood 2014).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between -0.15 and 0.15.
    fn weight(&mut self) -> f32 {
        ((self.next() >> 40) as f32 / (1u32 << 23) as f32 - 1.0) * 0.15
    }
}
