//! What a scheduler relies on: however a prompt is cut, placed and accompanied, its logits are the same.

use candle_core::Device;

use super::super::load_decoder;
use super::*;
use crate::causal_lm::LoadOptions;
use crate::spec::KvType;
use crate::testing::{GgufWriter, TinyLlama, TinyType};
use crate::weights::gguf::GgufFile;

const BLOCK: u32 = 16;
const BLOCKS: u32 = 40;

/// A model and its cache.
struct Rig {
    model: Decoder,
    kv: PagedKv,
}

/// One sequence: its tokens, the blocks it lives in, and how much of it has been computed.
#[derive(Clone)]
struct Seq {
    tokens: Vec<u32>,
    blocks: Vec<u32>,
    computed: usize,
}

impl Rig {
    fn new(model: Decoder, kv_type: KvType) -> Self {
        let kv = PagedKv::new(model.spec(), BLOCKS, BLOCK, kv_type, &Device::Cpu).unwrap();
        Self { model, kv }
    }

    fn tiny(matrix_type: TinyType, kv_type: KvType) -> Self {
        Self::new(tiny(matrix_type), kv_type)
    }

    /// Runs the next `count` tokens of each sequence in one step; the logits of each one's last token.
    fn step(&mut self, sequences: &mut [(&mut Seq, usize)]) -> Vec<Vec<f32>> {
        let mut batch = Batch::default();
        for (seq, count) in sequences.iter_mut() {
            let range = seq.computed..seq.computed + *count;
            for position in range.clone() {
                batch.tokens.push(seq.tokens[position]);
                batch.positions.push(position as u32);
                let block = seq.blocks[position / BLOCK as usize];
                batch.slots.push(block * BLOCK + position as u32 % BLOCK);
            }
            seq.computed = range.end;
            batch.q_lens.push(*count as u32);
            batch.kv_lens.push(range.end as u32);
            batch.block_tables.push(seq.blocks.clone());
            batch.logit_rows.push(batch.tokens.len() as u32 - 1);
        }
        let logits = self.model.forward(&batch, &mut self.kv).unwrap();
        logits.to_vec2().unwrap()
    }

    /// Runs one sequence in chunks of the given sizes; the last logits.
    fn run(&mut self, seq: &Seq, chunks: &[usize]) -> Vec<f32> {
        let mut seq = seq.clone();
        let mut last = Vec::new();
        for &chunk in chunks {
            last = self.step(&mut [(&mut seq, chunk)]).remove(0);
        }
        last
    }
}

fn tiny(matrix_type: TinyType) -> Decoder {
    let writer = TinyLlama {
        matrix_type,
        ..TinyLlama::default()
    }
    .writer();
    load(writer).unwrap()
}

fn load(writer: GgufWriter) -> std::result::Result<Decoder, LoadError> {
    let gguf = GgufFile::from_bytes(writer.into_bytes())?;
    let options = LoadOptions {
        device: Device::Cpu,
        kv_type: KvType::F16,
        quantise: None,
    };
    load_decoder(&gguf, &options)
}

