//! Every architecture against `transformers`, on tiny random checkpoints in F32: as a folder, and as the GGUF file that
//! llama.cpp would make of it.
//!
//! Configurations and results were written by `scripts/tiny-checkpoints`; the weights follow from their names.

mod types;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Device;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::testing::GgufWriter;
use crate::weights::folder::Names;
use crate::weights::gguf::GgufFile;
use crate::{
    Batch, CausalLm, KvType, LoadError, LoadOptions, PagedKv, Quantise, load_folder_tensors,
    load_tensors,
};

const BLOCK: u32 = 4;
/// What log-probabilities may differ by, in nats.
const TOLERANCE: f32 = 1e-3;

#[derive(Deserialize)]
struct Reference {
    tokens: Vec<u32>,
    /// Positions whose log-probabilities were kept.
    rows: Vec<u32>,
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    config: Value,
    /// Shapes by name.
    tensors: BTreeMap<String, Vec<usize>>,
    log_probs: Vec<Vec<f32>>,
}

fn reference() -> Reference {
    serde_json::from_str(include_str!("../../tests/data/tiny_checkpoints.json")).unwrap()
}

fn options(quantise: Option<Quantise>) -> LoadOptions {
    LoadOptions {
        device: Device::Cpu,
        kv_type: KvType::F32,
        quantise,
    }
}

#[test]
fn folders_give_the_log_probabilities_of_transformers() {
    let reference = reference();
    for (name, case) in &reference.cases {
        let dir = tempfile::tempdir().unwrap();
        case.write_folder(dir.path(), 1);
        let whole = load_folder_tensors(dir.path(), &options(None)).unwrap();
        case.check(name, whole, &reference);
        let shards = tempfile::tempdir().unwrap();
        case.write_folder(shards.path(), 3);
        let sharded = load_folder_tensors(shards.path(), &options(None)).unwrap();
        case.check(name, sharded, &reference);
    }
}

#[test]
fn gguf_files_give_the_log_probabilities_of_transformers() {
    let reference = reference();
    for (name, case) in &reference.cases {
        let gguf = GgufFile::from_bytes(case.gguf().into_bytes()).unwrap();
        let model = load_tensors(&gguf, &options(None)).unwrap();
        case.check(name, model, &reference);
    }
}

#[test]
fn weights_quantised_while_they_are_read_stay_near() {
    let reference = reference();
    for (name, case) in &reference.cases {
        let dir = tempfile::tempdir().unwrap();
        case.write_folder(dir.path(), 1);
        // Rows of 64 are no whole blocks of Q4_K: they get 8 bits then.
        for quantise in [Quantise::Q8_0, Quantise::Q4_K] {
            let model = load_folder_tensors(dir.path(), &options(Some(quantise))).unwrap();
            let distance = case.distance(model, &reference);
            assert!((1e-4..0.5).contains(&distance), "{name}: {distance}");
        }
    }
}

#[test]
fn folders_that_are_not_what_they_say_are_refused() {
    let reference = reference();
    let case = &reference.cases["llama"];
    let why = |spoil: &dyn Fn(&Path)| {
        let dir = tempfile::tempdir().unwrap();
        case.write_folder(dir.path(), 1);
        spoil(dir.path());
        let error = load_folder_tensors(dir.path(), &options(None))
            .err()
            .unwrap();
        error.to_string()
    };
    let weights = "model.safetensors";
    let cut = why(&|dir| {
        let bytes = std::fs::read(dir.join(weights)).unwrap();
        std::fs::write(dir.join(weights), &bytes[..bytes.len() - 1]).unwrap();
    });
    assert!(cut.contains("cut short"), "{cut}");
    let absurd = why(&|dir| std::fs::write(dir.join(weights), [0xff; 64]).unwrap());
    assert!(absurd.contains("cut short"), "{absurd}");
    let missing = why(&|dir| std::fs::remove_file(dir.join(weights)).unwrap());
    assert!(missing.contains("there is no"), "{missing}");
    let escaping = why(&|dir| {
        let index = json!({"weight_map": {"a": "../elsewhere.safetensors"}}).to_string();
        std::fs::write(dir.join("model.safetensors.index.json"), index).unwrap();
    });
    assert!(escaping.contains("outside of the folder"), "{escaping}");
    let foreign = why(&|dir| {
        let mut config = case.config.clone();
        config["model_type"] = "mamba".into();
        std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    });
    assert!(
        foreign.contains("mamba") && foreign.contains("qwen3"),
        "{foreign}"
    );
    let unknown = why(&|dir| {
        let name = "model.layers.0.self_attn.sinks.weight".to_owned();
        let mut tensors = case.tensors.clone();
        tensors.insert(name, vec![4]);
        write_safetensors(&dir.join(weights), &tensors, |name| case.offset(name));
    });
    assert!(unknown.contains("sinks"), "{unknown}");
}

impl Case {
    fn check(&self, name: &str, model: Box<dyn CausalLm>, reference: &Reference) {
        let distance = self.distance(model, reference);
        assert!(distance < TOLERANCE, "{name}: {distance}");
    }

