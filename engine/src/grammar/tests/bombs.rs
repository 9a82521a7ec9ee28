//! Grammars that would cost much more than they look, if nothing bounded them, and what they do cost.

use hansa_models::source::{SourceOptions, resolve};
use hansa_models::tokenizer::FileTokenizer;
use hansa_models::weights::gguf::GgufFile;

use super::*;
use crate::tests::cpu::{assert_cheap, is_soak, timed};

/// One of them.
pub(crate) fn named(name: &str) -> GrammarSpec {
    let found = bombs().into_iter().find(|(known, _)| *known == name);
    found.expect("a bomb of that name").1
}

fn bombs() -> Vec<(&'static str, GrammarSpec)> {
    let mut bombs = schema_bombs();
    bombs.extend(regex_bombs());
    bombs.extend(lark_bombs());
    bombs
}

fn schema_bombs() -> Vec<(&'static str, GrammarSpec)> {
    let joined = |parts: Vec<String>| parts.join(",");
    let nodes = format!("{{\"enum\":[{}]}}", vec!["1"; 100_000].join(","));
    let properties = joined((0..290).map(|i| format!("\"p{i}\":{{}}")).collect());
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

/// What a bomb costs: to be compiled or refused, and at worst in one of its first masks, which is what others wait for.
fn cost_of(grammars: &Grammars, spec: &GrammarSpec) -> (f64, f64) {
    let (compiling, compiled) =
        timed(|| vet::check(spec).and_then(|()| grammars.compile_here(spec)));
    let mut masking = 0.0_f64;
    if let Ok((matcher, _)) = compiled {
        let guide = Guide::new(matcher);
        for _ in 0..20 {
            let (ms, ()) = timed(|| say_something(&guide, grammars.vocab_size));
            masking = masking.max(ms);
        }
    }
    (compiling, masking)
}

/// One token, the first that is allowed, and what must follow it.
fn say_something(guide: &Guide, vocab_size: u32) {
    let mut logits = vec![0.0; vocab_size as usize];
    let masked = guide.mask(&mut logits);
    let token = (0..).zip(&logits).find(|(_, l)| **l == 0.0);
    if let (Ok(()), Some((token, _))) = (masked, token) {
        guide.push(token);
        guide.force(END);
    }
}

/// Bounds are on work, not on time: one that does not hold shows as a test that does not end. What it costs over a real
/// vocabulary is held against the clock as well where that is wanted.
#[test]
fn bombs_are_refused_or_harmless() {
    let detonate_all = || {
        detonate("304 tokens", &grammars());
        if is_soak() {
            detonate("SmolLM2's tokens", &real_grammars());
        }
    };
    let thread = thread::Builder::new().stack_size(limits::GRAMMAR_STACK_BYTES);
    let compiled = thread.spawn(detonate_all).map(thread::JoinHandle::join);
    assert!(matches!(compiled, Ok(Ok(()))));
}

fn detonate(vocabulary: &str, grammars: &Grammars) {
    assert!(grammars.compile_here(&regex("a")).is_ok());
    for (name, spec) in bombs() {
        let (compiling, masking) = cost_of(grammars, &spec);
        println!("{vocabulary}, {name}: {compiling:.0} ms to compile, {masking:.0} ms in a mask");
        assert_cheap(name, compiling.max(masking));
    }
}

/// Over the tokens of the default model.
fn real_grammars() -> Grammars {
    let model = resolve("smollm2-135m-instruct", &SourceOptions::from_env());
    let file = GgufFile::open(&model.unwrap().path).unwrap();
    let text = FileTokenizer::from_gguf(&file).unwrap();
    let vocab_size = text.vocab_size();
    Grammars::new(Arc::new(text), vocab_size)
}
