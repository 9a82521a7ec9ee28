//! Every number type that weights may have, in both kinds of files: what it gives is near what its own numbers give in
//! F32, by whichever product it is multiplied.
//!
//! The matrices are random; Candle quantises them and says what numbers that left. So what is compared is our reading and
//! our products, not how much a type loses.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Tensor};

use super::*;
use crate::testing::TinyLlama;

/// Rows of 256 numbers, which are whole blocks of every type.
const TINY: TinyLlama = TinyLlama {
    layers: 2,
    heads: 16,
    kv_heads: 4,
    mlp_width: 512,
    vocab: 96,
    context_len: 64,
    matrix_type: crate::testing::TinyType::F32,
    seed: 1,
};

/// ggml's number of each type and Candle's name.
const TYPES: [(u32, GgmlDType); 13] = [
    (0, GgmlDType::F32),
    (1, GgmlDType::F16),
    (30, GgmlDType::BF16),
    (2, GgmlDType::Q4_0),
    (3, GgmlDType::Q4_1),
    (6, GgmlDType::Q5_0),
    (7, GgmlDType::Q5_1),
    (8, GgmlDType::Q8_0),
    (10, GgmlDType::Q2K),
    (11, GgmlDType::Q3K),
    (12, GgmlDType::Q4K),
    (13, GgmlDType::Q5K),
    (14, GgmlDType::Q6K),
];

/// How far results may be apart, in parts of their spread, where products round their inputs to 8 bits.
const ROUNDED: f32 = 0.1;
/// The same where nothing is rounded but sums.
const EXACT: f32 = 1e-5;

#[test]
fn every_type_of_gguf_gives_what_its_numbers_give() {
    for (id, dtype) in TYPES {
        let blocks = |name: &str, rows, columns| {
            QTensor::quantize(&matrix(name, rows, columns), dtype).unwrap()
        };
        let typed = TINY.writer_of(|name, rows, columns| {
            let blocks = blocks(name, rows, columns);
            (id, blocks.data().unwrap().into_owned())
        });
        let plain = TINY.writer_of(|name, rows, columns| {
            let blocks = blocks(name, rows, columns);
            (0, numbers_of(&blocks.dequantize(&Device::Cpu).unwrap()))
        });
        let (typed, plain) = (log_probs(typed), log_probs(plain));
        let apart = apart(&typed, &plain);
        println!("{dtype:?}: {apart}");
        let is_plain = matches!(dtype, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16);
        let bound = if is_plain { EXACT } else { ROUNDED };
        assert!(apart < bound, "{dtype:?}: {apart}");
    }
}

#[test]
fn folders_in_half_precision_give_what_their_numbers_give() {
    let reference = reference();
    let case = &reference.cases["llama"];
    let folder = |dtype: Option<DType>, name: &str| {
        let dir = tempfile::tempdir().unwrap();
        case.write_folder(dir.path(), 1);
        if let Some(dtype) = dtype {
            // The numbers rounded, once as they are stored then and once in F32.
            let path = dir.path().join("model.safetensors");
            let tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
            let stored = if name == "plain" { DType::F32 } else { dtype };
            let rounded = tensors.into_iter().map(|(name, tensor)| {
                let tensor = tensor.to_dtype(dtype).unwrap().to_dtype(stored).unwrap();
                (name, tensor)
            });
            let rounded: std::collections::HashMap<_, _> = rounded.collect();
            candle_core::safetensors::save(&rounded, &path).unwrap();
        }
        let model = load_folder_tensors(dir.path(), &options(None)).unwrap();
        case.run(model, &reference).concat()
    };
    for dtype in [DType::F16, DType::BF16] {
        let (half, plain) = (folder(Some(dtype), "half"), folder(Some(dtype), "plain"));
        let apart = apart(&half, &plain);
        assert!(apart < EXACT, "{dtype:?}: {apart}");
        assert_ne!(plain, folder(None, "plain"), "rounding is seen");
    }
}