/// A sequence of `len` tokens in consecutive blocks from `block`.
fn seq(len: usize, vocab: u32, block: u32) -> Seq {
    Seq {
        tokens: (0..len as u32)
            .map(|i| (i * i + 7 * i + block) % vocab)
            .collect(),
        blocks: (block..block + (len as u32).div_ceil(BLOCK)).collect(),
        computed: 0,
    }
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

const TYPES: [TinyType; 3] = [TinyType::F32, TinyType::Q4_1, TinyType::Q8_0];

#[test]
fn chunks_change_nothing() {
    for matrix_type in TYPES {
        let mut rig = Rig::tiny(matrix_type, KvType::F16);
        let seq = seq(150, 96, 0);
        let whole = rig.run(&seq, &[150]);
        assert!(whole.iter().all(|x| x.is_finite()) && distance(&whole, &vec![whole[0]; 96]) > 0.1);
        assert_eq!(whole, rig.run(&seq, &[1, 70, 15, 63, 1]), "{matrix_type:?}");
        assert_eq!(whole, rig.run(&seq, &[1; 150]), "{matrix_type:?}");
    }
}

#[test]
fn a_window_hides_what_is_before_it_and_chunks_still_change_nothing() {
    let seq = seq(150, 96, 0);
    let whole = Rig::tiny(TinyType::F32, KvType::F32).run(&seq, &[150]);
    for window in [1, 24, 64, 149, 150] {
        let load = || {
            let tiny = TinyLlama {
                matrix_type: TinyType::F32,
                ..TinyLlama::default()
            };
            let key = "llama.attention.sliding_window";
            load(tiny.writer().u32(key, window)).unwrap()
        };
        let mut rig = Rig::new(load(), KvType::F32);
        let windowed = rig.run(&seq, &[150]);
        assert_eq!(windowed == whole, window == 150, "{window}");
        assert_eq!(windowed, rig.run(&seq, &[1, 70, 15, 63, 1]), "{window}");
        assert_eq!(windowed, rig.run(&seq, &[1; 150]), "{window}");
        let mut plain = Rig::new(load().with_path(AttentionPath::Plain), KvType::F32);
        let plain = plain.run(&seq, &[1, 70, 79]);
        assert!(
            distance(&windowed, &plain) < 1e-3,
            "{window}: {}",
            distance(&windowed, &plain)
        );
    }
}

#[test]
fn neighbours_change_nothing() {
    for matrix_type in TYPES {
        let mut rig = Rig::tiny(matrix_type, KvType::F16);
        let mut sequences = [
            seq(90, 96, 0),
            seq(33, 96, 8),
            seq(70, 96, 16),
            seq(20, 96, 24),
        ];
        let alone: Vec<_> = sequences
            .iter()
            .map(|s| rig.run(s, &[s.tokens.len()]))
            .collect();
        let [a, b, c, d] = &mut sequences;
        // A long prefill beside decodes, then all of them together.
        rig.step(&mut [(a, 30), (b, 32), (c, 69)]);
        let first = rig.step(&mut [(a, 59), (b, 1), (c, 1), (d, 13)]);
        assert_eq!(
            (&first[1], &first[2]),
            (&alone[1], &alone[2]),
            "{matrix_type:?}"
        );
        let second = rig.step(&mut [(d, 7), (a, 1)]);
        assert_eq!(
            (&second[0], &second[1]),
            (&alone[3], &alone[0]),
            "{matrix_type:?}"
        );
    }
}

#[test]
fn any_blocks_do() {
    let mut rig = Rig::tiny(TinyType::Q4_1, KvType::F16);
    let contiguous = seq(100, 96, 0);
    let mut scattered = contiguous.clone();
    scattered.blocks = vec![31, 7, 39, 12, 20, 9, 15];
    assert_eq!(rig.run(&contiguous, &[100]), rig.run(&scattered, &[60, 40]));
}

#[test]
fn a_poisoned_neighbour_stays_alone() {
    let mut rig = Rig::tiny(TinyType::Q4_1, KvType::F32);
    let healthy = seq(40, 96, 0);
    let alone = rig.run(&healthy, &[40]);
    // Everything outside the sequence's own slots is not a number, even the rest of its last block.
    let poison = |cache: &mut Tensor| {
        *cache = Tensor::full(f32::NAN, cache.shape(), &Device::Cpu).unwrap();
    };
    rig.kv.keys.iter_mut().for_each(poison);
    rig.kv.values.iter_mut().for_each(poison);
    assert_eq!(alone, rig.run(&healthy, &[25, 15]));
}

#[test]
fn plain_operations_agree_with_kernels() {
    for kv_type in [KvType::F32, KvType::F16] {
        let run = |path| {
            let mut rig = Rig::new(tiny(TinyType::F32).with_path(path), kv_type);
            let (mut a, mut b, mut c) = (seq(90, 96, 0), seq(33, 96, 8), seq(40, 96, 16));
            let mut all = rig.step(&mut [(&mut a, 30), (&mut b, 32), (&mut c, 39)]);
            all.extend(rig.step(&mut [(&mut b, 1), (&mut a, 60), (&mut c, 1)]));
            all.concat()
        };
        let (plain, cpu) = (run(AttentionPath::Plain), run(AttentionPath::Cpu));
        assert!(distance(&plain, &cpu) < 1e-3, "{}", distance(&plain, &cpu));
    }
}

#[test]
fn half_precision_keys_are_near() {
    let seq = seq(120, 96, 0);
    let full = Rig::tiny(TinyType::F32, KvType::F32).run(&seq, &[120]);
    let half = Rig::tiny(TinyType::F32, KvType::F16).run(&seq, &[120]);
    assert!(distance(&full, &half) < 0.05, "{}", distance(&full, &half));
    assert_ne!(full, half);
}

#[test]
fn no_logits_are_computed_where_none_are_wanted() {
    let mut rig = Rig::tiny(TinyType::Q4_1, KvType::F16);
    let batch = Batch {
        tokens: vec![1, 2],
        positions: vec![0, 1],
        slots: vec![0, 1],
        q_lens: vec![2],
        kv_lens: vec![2],
        block_tables: vec![vec![0]],
        logit_rows: vec![],
    };
    assert_eq!(
        rig.model.forward(&batch, &mut rig.kv).unwrap().dims(),
        [0, 96]
    );
    for (spoil, why) in [
        (
            Box::new(|b: &mut Batch| b.tokens[1] = 96) as Box<dyn Fn(&mut Batch)>,
            "vocabulary",
        ),
        (
            Box::new(|b: &mut Batch| b.slots[1] = BLOCKS * BLOCK),
            "slot",
        ),
        (
            Box::new(|b: &mut Batch| b.block_tables[0][0] = BLOCKS),
            "block",
        ),
        (Box::new(|b: &mut Batch| b.positions[1] = 5), "positions"),
        (Box::new(|b: &mut Batch| b.logit_rows.push(2)), "logits"),
    ] {
        let mut bad = batch.clone();
        spoil(&mut bad);
        let error = rig
            .model
            .forward(&bad, &mut rig.kv)
            .unwrap_err()
            .to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn files_that_are_not_what_they_say_are_refused() {
    let tiny = TinyLlama::default();
    let why = |writer| load(writer).unwrap_err().to_string();
    let tokens: Vec<String> = (0..97).map(|i| i.to_string()).collect();
    let vocabulary = why(tiny.writer().strings("tokenizer.ggml.tokens", &tokens));
    assert!(
        vocabulary.contains("97") && vocabulary.contains("96"),
        "{vocabulary}"
    );
    let experts = why(tiny.writer().u32("llama.expert_count", 8));
    assert!(experts.contains("experts"), "{experts}");
    let scaled = why(tiny.writer().str("llama.rope.scaling.type", "longrope"));
    assert!(scaled.contains("longrope"), "{scaled}");
    let shape = why(tiny.writer().u32("llama.attention.key_length", 8));
    assert!(shape.contains("attn_"), "{shape}");
    // No list is made of so many, before a tensor is missed.
    let deep = why(GgufWriter::default()
        .str("general.architecture", "llama")
        .u32("llama.attention.head_count", 8)
        .u32("llama.embedding_length", 128)
        .u32("llama.context_length", 64)
        .u32("llama.attention.sliding_window", 16)
        .u32("llama.block_count", u32::MAX)
        .tensor("token_embd.weight", &[4, 128], 0, &[0; 2048]));
    assert!(deep.contains("number of layers"), "{deep}");
    let wide = why(tiny
        .writer()
        .u32("llama.attention.key_length", 1 << 31)
        .u32("llama.attention.value_length", 1 << 31));
    assert!(wide.contains("size of a head"), "{wide}");
    let missing = why(GgufWriter::default().str("general.architecture", "llama"));
    assert!(missing.contains("llama."), "{missing}");
}

#[test]
fn the_cache_takes_the_bytes_that_a_budget_counts() {
    let spec = tiny(TinyType::F32).spec().clone();
    for kv_type in [KvType::F32, KvType::F16] {
        let kv = PagedKv::new(&spec, BLOCKS, BLOCK, kv_type, &Device::Cpu).unwrap();
        let bytes = |cache: &Tensor| cache.elem_count() * cache.dtype().size_in_bytes();
        let taken: usize = kv.keys.iter().chain(&kv.values).map(bytes).sum();
        let slots = u64::from(BLOCKS * BLOCK);
        assert_eq!(taken as u64, spec.kv_bytes_per_token(kv_type) * slots);
        assert_eq!(kv.slot_count() as u64, slots);
    }
}

/// The same on a real model, where `HANSA_TEST_MODEL` names its file.
#[test]
fn a_real_model_is_batch_invariant() {
    let Some(path) = std::env::var_os("HANSA_TEST_MODEL") else {
        return;
    };
    let gguf = GgufFile::open(path.as_ref()).unwrap();
    let options = LoadOptions {
        device: Device::Cpu,
        kv_type: KvType::F16,
        quantise: None,
    };
    let mut rig = Rig::new(load_decoder(&gguf, &options).unwrap(), KvType::F16);
    let (mut a, mut b) = (seq(60, 30_000, 0), seq(33, 30_000, 8));
    let (alone_a, alone_b) = (rig.run(&a, &[60]), rig.run(&b, &[33]));
    rig.step(&mut [(&mut a, 59), (&mut b, 9)]);
    let together = rig.step(&mut [(&mut a, 1), (&mut b, 24)]);
    assert_eq!((&together[0], &together[1]), (&alone_a, &alone_b));
}
