//! Tokenizers of real files against llama.cpp's on hostile strings: 239 written by hand, and 10,000 made by a rule.
//!
//! The files come through `source`: from the cache, or with pip where they are not there yet. The answers were written by
//! `scripts/tokenize-corpus`, which makes the same strings by the same rule.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::HashMap;
use std::path::Path;

use hansa_models::source::{self, SourceOptions};
use hansa_models::text::{SpecialTokens, TextCodec};
use hansa_models::tokenizer::FileTokenizer;
use hansa_models::weights::gguf::GgufFile;
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// Answers of llama-server's `/tokenize`.
#[derive(Deserialize)]
struct Reference {
    as_text: Vec<Vec<u32>>,
    /// By index, where they differ from `as_text`.
    parsed: HashMap<usize, Vec<u32>>,
    /// Six hexadecimal digits for each string of the rule.
    seeded: String,
}

/// A letter and a digit that Unicode 16 brought: llama.cpp knows what they are, the regular expressions that we and the
/// models' own tokenizers use do not yet. Alone they agree; beside other letters and digits words are cut otherwise.
const TOO_NEW: [char; 2] = ['\u{10d4a}', '\u{1ccf0}'];

struct Rig {
    /// Text of the begin-of-sequence token: one that is written in the text stays the only one.
    bos: String,
    tokenizer: FileTokenizer,
    strings: Vec<String>,
    reference: Reference,
}

impl Rig {
    fn new(model: &str, reference: &str) -> Self {
        let file = source::resolve(model, &SourceOptions::from_env()).unwrap();
        Self::open(&file.path, reference)
    }

    fn open(path: &Path, reference: &str) -> Self {
        let gguf = GgufFile::open(path).unwrap();
        let bos = gguf.opt_u32("tokenizer.ggml.bos_token_id").unwrap();
        let tokens = gguf.strings("tokenizer.ggml.tokens").unwrap();
        Self {
            bos: bos
                .map(|id| tokens[id as usize].clone())
                .unwrap_or_default(),
            tokenizer: FileTokenizer::from_gguf(&gguf).unwrap(),
            strings: serde_json::from_str(include_str!("data/hostile_strings.json")).unwrap(),
            reference: serde_json::from_str(reference).unwrap(),
        }
    }

    /// The ids without the begin-of-sequence token, which the reference leaves out.
    fn encode(&self, text: &str, special: SpecialTokens) -> Vec<u32> {
        let empty = self.tokenizer.encode("", special).unwrap();
        let mut ids = self.tokenizer.encode(text, special).unwrap();
        let written = special == SpecialTokens::Parse && text.starts_with(&self.bos);
        if !written && ids.starts_with(&empty) {
            ids.drain(..empty.len());
        }
        ids
    }

    fn check(&self) {
        assert_eq!(self.strings.len(), self.reference.as_text.len());
        for (index, text) in self.strings.iter().enumerate() {
            let plain = &self.reference.as_text[index];
            let shown: String = text.chars().take(60).collect();
            let ids = self.encode(text, SpecialTokens::AsText);
            assert_eq!(&ids, plain, "as text: {shown:?}");
            let ids = self.encode(text, SpecialTokens::Parse);
            let parsed = self.reference.parsed.get(&index).unwrap_or(plain);
            assert_eq!(&ids, parsed, "parsed: {shown:?}");
        }
        let digests = self.reference.seeded.as_bytes().chunks(6).enumerate();
        let mut wrong = Vec::new();
        for (index, digest) in digests {
            let text = seeded(index as u64, &self.strings);
            if text.contains(TOO_NEW) {
                continue;
            }
            let as_text = self.encode(&text, SpecialTokens::AsText);
            let parsed = self.encode(&text, SpecialTokens::Parse);
            if digest_of(&as_text, &parsed).as_bytes() != digest {
                wrong.push((index, text));
            }
        }
        assert!(
            wrong.is_empty(),
            "{} differ: {:?}",
            wrong.len(),
            &wrong[..wrong.len().min(5)]
        );
    }
}

#[test]
fn byte_level_ids_equal_those_of_llama_cpp() {
    Rig::new(
        "smollm2-135m-instruct",
        include_str!("data/smollm2_ids.json"),
    )
    .check();
}

#[test]
fn sentence_piece_ids_equal_those_of_llama_cpp() {
    Rig::new("gemma-3-270m", include_str!("data/gemma3_ids.json")).check();
}

/// The same for every `NAME.gguf` with a `NAME.json` beside it, in the folder that `HANSA_TEST_TOKENIZERS` names.
#[test]
fn other_ids_equal_those_of_llama_cpp() {
    let Some(dir) = std::env::var_os("HANSA_TEST_TOKENIZERS") else {
        return;
    };
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "gguf")
        {
            println!("{}", path.display());
            let reference = std::fs::read_to_string(path.with_extension("json")).unwrap();
            Rig::open(&path, &reference).check();
        }
    }
}

fn digest_of(as_text: &[u32], parsed: &[u32]) -> String {
    let mut hash = Sha256::new();
    for id in as_text.iter().chain([&u32::MAX]).chain(parsed) {
        hash.update(id.to_le_bytes());
    }
    let digest = hash.finalize();
    digest[..3]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// String `index` of the rule.
fn seeded(index: u64, pool: &[String]) -> String {
    let mut noise = Noise(index);
    let pieces = 1 + noise.below(12);
    (0..pieces).map(|_| piece(&mut noise, pool)).collect()
}

fn piece(noise: &mut Noise, pool: &[String]) -> String {
    match noise.below(8) {
        0..4 => pool[noise.below(pool.len())].chars().take(24).collect(),
        4 => {
            let code = noise.below(0x11_0000);
            char::from_u32(code as u32).unwrap_or('x').to_string()
        }
        5 => {
            let char = char::from(b" \n\t.-=a0_"[noise.below(9)]);
            std::iter::repeat_n(char, 1 + noise.below(40)).collect()
        }
        6 => noise.word(b"abcdefghijklmnopqrstuvwxyz", 10),
        _ => noise.word(b"0123456789", 6),
    }
}

/// splitmix64 (Steele, Lea and Flood 2014).
struct Noise(u64);

impl Noise {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    fn word(&mut self, alphabet: &[u8], most: usize) -> String {
        let len = 1 + self.below(most);
        (0..len)
            .map(|_| char::from(alphabet[self.below(alphabet.len())]))
            .collect()
    }
}
