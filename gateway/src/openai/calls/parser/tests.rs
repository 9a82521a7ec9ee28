//! Calls in text of every form, whole and broken, and however it is cut.

use proptest::prelude::*;

use super::*;
use crate::upstream::tools::Function;

fn tools(parallel: bool) -> Arc<Tools> {
    let function = |name: &str| Function {
        name: name.into(),
        parameters: "{}".into(),
    };
    Arc::new(Tools {
        definitions: Arc::new([]),
        callable: vec![function("f"), function("get_weather")],
        must_call: false,
        parallel,
    })
}

const FREE: bool = false;
const GUIDED: bool = true;

/// What becomes of a text that comes in `pieces`, neighbours put together, and whether there was a whole call.
fn parsed<'a>(
    form: CallForm,
    is_guided: bool,
    parallel: bool,
    pieces: impl IntoIterator<Item = &'a str>,
) -> (Vec<Piece>, bool) {
    let mut parser = Parser::new(tools(parallel), ToolSyntax { form, is_guided });
    let mut out = Vec::new();
    for piece in pieces {
        parser.push(piece, &mut out);
    }
    parser.finish(&mut out);
    let mut joined: Vec<Piece> = Vec::new();
    for piece in out {
        match (joined.last_mut(), piece) {
            (Some(Piece::Text(last)), Piece::Text(text)) => last.push_str(&text),
            (Some(Piece::Arguments(last)), Piece::Arguments(text)) => last.push_str(&text),
            (_, piece) => joined.push(piece),
        }
    }
    (joined, parser.has_called())
}

/// The same as one line: words as they are, calls as `«name arguments»`.
fn line(form: CallForm, is_guided: bool, text: &str) -> String {
    let (pieces, _) = parsed(form, is_guided, true, [text]);
    let told = pieces.into_iter().map(|piece| match piece {
        Piece::Text(text) => text,
        Piece::Call(name) => format!("«{name}»"),
        Piece::Arguments(arguments) => format!("({arguments})"),
    });
    told.collect()
}

use CallForm::{List, Object, Tagged};

#[test]
fn sound_calls_of_each_form() {
    for (form, text, expected) in [
        (
            Tagged,
            "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>",
            "«f»({\"a\": 1})",
        ),
        (
            Tagged,
            "Well.<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call> Bye.",
            "Well.«f»({}) Bye.",
        ),
        (
            Tagged,
            "\n<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n<tool_call>{\"arguments\":{\"b\":[]},\"name\":\"get_weather\"}</tool_call>\n",
            "«f»({})«get_weather»({\"b\":[]})",
        ),
        // Some models forget the closing tag, or the arguments.
        (Tagged, "<tool_call>{\"name\":\"f\"}", "«f»({})"),
        (
            Tagged,
            "<tool_call>{\"name\":\"f\"}\n<tool_call>{\"name\":\"f\"}",
            "«f»({})«f»({})",
        ),
        (
            Tagged,
            r#"<tool_call>{"name":"f","arguments":{"a":"</tool_call> } \" <tool_call>"}}</tool_call>"#,
            r#"«f»({"a":"</tool_call> } \" <tool_call>"})"#,
        ),
        (
            Object,
            "{\"name\": \"f\", \"parameters\": {\"a\": {}}}",
            "«f»({\"a\": {}})",
        ),
        (
            Object,
            "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"f\", \"parameters\": {}}",
            "«f»({})«f»({})",
        ),
        (
            List,
            "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"get_weather\", \"arguments\": {}}]",
            "«f»({})«get_weather»({})",
        ),
        // The tag may be a control token.
        (List, " [{\"name\": \"f\", \"arguments\": {}}]", "«f»({})"),
        (
            List,
            "Well. [TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}}]",
            "Well. «f»({})",
        ),
    ] {
        assert_eq!(line(form, FREE, text), expected, "{text}");
        assert_eq!(line(form, GUIDED, text), expected, "{text}");
        assert!(parsed(form, FREE, true, [text]).1);
    }
}

#[test]
fn what_a_grammar_lets_a_model_say_is_understood() {
    for form in [Tagged, Object, List] {
        let call = |name| format!("{}{{\"a\": 1}}}}", form.head(name));
        let more = form
            .between()
            .map(|between| format!("{between}{}", call("get_weather")));
        let expected = if more.is_some() {
            "«f»({\"a\": 1})«get_weather»({\"a\": 1})"
        } else {
            "«f»({\"a\": 1})"
        };
        let (open, close) = (form.open(), form.close());
        let text = format!("{open}{}{}{close}", call("f"), more.unwrap_or_default());
        for is_guided in [FREE, GUIDED] {
            assert_eq!(line(form, is_guided, &text), expected);
        }
    }
}

#[test]
fn a_free_call_may_say_more_of_itself() {
    let text = r#"[TOOL_CALLS][{"name": "f", "arguments": {}, "id": "x"}]"#;
    assert_eq!(line(List, FREE, text), "«f»({})");
}

