//! The tokenizer of a Hugging Face folder against that of the GGUF file with the same vocabulary.
#![cfg(feature = "candle")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use hansa_models::source::{self, SourceOptions};
use hansa_models::text::{ChatInput, SpecialTokens, TextCodec, TextError};
use hansa_models::tokenizer::FileTokenizer;
use hansa_models::weights::gguf::GgufFile;
use serde_json::{Value, json};

/// Writes SmolLM2's vocabulary as the `tokenizer.json` that its authors published.
fn write_folder(gguf: &GgufFile, dir: &Path) {
    let tokens = gguf.strings("tokenizer.ggml.tokens").unwrap();
    let kinds = gguf.i32s("tokenizer.ggml.token_type").unwrap();
    let numbered = || tokens.iter().zip(0_u32..);
    let vocab: serde_json::Map<String, Value> = numbered()
        .map(|(text, id)| (text.clone(), id.into()))
        .collect();
    let added: Vec<Value> = numbered()
        .zip(kinds)
        .filter(|(_, kind)| **kind == 3)
        .map(|((text, id), _)| {
            json!({"id": id, "content": text, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "post_processor": null, "added_tokens": added,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        ]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false,
                  "continuing_subword_prefix": null, "end_of_word_suffix": null, "byte_fallback": false,
                  "vocab": vocab, "merges": gguf.strings("tokenizer.ggml.merges").unwrap()},
    });
    let settings = json!({
        "bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"},
        "chat_template": [{"name": "tools", "template": ""},
                          {"name": "default", "template": "{{ messages[0].content }}{{ eos_token }}"}],
    });
    for (name, value) in [
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", settings),
    ] {
        std::fs::write(dir.join(name), value.to_string()).unwrap();
    }
}

/// Bytes that are no tokens of this vocabulary.
fn is_without_token(byte: u8) -> bool {
    matches!(byte, 0x04 | 0x06 | 0x13 | 0x14 | 0x16 | 0x1d | 0xf1 | 0xf2)
}

#[test]
fn the_same_vocabulary_gives_the_same_ids_and_text() {
    let file = source::resolve("smollm2-135m-instruct", &SourceOptions::from_env()).unwrap();
    let gguf = GgufFile::open(&file.path).unwrap();
    let dir = tempfile::tempdir().unwrap();
    write_folder(&gguf, dir.path());
    let (ours, folder) = (
        FileTokenizer::from_gguf(&gguf).unwrap(),
        FileTokenizer::from_folder(dir.path()).unwrap(),
    );
    assert_eq!(folder.vocab_size(), ours.vocab_size());
    assert_eq!(folder.end_of_generation(), ours.end_of_generation());
    let strings: Vec<String> =
        serde_json::from_str(include_str!("data/hostile_strings.json")).unwrap();
    for text in strings
        .iter()
        .filter(|text| !text.bytes().any(is_without_token))
    {
        for special in [SpecialTokens::AsText, SpecialTokens::Parse] {
            let ids = folder.encode(text, special).unwrap();
            assert_eq!(ids, ours.encode(text, special).unwrap(), "{text:?}");
            for id in ids {
                assert_eq!(folder.token_bytes(id), ours.token_bytes(id));
            }
        }
    }
}

#[test]
fn templates_come_from_a_file_of_their_own_or_the_settings_or_not_at_all() {
    let file = source::resolve("smollm2-135m-instruct", &SourceOptions::from_env()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    write_folder(&GgufFile::open(&file.path).unwrap(), dir.path());
    let messages = [json!({"role": "user", "content": "Hi"})];
    let render = || {
        FileTokenizer::from_folder(dir.path())
            .unwrap()
            .render_chat(&ChatInput {
                messages: &messages,
                tools: &[],
                add_generation_prompt: true,
                template_time_s: 0,
            })
    };
    assert_eq!(render().unwrap(), "Hi<|im_end|>");
    let template = dir.path().join("chat_template.jinja");
    std::fs::write(&template, "{{ bos_token }}!").unwrap();
    assert_eq!(render().unwrap(), "<|im_start|>!");
    std::fs::remove_file(&template).unwrap();
    std::fs::remove_file(dir.path().join("tokenizer_config.json")).unwrap();
    assert_eq!(render(), Err(TextError::NoTemplate));
    std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    assert!(FileTokenizer::from_folder(dir.path()).is_err());
    std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    let error = FileTokenizer::from_folder(dir.path()).unwrap_err();
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
}
