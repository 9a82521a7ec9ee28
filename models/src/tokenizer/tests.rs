//! Small vocabularies that hold what the default model's lacks.

use serde_json::json;

use super::*;
use crate::testing::GgufWriter;

const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// 256 bytes, then `a b`-merges, then the given tokens.
fn file(pre: &str, extra: &[(&str, i32)]) -> GgufWriter {
    let mut tokens: Vec<String> = byte_level_alphabet();
    tokens.push("ab".to_owned());
    tokens.push("abc".to_owned());
    let mut kinds = vec![NORMAL; tokens.len()];
    for (text, kind) in extra {
        tokens.push((*text).to_owned());
        kinds.push(*kind);
    }
    GgufWriter::default()
        .str("tokenizer.ggml.model", "gpt2")
        .str("tokenizer.ggml.pre", pre)
        .strings("tokenizer.ggml.tokens", &tokens)
        .i32s("tokenizer.ggml.token_type", &kinds)
        .strings("tokenizer.ggml.merges", &["a b", "b c", "ab c", "abc d"])
}

/// In order of byte.
fn byte_level_alphabet() -> Vec<String> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut others = 0x100..;
    (0..=255_u8)
        .map(|byte| {
            if printable(&byte) {
                u32::from(byte)
            } else {
                others.next().unwrap()
            }
        })
        .map(|char| char::from_u32(char).unwrap().to_string())
        .collect()
}

const AB: u32 = 256;
const ABC: u32 = 257;
const EXTRA: u32 = 258;

fn load(writer: GgufWriter) -> Result<FileTokenizer, TokenizerError> {
    FileTokenizer::from_gguf(&GgufFile::from_bytes(writer.into_bytes()).unwrap())
}

fn failure(writer: GgufWriter) -> String {
    load(writer).unwrap_err().to_string()
}

#[test]
fn merges_go_by_rank_and_those_without_a_token_never_happen() {
    let tokenizer = load(file("gpt-2", &[])).unwrap();
    let encode = |text| tokenizer.encode(text, SpecialTokens::AsText).unwrap();
    assert_eq!(encode("abcab"), [ABC, AB]);
    assert_eq!(encode("abcd"), [ABC, u32::from(b'd')]);
    assert_eq!(encode("\u{0}é"), [0, 0xc3, 0xa9]);
    assert!(encode("").is_empty());
    assert_eq!(tokenizer.vocab_size(), 258);
}

#[test]
fn control_tokens_are_parsed_on_demand_and_user_defined_ones_always() {
    let extra = [("<c>", CONTROL), ("<u>", USER_DEFINED), ("<c><u>", CONTROL)];
    let tokenizer = load(file("gpt-2", &extra)).unwrap();
    let (c, u, cu) = (EXTRA, EXTRA + 1, EXTRA + 2);
    let encode = |text, special| tokenizer.encode(text, special).unwrap();
    assert_eq!(
        encode("<c>ab<u><c><u>", SpecialTokens::Parse),
        [c, AB, u, cu]
    );
    let spelled: Vec<u32> = "<c>".bytes().map(u32::from).collect();
    assert_eq!(
        encode("<c><u>", SpecialTokens::AsText),
        [spelled, vec![u]].concat()
    );
    assert_eq!(tokenizer.token_bytes(c), b"");
    assert_eq!(tokenizer.token_bytes(u), b"<u>");
    assert_eq!(tokenizer.token_bytes(9_999), b"");
}

#[test]
fn a_vocabulary_that_lacks_bytes_loses_them_without_merging_over_the_gap() {
    let lacking = file("gpt-2", &[]).into_bytes();
    // The character of byte 0x04 is U+0104; another takes its place.
    let at = lacking
        .windows(2)
        .position(|two| two == "Ą".as_bytes())
        .unwrap();
    let mut bytes = lacking;
    bytes[at..at + 2].copy_from_slice("Я".as_bytes());
    let tokenizer = FileTokenizer::from_gguf(&GgufFile::from_bytes(bytes).unwrap()).unwrap();
    let ids = tokenizer
        .encode("!\u{4}! a\u{4}b", SpecialTokens::AsText)
        .unwrap();
    let expected: Vec<u32> = "!! ab".bytes().map(u32::from).collect();
    assert_eq!(ids, expected);
}

#[test]
fn the_begin_of_sequence_token_is_set_once() {
    let with_bos = |pre, extra: &[(&str, i32)]| {
        load(file(pre, extra).u32("tokenizer.ggml.bos_token_id", EXTRA)).unwrap()
    };
    // Llama 3 sets it unless the file says otherwise; GPT-2 does not.
    let llama = with_bos("llama-bpe", &[("<s>", CONTROL)]);
    assert_eq!(
        llama.encode("ab", SpecialTokens::AsText).unwrap(),
        [EXTRA, AB]
    );
    assert_eq!(
        llama.encode("<s>ab", SpecialTokens::Parse).unwrap(),
        [EXTRA, AB]
    );
    assert_eq!(llama.encode("", SpecialTokens::Parse).unwrap(), [EXTRA]);
    let gpt = with_bos("gpt-2", &[("<s>", CONTROL)]);
    assert_eq!(gpt.encode("ab", SpecialTokens::AsText).unwrap(), [AB]);
    let told = file("gpt-2", &[("<s>", CONTROL)])
        .u32("tokenizer.ggml.bos_token_id", EXTRA)
        .bool("tokenizer.ggml.add_bos_token", true);
    assert_eq!(
        load(told)
            .unwrap()
            .encode("ab", SpecialTokens::AsText)
            .unwrap(),
        [EXTRA, AB]
    );
}

