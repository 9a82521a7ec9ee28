//! A tiny random BERT, and the real MiniLM where it is named, against `transformers` (`scripts/tiny-embedder`).

use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::source::{SourceOptions, resolve};

#[derive(Deserialize)]
struct Tiny {
    config: Value,
    words: Vec<String>,
    tensors: BTreeMap<String, Vec<usize>>,
    cases: Vec<Vectors>,
}

#[derive(Deserialize)]
struct Vectors {
    /// Of length 1.
    mean: Vec<f32>,
    /// As it is.
    cls: Vec<f32>,
}

const TEXTS: [&str; 2] = ["The free cities traded salt and fish", "a b"];

fn tiny() -> Tiny {
    serde_json::from_str(include_str!("../../tests/data/tiny_embedder.json")).unwrap()
}

impl Tiny {
    /// A folder with the network alone.
    fn folder(&self) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), self.config.to_string()).unwrap();
        crate::arch::tests::write_safetensors(&dir.path().join(WEIGHTS), &self.tensors, |name| {
            f32::from(u8::from(name.ends_with("LayerNorm.weight")))
        });
        let vocab: serde_json::Map<String, Value> = self
            .words
            .iter()
            .cloned()
            .zip((0..).map(Value::from))
            .collect();
        let special = |id: u32| json!({"id": self.words[id as usize], "ids": [id], "tokens": [self.words[id as usize]]});
        let tokenizer = json!({
            "version": "1.0", "added_tokens": [], "decoder": null,
            // As in real folders, and not what is wanted here.
            "truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 0},
            "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null,
                        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                           "strip_accents": null, "lowercase": true},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {"type": "TemplateProcessing", "pair": [],
                "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                           {"Sequence": {"id": "A", "type_id": 0}},
                           {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
                "special_tokens": {"[CLS]": special(2), "[SEP]": special(3)}},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 100, "vocab": vocab},
        });
        std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        dir
    }
}

fn write(dir: &Path, name: &str, value: &Value) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, value.to_string()).unwrap();
}

fn near(ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len());
    let distance = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs());
    let distance = distance.fold(0.0, f32::max);
    assert!(distance < 1e-4, "{distance}");
}

#[test]
fn vectors_are_those_of_transformers_with_either_pooling() {
    let tiny = tiny();
    let dir = tiny.folder();
    let pool = |cls: bool| {
        let modes = json!({"pooling_mode_cls_token": cls, "pooling_mode_mean_tokens": !cls});
        write(dir.path(), "1_Pooling/config.json", &modes);
        Embedder::load(dir.path(), &Device::Cpu).unwrap()
    };
    let cls = pool(true);
    assert_eq!((cls.width(), cls.tokens_max()), (32, 16));
    for (text, expected) in TEXTS.iter().zip(&tiny.cases) {
        near(&cls.embed(text).unwrap().vector, &expected.cls);
    }
    let modules = json!([{"type": "sentence_transformers.models.Normalize"}]);
    write(dir.path(), "modules.json", &modules);
    let mean = pool(false);
    for (text, expected) in TEXTS.iter().zip(&tiny.cases) {
        near(&mean.embed(text).unwrap().vector, &expected.mean);
    }
    assert_eq!(mean.embed(TEXTS[1]).unwrap().tokens, 4);
}

#[test]
fn a_vector_is_the_same_whatever_passes_beside_it() {
    let dir = tiny().folder();
    let texts = [
        "a",
        "free cities traded",
        "b a b a b a b a b a",
        "The free cities traded salt and fish",
    ];
    for cls in [false, true] {
        let modes = json!({"pooling_mode_cls_token": cls, "pooling_mode_mean_tokens": !cls});
        write(dir.path(), "1_Pooling/config.json", &modes);
        let embedder = Embedder::load(dir.path(), &Device::Cpu).unwrap();
        let rows: Vec<Vec<u32>> = texts.iter().map(|t| embedder.encode(t).unwrap()).collect();
        let together = embedder.run(&rows).unwrap();
        for (text, vector) in texts.iter().zip(&together) {
            let alone = embedder.embed(text).unwrap().vector;
            let distance = alone.iter().zip(vector).map(|(a, b)| (a - b).abs());
            assert!(distance.fold(0.0, f32::max) < 1e-5, "{text:?}");
        }
    }
}

