//! Grammars over a small vocabulary: what they let through and what they refuse.

pub(crate) mod bombs;
mod calls;

use std::borrow::Cow;
use std::sync::Arc;

use hansa_models::text::{ChatInput, Detokenizer, SpecialTokens, TextCodec, TextError};

use super::*;

/// Tokens 0 to 255 are bytes; then come these; the last one ends a generation.
const WORDS: [&str; 8] = ["true", "false", "{\"", "\":", "name", "\"}", "na", "<end>"];
const END: u32 = 256 + 7;
const VOCAB: u32 = 256 + 8 + 40;

struct Bytes;

impl TextCodec for Bytes {
    /// The longest word at each place.
    fn encode(&self, text: &str, _special: SpecialTokens) -> Result<Vec<u32>, TextError> {
        let mut rest = text.as_bytes();
        let mut ids = Vec::new();
        while let Some(&byte) = rest.first() {
            let words = (256..).zip(&WORDS[..7]);
            let word = words.filter(|(_, w)| rest.starts_with(w.as_bytes()));
            let (id, length) = word
                .map(|(id, w)| (id, w.len()))
                .max_by_key(|(_, length)| *length)
                .unwrap_or((u32::from(byte), 1));
            ids.push(id);
            rest = &rest[length..];
        }
        Ok(ids)
    }

    fn render_chat(&self, _chat: &ChatInput<'_>) -> Result<String, TextError> {
        Err(TextError::NoTemplate)
    }

    fn detokenizer(&self, _seed: u64, _choice: u32) -> Box<dyn Detokenizer> {
        Box::new(Self)
    }

    fn piece(&self, _seed: u64, _choice: u32, id: u32) -> Cow<'_, [u8]> {
        match u8::try_from(id) {
            Ok(byte) => vec![byte].into(),
            Err(_) => {
                let word = WORDS.get(id as usize - 256).copied();
                word.unwrap_or_default().as_bytes().into()
            }
        }
    }

    fn vocab_size(&self) -> u32 {
        256 + WORDS.len() as u32
    }

    fn end_of_generation(&self) -> &[u32] {
        &[END]
    }
}

impl Detokenizer for Bytes {
    fn push(&mut self, _id: u32, _out: &mut String) {}

    fn finish(&mut self, _out: &mut String) {}
}

fn grammars() -> Grammars {
    Grammars::new(Arc::new(Bytes), VOCAB)
}

fn schema(text: &str) -> GrammarSpec {
    GrammarSpec::JsonSchema(text.into())
}

fn regex(text: &str) -> GrammarSpec {
    GrammarSpec::Regex(text.into())
}

fn lark(text: &str) -> GrammarSpec {
    GrammarSpec::Lark(text.into())
}

/// Tokens that the guide allows next.
fn allowed(guide: &Guide) -> Vec<u32> {
    let mut logits = vec![0.0; VOCAB as usize];
    guide.mask(&mut logits).expect("the grammar goes on");
    let all = (0..VOCAB).zip(logits);
    all.filter(|(_, l)| *l == 0.0).map(|(id, _)| id).collect()
}

/// What the grammar says of `text`, token by token as `Bytes` cuts it; `None` where it does not allow it.
fn accepts(spec: &GrammarSpec, text: &str) -> Option<bool> {
    let guide = grammars().compile(spec).expect("a sound grammar").guide();
    for id in Bytes.encode(text, SpecialTokens::AsText).unwrap() {
        if !allowed(&guide).contains(&id) {
            return None;
        }
        guide.push(id);
    }
    let forced = guide.force(END);
    Some(forced == [END] || forced.is_empty() && allowed(&guide).contains(&END))
}

#[test]
fn regular_expressions_hold_from_end_to_end() {
    let spec = regex("(ab|c)+");
    assert_eq!(accepts(&spec, "abc"), Some(true));
    assert_eq!(accepts(&spec, "aba"), Some(false));
    assert_eq!(accepts(&spec, "b"), None);
}