    /// Largest distance of a log-probability from the reference.
    fn distance(&self, model: Box<dyn CausalLm>, reference: &Reference) -> f32 {
        let rows = self.run(model, reference);
        assert_eq!(rows.len(), self.log_probs.len());
        let pairs = rows.concat().into_iter().zip(self.log_probs.concat());
        pairs
            .map(|(ours, theirs)| (ours - theirs).abs())
            .fold(0.0, f32::max)
    }

    /// Log-probabilities at the reference's rows, the prompt in two chunks.
    fn run(&self, mut model: Box<dyn CausalLm>, reference: &Reference) -> Vec<Vec<f32>> {
        let spec = model.spec().clone();
        let blocks = reference.tokens.len() as u32 / BLOCK + 1;
        let mut kv = PagedKv::new(&spec, blocks, BLOCK, KvType::F32, &Device::Cpu).unwrap();
        let mut rows = Vec::new();
        for (start, end) in [(0, 15), (15, reference.tokens.len())] {
            let positions: Vec<u32> = (start as u32..end as u32).collect();
            let wanted = reference.rows.iter().filter(|row| positions.contains(row));
            let batch = Batch {
                tokens: reference.tokens[start..end].to_vec(),
                slots: positions.clone(),
                positions: positions.clone(),
                q_lens: vec![(end - start) as u32],
                kv_lens: vec![end as u32],
                block_tables: vec![(0..blocks).collect()],
                logit_rows: wanted.map(|row| row - start as u32).collect(),
            };
            let logits = model.forward(&batch, &mut kv).unwrap();
            let log_probs = candle_nn::ops::log_softmax(&logits, 1).unwrap();
            rows.extend(log_probs.to_vec2::<f32>().unwrap());
        }
        rows
    }

    fn write_folder(&self, dir: &Path, shards: usize) {
        std::fs::write(dir.join("config.json"), self.config.to_string()).unwrap();
        if shards == 1 {
            write_safetensors(&dir.join("model.safetensors"), &self.tensors, |name| {
                self.offset(name)
            });
            return;
        }
        let mut weight_map = BTreeMap::new();
        for shard in 0..shards {
            let file = format!("model-{shard}.safetensors");
            let mine = self.tensors.iter().enumerate();
            let mine = mine.filter(|(index, _)| index % shards == shard);
            let tensors: BTreeMap<_, _> = mine
                .map(|(_, (name, shape))| (name.clone(), shape.clone()))
                .collect();
            write_safetensors(&dir.join(&file), &tensors, |name| self.offset(name));
            weight_map.extend(tensors.into_keys().map(|name| (name, file.clone())));
        }
        let index = json!({"metadata": {}, "weight_map": weight_map}).to_string();
        std::fs::write(dir.join("model.safetensors.index.json"), index).unwrap();
    }

    /// Norms are near 1, and Gemma's near 0, where that is added.
    fn offset(&self, name: &str) -> f32 {
        let is_norm = name.ends_with("norm.weight");
        f32::from(u8::from(
            is_norm && self.config["model_type"] != "gemma3_text",
        ))
    }

    fn size(&self, key: &str) -> usize {
        self.config[key].as_u64().unwrap() as usize
    }

    /// The file that llama.cpp's converter makes: other names, Llama's heads with their pairs side by side, Gemma's norms
    /// with their one added.
    fn gguf(&self) -> GgufWriter {
        let family = match self.config["model_type"].as_str().unwrap() {
            "mistral" => "llama",
            "gemma3_text" => "gemma3",
            other => other,
        };
        let mut writer = self.gguf_keys(family);
        let names = Names::new(family == "gemma3");
        for (name, shape) in &self.tensors {
            let mut numbers = weights(name, shape, self.offset(name));
            let rotated = name.contains("q_proj") || name.contains("k_proj");
            if family == "llama" && rotated {
                numbers = side_by_side(&numbers, shape, self.size("head_dim"));
            }
            if family == "gemma3" && name.ends_with("norm.weight") {
                numbers.iter_mut().for_each(|x| *x += 1.0);
            }
            if name.ends_with("q_norm.weight") {
                // GGUF has no key for a scale of its own.
                let scalar = self.config["query_pre_attn_scalar"].as_f64();
                let scale = scalar.map_or(1.0, |scalar| (32.0 / scalar).sqrt() as f32);
                numbers.iter_mut().for_each(|x| *x *= scale);
            }
            writer = writer.tensor(&names.gguf(name).unwrap(), shape, 0, &le_bytes(&numbers));
        }
        let rope = &self.config["rope_parameters"];
        if rope["rope_type"] == "llama3" {
            let factors = le_bytes(&llama3_factors(rope, self.size("head_dim")));
            writer = writer.tensor(
                "rope_freqs.weight",
                &[self.size("head_dim") / 2],
                0,
                &factors,
            );
        }
        writer
    }

