//! Gemma 3 270M, the real file: greedy tokens are llama.cpp's, also beyond the window of its layers.
//!
//! The tokens were written once by `scripts/golden-tokens`; each was the best by a clear margin there.
#![cfg(feature = "candle")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use candle_core::Device;
use hansa_models::source::{self, SourceOptions};
use hansa_models::text::{ChatInput, SpecialTokens, TextError};
use hansa_models::{Batch, KvType, LoadOptions, LoadedModel, PagedKv, load_gguf};
use serde::Deserialize;

const BLOCK: u32 = 16;
/// Blocks for the longest prompt and what follows it.
const BLOCKS: u32 = 80;
/// Tokens in a step, so that long prompts come in chunks.
const CHUNK: usize = 256;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    prompt: String,
    prompt_ids: Vec<u32>,
    tokens: Vec<u32>,
}

fn load() -> LoadedModel {
    let file = source::resolve("gemma-3-270m", &SourceOptions::from_env()).unwrap();
    let options = LoadOptions {
        device: Device::Cpu,
        kv_type: KvType::F32,
        quantise: None,
    };
    load_gguf(&file.path, &options).unwrap()
}

#[test]
fn greedy_tokens_are_those_of_llama_cpp() {
    let golden: Golden = serde_json::from_str(include_str!("data/golden_gemma3.json")).unwrap();
    let mut loaded = load();
    let spec = loaded.model.spec().clone();
    assert_eq!(
        (spec.vocab_size, spec.layers, spec.kv_heads, spec.head_dim),
        (262_144, 18, 1, 256)
    );
    let mut kv = PagedKv::new(&spec, BLOCKS, BLOCK, KvType::F32, &Device::Cpu).unwrap();
    for case in golden.cases {
        let ids = loaded
            .text
            .encode(&case.prompt, SpecialTokens::Parse)
            .unwrap();
        assert_eq!(ids, case.prompt_ids, "{:?}", case.prompt);
        let tokens = greedy(&mut loaded, &mut kv, &ids, case.tokens.len());
        assert_eq!(tokens, case.tokens, "{:?}", case.prompt);
    }
}

#[test]
fn a_base_model_has_no_chats_and_knows_its_ends() {
    let text = load().text;
    let chat = ChatInput {
        messages: &[],
        tools: &[],
        add_generation_prompt: true,
        template_time_s: 0,
    };
    assert_eq!(text.render_chat(&chat), Err(TextError::NoTemplate));
    // <eos>, <end_of_turn> and </s>, as llama.cpp prints them for this file.
    assert_eq!(text.end_of_generation(), [1, 106, 212]);
}

fn greedy(loaded: &mut LoadedModel, kv: &mut PagedKv, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    let mut done = 0;
    while tokens.len() < prompt.len() + count {
        let end = tokens.len().min(done + CHUNK);
        let logits = loaded
            .model
            .forward(&batch(&tokens, done, end), kv)
            .unwrap();
        done = end;
        if done == tokens.len() {
            let best = logits.argmax(1).unwrap().to_vec1::<u32>().unwrap();
            tokens.push(best[0]);
        }
    }
    tokens.split_off(prompt.len())
}

/// Tokens `start .. end` of the only sequence, in blocks from the first on.
fn batch(tokens: &[u32], start: usize, end: usize) -> Batch {
    let positions: Vec<u32> = (start as u32..end as u32).collect();
    Batch {
        tokens: tokens[start..end].to_vec(),
        slots: positions.clone(),
        positions,
        q_lens: vec![(end - start) as u32],
        kv_lens: vec![end as u32],
        block_tables: vec![(0..BLOCKS).collect()],
        logit_rows: vec![(end - start) as u32 - 1],
    }
}
