//! Grammars over a small vocabulary: what they let through, what they refuse, and what bombs cost.

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

/// Grammars that would cost much more than they look, if nothing bounded them.
fn bombs() -> Vec<(&'static str, GrammarSpec)> {
    let mut bombs = schema_bombs();
    bombs.extend(regex_bombs());
    bombs.extend(lark_bombs());
    bombs
}

fn schema_bombs() -> Vec<(&'static str, GrammarSpec)> {
    let joined = |parts: Vec<String>| parts.join(",");
    let nodes = format!("{{\"enum\":[{}]}}", vec!["1"; 100_000].join(","));
    let properties = joined((0..390).map(|i| format!("\"p{i}\":{{}}")).collect());
    let properties = format!("{{\"type\":\"object\",\"properties\":{{{properties}}}}}");
    let any_of = r#"{"anyOf":[{"type":"string","minLength":1},{"type":"number"},{"type":"object"},{"type":"array"}]}"#;
    let all_of = format!("{{\"allOf\":[{}]}}", [any_of; 12].join(","));
    let three = |i| {
        format!(
            r#"{{"anyOf":[{{"required":["a{i}"]}},{{"required":["b{i}"]}},{{"properties":{{"c{i}":{{}}}}}}]}}"#
        )
    };
    let product = joined((0..8).map(three).collect());
    let product = format!("{{\"type\":\"object\",\"allOf\":[{product}]}}");
    let pattern = |i| format!(r#"{{"pattern":"[a-z]{{{i},60}}x.*y{{{i}}}"}}"#);
    let patterns = joined((0..40).map(pattern).collect());
    let patterns = format!(r#"{{"type":"string","allOf":[{patterns}]}}"#);
    let range = |i| format!(r#"{{"type":"integer","minimum":{i}7919,"maximum":98765432{i}}}"#);
    let ranges = format!(r#"{{"anyOf":[{}]}}"#, joined((1..600).map(range).collect()));
    let forced = format!("{{\"const\":\"{}\"}}", "a".repeat(60_000));
    vec![
        ("nodes", schema(&nodes)),
        ("properties", schema(&properties)),
        ("all of any of", schema(&all_of)),
        ("deep schema", schema(&"{\"not\":".repeat(100_000))),
        ("deep array", schema(&"[".repeat(200_000))),
        ("product", schema(&product)),
        ("forced", schema(&forced)),
        (
            "remainders",
            schema(r#"{"type":"integer","multipleOf":99999989}"#),
        ),
        ("patterns that meet", schema(&patterns)),
        ("ranges", schema(&ranges)),
    ]
}

fn regex_bombs() -> Vec<(&'static str, GrammarSpec)> {
    let alternation = vec!["(a|aa|b)*c"; 500].join("|");
    vec![
        (
            "repetition",
            regex("(((a{0,1000}){0,1000}){0,1000}){0,1000}"),
        ),
        ("alternation", regex(&format!("({alternation})*"))),
        ("options", regex(&"a?".repeat(2000))),
        ("large class", regex(r"(\w{1,300}\s){1,300}")),
        ("deep groups", regex(&"(".repeat(100_000))),
        ("long", regex(&"a".repeat(300_000))),
        ("long repetition", regex("((abcdefghij){200}){200}")),
    ]
}

fn lark_bombs() -> Vec<(&'static str, GrammarSpec)> {
    let twice = |i| format!("r{i}: r{} r{}", i + 1, i + 1);
    let doubling: Vec<String> = (0..20).map(twice).collect();
    let text = "c".repeat(60);
    let doubling = format!("start: r0\n{}\nr20: \"{text}\"", doubling.join("\n"));
    let rules: Vec<String> = (0..500).map(|i| format!("r{i}: r{}", i + 1)).collect();
    let chain = format!("start: r0\n{}\nr500: \"a\"", rules.join("\n"));
    vec![
        (
            "intersection",
            lark("start: A\nA: /(a|b)*a(a|b){200}/ & /(a|b)*b(a|b){190}/"),
        ),
        ("times", lark("start: a{1000000}\na: \"x\" b\nb: \"y\"")),
        (
            "deep lark",
            lark(&format!("start: {}", "(".repeat(100_000))),
        ),
        ("chain", lark(&chain)),
        ("ambiguous", lark("start: s\ns: s s | \"a\" | \"\"")),
        (
            "backwards",
            lark(&format!("start: {}\"a\"", "\"a\"? ".repeat(650))),
        ),
        (
            "remainders in Lark",
            lark(r#"start: %json {"type":"integer","multipleOf":99999989}"#),
        ),
        ("doubling", lark(&doubling)),
    ]
}

/// CPU time of this thread in milliseconds, where the system tells.
fn thread_cpu_ms() -> f64 {
    let schedule = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = schedule
        .split(' ')
        .next()
        .and_then(|n| n.parse::<f64>().ok());
    nanos.unwrap_or(0.0) / 1e6
}

/// What a bomb costs: to be compiled or refused, and at worst in one of its first masks, which is what others wait for.
fn cost_of(grammars: &Grammars, spec: &GrammarSpec) -> (f64, f64) {
    let begun = thread_cpu_ms();
    let compiled = vet::check(spec).and_then(|()| grammars.compile_here(spec));
    let compiling = thread_cpu_ms() - begun;
    let mut masking = 0.0_f64;
    if let Ok((matcher, _)) = compiled {
        let guide = Guide::new(matcher);
        for _ in 0..20 {
            let begun = thread_cpu_ms();
            let mut logits = vec![0.0; VOCAB as usize];
            let masked = guide.mask(&mut logits);
            let token = (0..VOCAB).zip(&logits).find(|(_, l)| **l == 0.0);
            if let (Ok(()), Some((token, _))) = (masked, token) {
                guide.push(token);
                guide.force(END);
            }
            masking = masking.max(thread_cpu_ms() - begun);
        }
    }
    (compiling, masking)
}

/// Bounds are on work, not on time: one that does not hold shows as a test that does not end. `HANSA_SOAK_BOMBS` holds the
/// cost against the clock too, in a release build.
#[test]
fn bombs_are_refused_or_harmless() {
    let compile_all = || {
        let grammars = grammars();
        assert!(grammars.compile_here(&regex("a")).is_ok());
        for (name, spec) in bombs() {
            let (compiling, masking) = cost_of(&grammars, &spec);
            println!("{name}: {compiling:.0} ms to compile, {masking:.0} ms in a mask");
            if std::env::var_os("HANSA_SOAK_BOMBS").is_some() {
                assert!(compiling <= 100.0 && masking <= 100.0, "{name}");
            }
        }
    };
    let thread = thread::Builder::new().stack_size(limits::GRAMMAR_STACK_BYTES);
    let compiled = thread.spawn(compile_all).map(thread::JoinHandle::join);
    assert!(matches!(compiled, Ok(Ok(()))));
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

fn shape(name: &str, schema: &str) -> CallShape {
    CallShape {
        head: format!(r#"{{"name": "{name}", "arguments": "#).into(),
        schema: schema.into(),
        tail: "}".into(),
    }
}

/// `f` with a boolean `name` and `g` without arguments, in tags.
fn calls(otherwise: Otherwise, between: Option<&str>) -> GrammarSpec {
    let named = r#"{"type":"object","properties":{"name":{"type":"boolean"}},"required":["name"],"additionalProperties":false}"#;
    let bare = r#"{"type":"object","properties":{},"additionalProperties":false}"#;
    GrammarSpec::Calls(Arc::new(CallSpec {
        otherwise,
        open: "<call>\n".into(),
        between: between.map(Into::into),
        close: "\n</call>".into(),
        functions: vec![shape("f", named), shape("g", bare)],
    }))
}

const ONE: &str = "<call>\n{\"name\": \"f\", \"arguments\": {\"name\":true}}\n</call>";

#[test]
fn a_call_must_come_and_obeys_its_functions_schema() {
    let one = calls(Otherwise::Nothing, None);
    assert_eq!(accepts(&one, ONE), Some(true));
    assert_eq!(accepts(&one, "text"), None);
    assert_eq!(accepts(&one, &ONE.replace("true", "7")), None);
    assert_eq!(accepts(&one, &ONE.replace("\"f\"", "\"h\"")), None);
    assert_eq!(accepts(&one, &ONE.replace("\"f\"", "\"g\"")), None);
    assert_eq!(accepts(&one, &format!("{ONE}\n<call>")), None);
    let many = calls(Otherwise::Nothing, Some("\n</call>\n<call>\n"));
    assert_eq!(accepts(&many, &format!("{ONE}\n{ONE}")), Some(true));
    assert_eq!(accepts(&many, &format!("{ONE}{ONE}")), None);
}

#[test]
fn text_is_free_until_the_tag() {
    let spec = calls(Otherwise::TextBefore("<call>".into()), None);
    for text in ["", "a < b, <cal and </call>\n\"é\"", "{\"name\": 7"] {
        assert_eq!(accepts(&spec, text), Some(true), "{text}");
    }
    assert_eq!(accepts(&spec, &format!("Well: {ONE}")), Some(true));
    assert_eq!(accepts(&spec, ONE), Some(true));
    assert_eq!(accepts(&spec, "Well: <call>\n{\"name"), Some(false));
    assert_eq!(accepts(&spec, "Well: <call>x"), None);
    assert_eq!(accepts(&spec, &ONE.replace("true", "7")), None);
    assert_eq!(accepts(&spec, &format!("{ONE} and more")), None);
}

#[test]
fn json_may_come_instead_of_calls() {
    let spec = calls(Otherwise::Json(r#"{"type":"boolean"}"#.into()), None);
    assert_eq!(accepts(&spec, "true"), Some(true));
    assert_eq!(accepts(&spec, ONE), Some(true));
    assert_eq!(accepts(&spec, "7"), None);
}

#[test]
fn as_many_functions_as_may_be_are_not_too_many() {
    let schema = r#"{"type":"object","properties":{"path":{"type":"string","description":"where"},
        "lines":{"type":"array","items":{"type":"integer"}},"mode":{"enum":["r","w"]}},"required":["path"]}"#;
    let of = |count| {
        let functions = (0..count).map(|index| shape(&format!("function_{index}"), schema));
        GrammarSpec::Calls(Arc::new(CallSpec {
            otherwise: Otherwise::Nothing,
            open: "[".into(),
            between: Some(", ".into()),
            close: "]".into(),
            functions: functions.collect(),
        }))
    };
    let text = "[{\"name\": \"function_127\", \"arguments\": {\"path\":\"a\"}}]";
    assert_eq!(accepts(&of(limits::CALLS_FUNCTIONS_MAX), text), Some(true));
    assert!(matches!(
        grammars().compile(&of(limits::CALLS_FUNCTIONS_MAX + 1)),
        Err(GrammarError::TooLarge { .. })
    ));
    assert!(matches!(
        grammars().compile(&of(0)),
        Err(GrammarError::Invalid(_))
    ));
}

#[test]
fn the_schemas_of_all_functions_together_stay_within_the_bounds_of_one() {
    let nodes = format!("{{\"enum\":[{}]}}", vec!["1"; 6_000].join(","));
    let spec = CallSpec {
        otherwise: Otherwise::Nothing,
        open: "".into(),
        between: None,
        close: "".into(),
        functions: vec![shape("f", &nodes), shape("g", &nodes)],
    };
    let refused = grammars().compile(&GrammarSpec::Calls(Arc::new(spec)));
    assert!(matches!(
        refused,
        Err(GrammarError::TooLarge { unit: "nodes", .. })
    ));
}