#[test]
fn llama_3_takes_words_that_are_tokens_whole() {
    let extra = [("bcd", NORMAL)];
    let encode = |pre| {
        let writer = file(pre, &extra).bool("tokenizer.ggml.add_bos_token", false);
        load(writer)
            .unwrap()
            .encode("bcd", SpecialTokens::AsText)
            .unwrap()
    };
    assert_eq!(encode("llama-bpe"), [EXTRA]);
    assert_eq!(
        encode("qwen2"),
        "bcd".bytes().map(u32::from).collect::<Vec<_>>()
    );
}

#[test]
fn generation_ends_at_what_reads_like_an_end_and_at_what_the_file_names() {
    let extra = [
        ("<|im_end|>", NORMAL),
        ("x", CONTROL),
        ("<|end|>", CONTROL),
        ("[PAD]", CONTROL),
    ];
    let tokenizer =
        load(file("gpt-2", &extra).u32("tokenizer.ggml.eos_token_id", EXTRA + 1)).unwrap();
    assert_eq!(
        tokenizer.end_of_generation(),
        [EXTRA, EXTRA + 1, EXTRA + 2, EXTRA + 3]
    );
    // Its type was forgotten in the file; it is a control token all the same.
    let ids = tokenizer
        .encode("<|im_end|>", SpecialTokens::AsText)
        .unwrap();
    assert_eq!(ids.len(), "<|im_end|>".len());
    assert_eq!(tokenizer.token_bytes(EXTRA), b"");

    let harmony = [
        ("<|end|>", CONTROL),
        ("<|return|>", CONTROL),
        ("<|call|>", CONTROL),
    ];
    let tokenizer = load(file("gpt-2", &harmony)).unwrap();
    assert_eq!(tokenizer.end_of_generation(), [EXTRA + 1, EXTRA + 2]);
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let message = failure(file("grok-9", &[]));
    assert!(
        message.contains("'grok-9'") && message.contains("smollm, starcoder"),
        "{message}"
    );
    let word_piece = GgufWriter::default().str("tokenizer.ggml.model", "bert");
    assert!(failure(word_piece).contains("'bert' is not supported"));
    let unnamed = GgufWriter::default()
        .str("tokenizer.ggml.model", "gpt2")
        .strings("tokenizer.ggml.tokens", &["a"])
        .strings::<&str>("tokenizer.ggml.merges", &[]);
    assert!(failure(unnamed).contains("'(none)'"));
}

#[test]
fn parts_that_do_not_fit_are_named() {
    assert!(failure(GgufWriter::default()).contains("tokenizer.ggml.model"));
    let types = GgufWriter::default()
        .str("tokenizer.ggml.model", "gpt2")
        .strings("tokenizer.ggml.tokens", &["a", "b"])
        .i32s("tokenizer.ggml.token_type", &[1]);
    assert!(failure(types).contains("1 token types for 2 tokens"));
    let eos = file("gpt-2", &[]).u32("tokenizer.ggml.eos_token_id", 258);
    assert!(failure(eos).contains("its eos token is outside of the vocabulary"));
    assert!(failure(file("llama-bpe", &[])).contains("names none"));
    assert!(
        failure(
            GgufWriter::default()
                .str("tokenizer.ggml.model", "gpt2")
                .strings::<&str>("tokenizer.ggml.tokens", &[])
        )
        .contains("0 tokens")
    );
}

#[test]
fn chats_need_a_template_and_completions_do_not() {
    let messages = [json!({"role": "user", "content": "ab"})];
    let chat = ChatInput {
        messages: &messages,
        tools: &[],
        add_generation_prompt: true,
        template_time_s: 0,
    };
    let base = load(file("gpt-2", &[])).unwrap();
    assert_eq!(base.render_chat(&chat), Err(TextError::NoTemplate));
    let broken = load(file("gpt-2", &[]).str("tokenizer.chat_template", "{% for %}")).unwrap();
    assert!(matches!(
        broken.render_chat(&chat),
        Err(TextError::Template(_))
    ));
    assert_eq!(broken.encode("ab", SpecialTokens::AsText).unwrap(), [AB]);
    let named = file("gpt-2", &[("<s>", CONTROL)])
        .u32("tokenizer.ggml.bos_token_id", EXTRA)
        .str(
            "tokenizer.chat_template",
            "{{ bos_token }}{{ messages[0].content }}[{{ eos_token }}]",
        );
    assert_eq!(load(named).unwrap().render_chat(&chat).unwrap(), "<s>ab[]");
}
