//! What templates of each family make of tools, calls and results.

use super::*;
use crate::chat_template::{ChatTemplate, SpecialTexts};

fn weather() -> Value {
    json!({"type": "function", "function": {"name": "weather", "description": "Says it.", "parameters": {"type": "object"}}})
}

fn call(id: &str, arguments: &str) -> Value {
    json!({"id": id, "type": "function", "function": {"name": "weather", "arguments": arguments}})
}

fn conversation(call: &Value, id: &str) -> Vec<Value> {
    vec![
        json!({"role": "user", "content": "Rain?"}),
        json!({"role": "assistant", "content": null, "tool_calls": [call]}),
        json!({"role": "tool", "content": "No.", "tool_call_id": id}),
    ]
}

fn render(template: &str, messages: &[Value], tools: &[Value]) -> String {
    let chat = ChatInput {
        messages,
        tools,
        add_generation_prompt: true,
        template_time_s: 0,
    };
    let template = ChatTemplate::parse(template, SpecialTexts::default()).unwrap();
    template.render(&chat).unwrap()
}

const CHATML: &str = "{% for m in messages %}<{{ m.role }}>{{ m['content'] + '|' }}{% endfor %}";

/// The habits of Qwen's: tools in the system turn, calls in tags, results as the user's.
const TAGGED: &str = r#"{%- if tools %}{{- '<tools>' }}{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}{{- '</tools> say <tool_call>' }}{%- endif %}
{%- for m in messages %}{{- '<' + m.role + '>' }}{%- if m.content %}{{- m.content }}{%- endif %}
{%- for call in m.tool_calls %}{{- '<tool_call>{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) + '}' }}{%- endfor %}
{%- endfor %}"#;

/// The habits of Mistral's.
const LIST: &str = r#"{%- if tools is not none %}{{- '[AVAILABLE_TOOLS]' }}{%- endif %}
{%- for m in messages %}{%- if m.tool_calls is defined %}{{- '[TOOL_CALLS][' }}{%- for call in m.tool_calls %}
{%- if call.id|length != 9 %}{{- raise_exception('nine') }}{%- endif %}{{- call.function | tojson }}{{- call.id }}{%- endfor %}{{- ']' }}
{%- elif m.role == 'tool' %}{%- if m.tool_call_id|length != 9 %}{{- raise_exception('nine') }}{%- endif %}{{- '=' + m.tool_call_id }}{%- endif %}{%- endfor %}"#;

#[test]
fn the_family_shows_in_the_text() {
    let of = |text: &str| ToolSupport::of(text);
    assert_eq!(of(CHATML), ToolSupport::None);
    assert_eq!(of(TAGGED), ToolSupport::Own(ToolSyntax::Tagged));
    assert_eq!(of(LIST), ToolSupport::Own(ToolSyntax::List));
    let object = r#"{% if tools %}{% endif %}'{"name": "' + f.name + '", "parameters": ' ipython"#;
    assert_eq!(of(object), ToolSupport::Own(ToolSyntax::Object));
    assert_eq!(
        of("{% if tools %}<tool_call><function=f>"),
        ToolSupport::None
    );
    assert_eq!(
        of("{% if tools %}{{ tools }}{% endif %}"),
        ToolSupport::None
    );
}

#[test]
fn a_template_that_knows_tools_gets_them_as_transformers_gives_them() {
    let messages = conversation(
        &call("call_1", r#"{"city": "Zürich", "days": [1]}"#),
        "call_1",
    );
    let prompt = render(TAGGED, &messages, &[weather()]);
    let expected = concat!(
        r#"<tools>{"type": "function", "function": {"name": "weather", "description": "Says it.", "#,
        r#""parameters": {"type": "object"}}}</tools> say <tool_call><user>Rain?<assistant><tool_call>"#,
        r#"{"name": "weather", "arguments": {"city": "Zürich", "days": [1]}}<tool>No."#,
    );
    assert_eq!(prompt, expected);
}

#[test]
fn arguments_that_are_no_object_stay_text() {
    let messages = conversation(&call("c", r#"{"city": "Zür"#), "c");
    let prompt = render(TAGGED, &messages, &[]);
    assert!(
        prompt.contains(r#""arguments": "{\"city\": \"Zür"}"#),
        "{prompt}"
    );
}

#[test]
fn ids_fit_templates_that_want_nine_characters() {
    let prompt = |id: &str| render(LIST, &conversation(&call(id, "{}"), id), &[weather()]);
    assert!(prompt("abcdefgh9").contains("abcdefgh9]=abcdefgh9"));
    let (one, other) = (prompt("call_1"), prompt("call_2"));
    assert_ne!(one, other);
    let id = one.rsplit('=').next().unwrap();
    assert_eq!(id.len(), 9);
    assert!(one.contains(&format!("{id}]={id}")), "{one}");
}

#[test]
fn a_template_without_tools_gets_them_in_words() {
    let mut messages = conversation(&call("c", r#"{"city":"Zürich"}"#), "c");
    messages.push(json!({"role": "tool", "content": "Snow.", "tool_call_id": "d"}));
    messages.push(json!({"role": "user", "content": "And?"}));
    let prompt = render(CHATML, &messages, &[weather()]);
    let rest = concat!(
        "<tool_call>\n",
        r#"{"name": "weather", "arguments": {"city":"Zürich"}}"#,
        "\n</tool_call>|<user><tool_response>\nNo.\n</tool_response>\n",
        "<tool_response>\nSnow.\n</tool_response>\nAnd?|",
    );
    let (user, said) = prompt.split_once("<assistant>").unwrap();
    assert_eq!(said, rest);
    assert!(
        user.starts_with("<user>You can call") && user.ends_with("in words.\n\nRain?|"),
        "{user}"
    );
    assert!(
        user.contains(
            r#"{"name":"weather","description":"Says it.","parameters":{"type":"object"}}"#
        )
    );
}

#[test]
fn the_clients_own_system_message_stays_the_first_and_only_one() {
    let messages = [
        json!({"role": "system", "content": "Be brief."}),
        json!({"role": "user", "content": "Rain?"}),
    ];
    let prompt = render(CHATML, &messages, &[weather()]);
    assert!(
        prompt.starts_with("<system>Be brief.\n\nYou can call"),
        "{prompt}"
    );
    assert_eq!(prompt.matches("<system>").count(), 1);
    assert_eq!(
        render(CHATML, &messages, &[]),
        "<system>Be brief.|<user>Rain?|"
    );
}