#[test]
fn schemas_hold() {
    let spec = schema(
        r#"{"type":"object","properties":{"name":{"type":"boolean"}},"required":["name"],"additionalProperties":false}"#,
    );
    assert_eq!(accepts(&spec, r#"{"name":true}"#), Some(true));
    assert_eq!(accepts(&spec, r#"{"name":tru"#), Some(false));
    assert_eq!(accepts(&spec, r#"{"nome":"#), None);
    assert_eq!(accepts(&schema("true"), "[1, {}]"), Some(true));
    let spaced = |count| format!("[1,{}2]", " ".repeat(count));
    assert_eq!(accepts(&schema("true"), &spaced(20)), Some(true));
    assert_eq!(accepts(&schema("true"), &spaced(40)), None);
}

#[test]
fn lark_grammars_hold() {
    let spec = lark("start: \"a\" b+\nb: \"b\" | \"(\" b \")\"");
    assert_eq!(accepts(&spec, "ab((b))b"), Some(true));
    assert_eq!(accepts(&spec, "a(b"), Some(false));
    assert_eq!(accepts(&spec, "b"), None);
}

#[test]
fn what_must_come_is_forced_and_the_end_too() {
    let spec = schema(
        r#"{"type":"object","properties":{"name":{"const":true}},"required":["name"],"additionalProperties":false,
            "x-guidance":{"whitespace_flexible":false}}"#,
    );
    let guide = grammars().compile(&spec).unwrap().guide();
    let forced = guide.force(END);
    let text: Vec<u8> = forced
        .iter()
        .flat_map(|&id| Bytes.piece(0, 0, id).into_owned())
        .collect();
    assert_eq!(String::from_utf8(text).unwrap(), r#"{"name":true}<end>"#);
    // As the tokenizer would cut it, and not byte by byte.
    assert!(forced.len() < 8, "{forced:?}");
}

#[test]
fn choices_of_one_grammar_go_their_own_ways() {
    let grammar = grammars().compile(&regex("ab|cd")).unwrap();
    let (one, other) = (grammar.guide(), grammar.guide());
    one.push(u32::from(b'a'));
    assert_eq!(allowed(&one), [u32::from(b'b')]);
    assert_eq!(allowed(&other), [u32::from(b'a'), u32::from(b'c')]);
}

#[test]
fn a_token_that_was_not_allowed_fails_the_choice() {
    let guide = grammars().compile(&regex("ab")).unwrap().guide();
    guide.push(u32::from(b'x'));
    assert!(guide.force(END).is_empty());
    assert_eq!(guide.mask(&mut [0.0; 4]), Err(GuideFault::NothingAllowed));
}

#[test]
fn what_is_no_grammar_is_refused_with_the_reason() {
    let grammars = grammars();
    for spec in [
        schema("{"),
        schema("7"),
        schema(r#"{"type":"nothing"}"#),
        schema("false"),
        schema(r#"{"type":"string","enum":[]}"#),
        schema(r##"{"$ref":"#/$defs/none"}"##),
        schema(r#"{"$ref":"http://127.0.0.1/schema.json"}"#),
        regex("foo**("),
        regex("("),
        regex("[]"),
        regex("a(?=b)"),
        lark(""),
        lark("start"),
        lark("start: missing"),
        lark("start: start \"a\""),
        lark("start: \"a\"\nstart: \"b\""),
    ] {
        let refused = grammars.compile(&spec);
        let Err(GrammarError::Invalid(reason)) = refused else {
            panic!("{spec:?}: {refused:?}");
        };
        assert!(
            !reason.is_empty() && !reason.contains("<non-verbose"),
            "{reason}"
        );
    }
}

#[test]
fn what_would_be_said_for_long_is_not_looked_for() {
    for (spec, forces) in [
        (regex("ab"), true),
        (regex("(ab){9999}"), false),
        (lark("start: \"ab\""), true),
        (lark(&format!("start: \"{}\"", "ab".repeat(100))), false),
        (schema(r#"{"const":"ab"}"#), true),
        (
            schema(&format!(r#"{{"const":"{}"}}"#, "ab".repeat(1_000))),
            false,
        ),
    ] {
        let guide = grammars().compile(&spec).unwrap().guide();
        let forced = guide.force(END);
        assert_eq!(!forced.is_empty(), forces, "{forced:?}");
        // Either way it can be said.
        guide.mask(&mut vec![0.0; VOCAB as usize]).unwrap();
    }
}

#[test]
fn a_long_text_is_forced_piece_by_piece() {
    let text = "true".repeat(200);
    let spec = regex(&text);
    let guide = grammars().compile(&spec).unwrap().guide();
    let mut said = Vec::new();
    while said.last() != Some(&END) {
        let forced = guide.force(END);
        assert!(!forced.is_empty() && forced.len() <= limits::FORCED_TOKENS_MAX + 1);
        said.extend(forced);
    }
    assert_eq!(said[..200], [256; 200]);
}

#[test]
fn a_schema_of_a_hundred_thousand_nodes_is_refused_by_name() {
    // As many nodes as the bytes of a schema hold.
    let schema = schema(&format!("{{\"enum\":[{}]}}", vec!["1"; 30_000].join(",")));
    let refused = grammars().compile(&schema).unwrap_err();
    assert!(refused.to_string().contains("nodes"), "{refused}");
    let larger = GrammarSpec::JsonSchema(format!("[{}]", vec!["1"; 100_000].join(",")).into());
    let refused = grammars().compile(&larger).unwrap_err();
    assert!(refused.to_string().contains("bytes"), "{refused}");
}

#[test]
fn the_cache_keeps_its_bound() {
    let grammars = grammars();
    for index in 0..300 {
        let spec = regex(&format!("(a|b){{{index}}}c"));
        assert!(grammars.compile(&spec).is_ok());
        assert!(grammars.compile(&spec).is_ok());
    }
    let bytes = grammars.cached(|cache| cache.bytes());
    assert!(bytes > 0 && bytes <= limits::GRAMMAR_CACHE_BYTES_MAX);
}
