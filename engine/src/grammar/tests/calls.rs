//! Grammars of calls: which functions, with which arguments, and what may be said beside them.

use super::*;

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