    fn gguf_keys(&self, family: &str) -> GgufWriter {
        let key = |name: &str| format!("{family}.{name}");
        let mut writer = GgufWriter::default().str("general.architecture", family);
        let head_dim = self.config["head_dim"].as_u64().unwrap_or(16) as u32;
        for (name, value) in [
            ("block_count", self.size("num_hidden_layers") as u32),
            (
                "context_length",
                self.size("max_position_embeddings") as u32,
            ),
            ("embedding_length", self.size("hidden_size") as u32),
            ("feed_forward_length", self.size("intermediate_size") as u32),
            (
                "attention.head_count",
                self.size("num_attention_heads") as u32,
            ),
            (
                "attention.head_count_kv",
                self.size("num_key_value_heads") as u32,
            ),
            ("attention.key_length", head_dim),
            ("attention.value_length", head_dim),
        ] {
            writer = writer.u32(&key(name), value);
        }
        let rope = &self.config["rope_parameters"];
        let rope = rope.get("full_attention").unwrap_or(rope);
        let base = rope["rope_theta"].as_f64().unwrap() as f32;
        writer = writer
            .f32(&key("attention.layer_norm_rms_epsilon"), 1e-6)
            .f32(&key("rope.freq_base"), base);
        if let kind @ ("linear" | "yarn") = rope["rope_type"].as_str().unwrap() {
            let factor = rope["factor"].as_f64().unwrap() as f32;
            writer = writer
                .str(&key("rope.scaling.type"), kind)
                .f32(&key("rope.scaling.factor"), factor);
        }
        if let Some(len) = rope["original_max_position_embeddings"].as_u64() {
            writer = writer.u32(&key("rope.scaling.original_context_length"), len as u32);
        }
        if let Some(window) = self.config["sliding_window"].as_u64() {
            writer = writer.u32(&key("attention.sliding_window"), window as u32);
        }
        match family {
            // Every second of the three layers has none.
            "gemma3" => writer.u32(&key("attention.sliding_window_pattern"), 2),
            _ => writer,
        }
    }
}

/// Rows `i` and `i + half` of each head become rows `2i` and `2i + 1`.
fn side_by_side(numbers: &[f32], shape: &[usize], head_dim: usize) -> Vec<f32> {
    let columns = shape[1];
    let row_of = |row: usize| {
        let (head, place) = (row / head_dim, row % head_dim);
        head * head_dim + place / 2 + place % 2 * (head_dim / 2)
    };
    (0..shape[0])
        .flat_map(|row| &numbers[row_of(row) * columns..][..columns])
        .copied()
        .collect()
}

/// As llama.cpp's converter writes them.
fn llama3_factors(rope: &Value, head_dim: usize) -> Vec<f32> {
    let get = |key: &str| rope[key].as_f64().unwrap();
    let (factor, low, high) = (
        get("factor"),
        get("low_freq_factor"),
        get("high_freq_factor"),
    );
    let (context, base) = (get("original_max_position_embeddings"), get("rope_theta"));
    let of_pair = |i: usize| {
        let wavelength = std::f64::consts::TAU * base.powf(2.0 * i as f64 / head_dim as f64);
        if wavelength < context / high {
            1.0
        } else if wavelength > context / low {
            factor
        } else {
            let smooth = (context / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    (0..head_dim / 2).map(|i| of_pair(i) as f32).collect()
}

/// The tensors by the rule, `offset` added to each.
pub(crate) fn write_safetensors(
    path: &Path,
    tensors: &BTreeMap<String, Vec<usize>>,
    offset: impl Fn(&str) -> f32,
) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape) in tensors {
        let start = data.len();
        data.extend(le_bytes(&weights(name, shape, offset(name))));
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.clone(), entry);
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.into_bytes());
    bytes.extend(data);
    std::fs::write(path, bytes).unwrap();
}

fn le_bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// The rule of `scripts/tiny-checkpoints`.
fn weights(name: &str, shape: &[usize], offset: f32) -> Vec<f32> {
    let places = name.bytes().zip(1u64..);
    let mut state: u64 = places.map(|(byte, place)| place * u64::from(byte)).sum();
    let scale = if shape.len() == 2 { 0.2 } else { 0.3 };
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let unit = ((z ^ (z >> 31)) >> 40) as f32 / (1u32 << 23) as f32 - 1.0;
        unit * scale + offset
    };
    (0..shape.iter().product()).map(|_| next()).collect()
}

#[test]
fn a_missing_tensor_is_named() {
    let reference = reference();
    let case = &reference.cases["qwen2"];
    let dir = tempfile::tempdir().unwrap();
    case.write_folder(dir.path(), 1);
    let mut tensors = case.tensors.clone();
    tensors
        .remove("model.layers.1.self_attn.k_proj.bias")
        .unwrap();
    write_safetensors(&dir.path().join("model.safetensors"), &tensors, |name| {
        case.offset(name)
    });
    let error = load_folder_tensors(dir.path(), &options(None))
        .err()
        .unwrap();
    assert!(matches!(error, LoadError::MissingTensor { tensor } if tensor == "blk.1.attn_k.bias"));
}