#[test]
fn folders_of_embedders_are_told_from_others() {
    let tiny = tiny();
    let dir = tiny.folder();
    assert!(is_embedder(dir.path()));
    let mut config = tiny.config;
    config["model_type"] = "llama".into();
    write(dir.path(), "config.json", &config);
    assert!(!is_embedder(dir.path()));
    assert!(!is_embedder(&dir.path().join("model.safetensors")));
}

#[test]
fn a_text_beyond_the_context_is_refused_and_not_cut() {
    let dir = tiny().folder();
    let embed = |text: &str| {
        Embedder::load(dir.path(), &Device::Cpu)
            .unwrap()
            .embed(text)
    };
    assert_eq!(embed(&"a ".repeat(14)).unwrap().tokens, 16);
    let error = embed(&"a ".repeat(15)).unwrap_err();
    assert!(
        matches!(
            error,
            EmbedError::TooLong {
                tokens: 17,
                tokens_max: 16
            }
        ),
        "{error}"
    );
    write(
        dir.path(),
        "sentence_bert_config.json",
        &json!({"max_seq_length": 8}),
    );
    let error = embed(&"a ".repeat(7)).unwrap_err();
    assert!(
        matches!(
            error,
            EmbedError::TooLong {
                tokens: 9,
                tokens_max: 8
            }
        ),
        "{error}"
    );
    assert!(embed(&"a".repeat(limits::TEXT_BYTES_MAX + 1)).is_err());
}

#[test]
fn folders_that_are_no_embedder_are_refused_by_name() {
    let tiny = tiny();
    let why = |spoil: &dyn Fn(&Path)| {
        let dir = tiny.folder();
        spoil(dir.path());
        Embedder::load(dir.path(), &Device::Cpu)
            .unwrap_err()
            .to_string()
    };
    let changed = |key: &str, value: Value| {
        why(&|dir| {
            let mut config = tiny.config.clone();
            config[key] = value.clone();
            write(dir, "config.json", &config);
        })
    };
    assert!(changed("model_type", "llama".into()).contains("`llama`"));
    assert!(changed("vocab_size", 9.into()).contains("15 tokens, the weights 9"));
    let missing = why(&|dir| std::fs::remove_file(dir.join(WEIGHTS)).unwrap());
    assert!(missing.contains(WEIGHTS), "{missing}");
    let cut = why(&|dir| std::fs::write(dir.join(WEIGHTS), [0xff; 32]).unwrap());
    assert!(cut.contains("tensors failed"), "{cut}");
    let modes = json!({"pooling_mode_max_tokens": true});
    let pooling = why(&|dir| write(dir, "1_Pooling/config.json", &modes));
    assert!(pooling.contains("neither the mean"), "{pooling}");
}

/// The catalogue's embedder, with real weights.
#[test]
fn the_real_minilm_gives_the_vectors_of_transformers() {
    #[derive(Deserialize)]
    struct Case {
        text: String,
        tokens: usize,
        vector: Vec<f32>,
    }
    let found = resolve("all-minilm-l6-v2", &SourceOptions::from_env()).unwrap();
    assert!(is_embedder(&found.path));
    let embedder = Embedder::load(&found.path, &Device::Cpu).unwrap();
    assert_eq!((embedder.width(), embedder.tokens_max()), (384, 256));
    let cases: Vec<Case> =
        serde_json::from_str(include_str!("../../tests/data/minilm_vectors.json")).unwrap();
    for case in &cases {
        let embedding = embedder.embed(&case.text).unwrap();
        assert_eq!(embedding.tokens, case.tokens, "{:?}", case.text);
        near(&embedding.vector, &case.vector);
    }
    // In one pass, padded to the longest: the same but for rounding.
    let rows: Vec<Vec<u32>> = cases
        .iter()
        .map(|case| embedder.encode(&case.text).unwrap())
        .collect();
    let together = embedder.run(&rows).unwrap();
    for (case, vector) in cases.iter().zip(&together) {
        let alone = embedder.embed(&case.text).unwrap().vector;
        let distance = alone.iter().zip(vector).map(|(a, b)| (a - b).abs());
        assert!(distance.fold(0.0, f32::max) < 1e-5, "{:?}", case.text);
    }
    // The two texts of the salt trade are the nearest to each other.
    let likeness = |a: usize, b: usize| -> f32 {
        together[a]
            .iter()
            .zip(&together[b])
            .map(|(a, b)| a * b)
            .sum()
    };
    assert!(likeness(0, 1) > 0.5 && likeness(0, 2) < 0.3 && likeness(1, 3) < 0.3);
}