#[test]
fn a_folder_quantised_at_load_stays_near_itself() {
    let dir = tempfile::tempdir().unwrap();
    write_wide_folder(dir.path());
    let of = |quantise| {
        let model = load_folder_tensors(dir.path(), &options(quantise)).unwrap();
        assert!(model.arithmetic().batch_invariant, "{quantise:?}");
        logits_of(model)
    };
    let plain = of(None);
    let (eight, four) = (of(Some(Quantise::Q8_0)), of(Some(Quantise::Q4_K)));
    // Rows of 256 are whole blocks of Q4_K here, so that it is farther away than 8 bits, and still near.
    let (eight, four) = (apart(&eight, &plain), apart(&four, &plain));
    assert!(eight > EXACT && eight < ROUNDED, "{eight}");
    assert!(four > eight && four < 0.5, "{four}");
}

/// A matrix by its name, numbers around 0.
fn matrix(name: &str, rows: usize, columns: usize) -> Tensor {
    let numbers = weights(name, &[rows, columns], 0.0);
    Tensor::from_vec(numbers, (rows, columns), &Device::Cpu).unwrap()
}

fn numbers_of(tensor: &Tensor) -> Vec<u8> {
    le_bytes(&tensor.flatten_all().unwrap().to_vec1().unwrap())
}

fn log_probs(writer: GgufWriter) -> Vec<f32> {
    let gguf = GgufFile::from_bytes(writer.into_bytes()).unwrap();
    logits_of(load_tensors(&gguf, &options(None)).unwrap())
}

/// Log-probabilities behind each of some tokens.
fn logits_of(mut model: Box<dyn CausalLm>) -> Vec<f32> {
    let positions: Vec<u32> = (0..12).collect();
    let mut kv = PagedKv::new(model.spec(), 3, BLOCK, KvType::F32, &Device::Cpu).unwrap();
    let batch = Batch {
        tokens: positions.iter().map(|i| (i * i * 5 + 3) % 64).collect(),
        slots: positions.clone(),
        positions: positions.clone(),
        q_lens: vec![12],
        kv_lens: vec![12],
        block_tables: vec![vec![0, 1, 2]],
        logit_rows: positions,
    };
    let logits = model.forward(&batch, &mut kv).unwrap();
    let log_probs = candle_nn::ops::log_softmax(&logits, 1).unwrap();
    log_probs.flatten_all().unwrap().to_vec1().unwrap()
}

/// How far results lie apart, in parts of how far they lie from each other themselves; a wrong scale or code gives 1.
fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let mean = b.iter().sum::<f32>() / b.len() as f32;
    let spread: f32 = b.iter().map(|b| (b - mean).powi(2)).sum();
    let distance: f32 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
    (distance / spread).sqrt()
}

/// A Qwen 3 whose rows are whole blocks of every type, its embeddings tied.
fn write_wide_folder(dir: &Path) {
    let config = json!({
        "model_type": "qwen3", "vocab_size": 96, "hidden_size": 256, "intermediate_size": 512,
        "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
        "tie_word_embeddings": true,
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mut tensors = BTreeMap::from([
        ("model.embed_tokens.weight".to_owned(), vec![96, 256]),
        ("model.norm.weight".to_owned(), vec![256]),
    ]);
    for layer in 0..2 {
        for (part, shape) in [
            ("self_attn.q_proj", vec![256, 256]),
            ("self_attn.k_proj", vec![64, 256]),
            ("self_attn.v_proj", vec![64, 256]),
            ("self_attn.o_proj", vec![256, 256]),
            ("self_attn.q_norm", vec![32]),
            ("self_attn.k_norm", vec![32]),
            ("mlp.gate_proj", vec![512, 256]),
            ("mlp.up_proj", vec![512, 256]),
            ("mlp.down_proj", vec![256, 512]),
            ("input_layernorm", vec![256]),
            ("post_attention_layernorm", vec![256]),
        ] {
            tensors.insert(format!("model.layers.{layer}.{part}.weight"), shape);
        }
    }
    write_safetensors(&dir.join("model.safetensors"), &tensors, |name| {
        f32::from(u8::from(name.ends_with("norm.weight")))
    });
}