#[test]
fn what_is_no_call_is_text_to_the_letter() {
    for (form, text) in [
        (Tagged, "a < b and <tool"),
        (Tagged, " \n"),
        (Tagged, "</tool_call> {\"name\":\"f\"}"),
        (Tagged, "<tool_call> hello </tool_call>"),
        (
            Tagged,
            "<tool_call>{\"name\":\"g\",\"arguments\":{}}</tool_call>",
        ),
        (
            Tagged,
            "<tool_call>{\"name\":\"f\",\"arguments\":7}</tool_call>",
        ),
        (
            Tagged,
            "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":tru}}</tool_call>",
        ),
        (
            Tagged,
            "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":\"é",
        ),
        (Tagged, "<tool_call><tool_call>"),
        (Object, "{\"name\": \"f\", \"parameters\": 7}"),
        (Object, "{\"city\": \"Visby\"}"),
        (Object, "Well: {\"name\": \"f\", \"parameters\": {}}"),
        (List, "[1, 2, {\"name\": \"f\"}]"),
        (List, "[TOOL_CALLS"),
        (List, "[TOOL_CALLS] none"),
        (List, "Well: [{\"name\": \"f\"}]"),
    ] {
        assert_eq!(line(form, FREE, text), text);
        assert!(!parsed(form, FREE, true, [text]).1);
    }
}

#[test]
fn guided_arguments_stream_and_free_ones_wait() {
    let text = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"long";
    let arguments = "«f»({\"a\": \"long)";
    assert_eq!(line(Tagged, GUIDED, text), arguments);
    assert!(!parsed(Tagged, GUIDED, true, [text]).1);
    assert_eq!(line(Tagged, FREE, text), text);
    let (pieces, _) = parsed(
        Tagged,
        GUIDED,
        true,
        ["<tool_call>\n{\"name\": \"f", "oo\""],
    );
    assert_eq!(
        pieces,
        [Piece::Text("<tool_call>\n{\"name\": \"foo\"".to_owned())]
    );
}

#[test]
fn only_one_call_where_only_one_may_be() {
    let call = "<tool_call>{\"name\":\"f\"}</tool_call>";
    let (pieces, has_called) = parsed(Tagged, FREE, false, [call, call]);
    let expected = [
        Piece::Call("f".to_owned()),
        Piece::Arguments("{}".to_owned()),
        Piece::Text(call.to_owned()),
    ];
    assert_eq!((&*pieces, has_called), (&expected[..], true));
}

#[test]
fn a_call_beyond_all_bounds_is_text() {
    let text = format!(
        "<tool_call>{{\"name\":\"f\",\"arguments\":{{\"a\":\"é{}",
        "é".repeat(CALL_BYTES_MAX)
    );
    let whole = line(Tagged, FREE, &text);
    assert!(whole == text);
    let after = format!("{text}\"}}}}<tool_call>{{\"name\":\"f\"}}");
    assert!(line(Tagged, FREE, &after).ends_with("\"}}«f»({})"));
}

/// Texts made of what calls are made of.
fn texts() -> impl Strategy<Value = String> {
    let parts = prop::sample::select(vec![
        "<tool_call>",
        "</tool_call>",
        "<tool",
        "[TOOL_CALLS]",
        "<|python_tag|>",
        "\n",
        " ",
        ", ",
        "; ",
        "[",
        "]",
        "{",
        "}",
        "\"",
        "\\\"",
        "é",
        "text",
        "{\"name\": \"f\", \"arguments\": ",
        "{\"name\": \"get_weather\", \"parameters\": ",
        "{\"name\": \"f\", \"arguments\": {}}",
        "{\"a\": \"}\"}",
        "{\"name\":\"g\"}",
    ]);
    prop::collection::vec(parts, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn however_it_is_cut_the_same_comes_out(
        text in texts(),
        form in prop::sample::select(vec![Tagged, Object, List]),
        is_guided: bool,
        parallel: bool,
        cut in 1_usize..5,
    ) {
        let whole = parsed(form, is_guided, parallel, [&*text]);
        let ends: Vec<usize> = (0..=text.len()).filter(|at| text.is_char_boundary(*at)).collect();
        let cuts: Vec<usize> = ends.into_iter().step_by(cut).chain([text.len()]).collect();
        let pieces = cuts.windows(2).map(|ends| &text[ends[0]..ends[1]]);
        prop_assert_eq!(parsed(form, is_guided, parallel, pieces), whole);
    }

    #[test]
    fn text_without_a_mark_passes_at_once(text in "[a-z .,é]{1,20}") {
        let mut parser = Parser::new(tools(true), ToolSyntax { form: Tagged, is_guided: false });
        let mut out = Vec::new();
        parser.push(&format!("x{text}"), &mut out);
        prop_assert_eq!(out, vec![Piece::Text(format!("x{text}"))]);
    }
}
