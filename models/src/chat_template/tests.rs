//! Templates of real models, and hostile ones.

use serde_json::{Value, json};

use super::*;

fn special() -> SpecialTexts {
    SpecialTexts {
        bos: Some("<s>".to_owned()),
        eos: Some("</s>".to_owned()),
    }
}

fn render_with(template: &str, messages: &Value, tools: &[Value]) -> Result<String, TextError> {
    let chat = ChatInput {
        messages: messages.as_array().unwrap(),
        tools,
        add_generation_prompt: true,
        template_time_s: 1_721_952_000,
    };
    ChatTemplate::parse(template, special())?.render(&chat)
}

fn render(template: &str, messages: &Value) -> Result<String, TextError> {
    render_with(template, messages, &[])
}

fn refused(template: &str) -> String {
    match render(template, &json!([{"role": "user", "content": "hello"}])) {
        Err(TextError::Template(message)) => message,
        other => panic!("{other:?}"),
    }
}

const CHATML: &str = "\
{% for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
";

#[test]
fn chatml() {
    let prompt = render(
        CHATML,
        &json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <b>&\"'"}]),
    );
    assert_eq!(
        prompt.unwrap(),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <b>&\"'<|im_end|>\n<|im_start|>assistant\n"
    );
}

/// The habits of Llama 3's template: a date, tools as indented JSON, slices, `namespace`-free defaults, `raise_exception`.
const LLAMA_3_LIKE: &str = r#"{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "[system]\n" }}
{{- "Today Date: " + date_string + "\n" }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '[' + message['role'] + ']' + message['content'] | trim }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
    {%- endif %}
{%- endfor %}
"#;

#[test]
fn llama_3_like_with_date_tools_and_calls() {
    let tool =
        json!({"type": "function", "function": {"name": "weather", "z": 1, "a": [], "é": "<&>"}});
    let messages = json!([
        {"role": "system", "content": "  Help.  "},
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"function": {"name": "weather", "arguments": {"city": "Zürich", "days": [1, 2]}}}
        ]},
    ]);
    let prompt = render_with(LLAMA_3_LIKE, &messages, &[tool]).unwrap();
    let expected = r#"<s>[system]
Today Date: 26 Jul 2024
{
    "type": "function",
    "function": {
        "name": "weather",
        "z": 1,
        "a": [],
        "é": "<&>"
    }
}
Help.[user]Rain?{"name": "weather", "parameters": {"city": "Zürich", "days": [1, 2]}}"#;
    assert_eq!(prompt, expected);
}

#[test]
fn a_template_may_refuse_in_its_own_words() {
    let messages = json!([{"role": "assistant", "tool_calls": [1, 2]}]);
    let error = render(LLAMA_3_LIKE, &messages).unwrap_err();
    assert_eq!(
        error,
        TextError::Template(
            "line 29: This model only supports single tool-calls at once!".to_owned()
        )
    );
}

#[test]
fn undefined_names_print_nothing_and_are_false_but_have_no_attributes() {
    let hello = json!([{"role": "user", "content": "hello"}]);
    let lenient = "[{{ nothing }}{% if nothing %}x{% endif %}{% for x in nothing %}x{% endfor %}]";
    assert_eq!(render(lenient, &hello).unwrap(), "[]");
    assert!(render("{{ nothing.at.all }}", &hello).is_err());
    assert_eq!(
        render("{{ messages[0].name is defined }}", &hello).unwrap(),
        "False"
    );
    assert_eq!(
        render("{{ tools is none }}{{ tools }}", &hello).unwrap(),
        "TrueNone"
    );
    let asks = "{{ tools is iterable and tools | length > 0 }}{{ messages is iterable }}";
    assert_eq!(render(asks, &hello).unwrap(), "FalseTrue");
}

#[test]
fn blocks_take_their_line_with_them() {
    let template = "a\n  {% if true %}\nb\n  {% endif %}\nc\n";
    assert_eq!(render(template, &json!([])).unwrap(), "a\nb\nc");
}

#[test]
fn python_methods_and_tojson_options() {
    let template = "{{ 'a-b'.replace('-', '+').upper() }} {{ ','.join(['x', 'y']) }} \
        {{ {'b': 1, 'a': 'ü'} | tojson }} {{ {'b': 1, 'a': 'ü😀'} | tojson(sort_keys=true, ensure_ascii=true) }} \
        {{ [1, 2] | tojson(separators=(',', ':')) }} {{ 'x'.startswith('x') }}";
    assert_eq!(
        render(template, &json!([])).unwrap(),
        "A+B x,y {\"b\": 1, \"a\": \"ü\"} {\"a\": \"\\u00fc\\ud83d\\ude00\", \"b\": 1} [1,2] True"
    );
}

#[test]
fn bombs_end_by_fuel_or_cap() {
    for bomb in [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
        "{{ 'x' * 99999999 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x.replace('a', ns.x) %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x.replace('', ns.x) %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x.join([ns.x] * 99) %}{% endfor %}",
        "{{ '{:999999999}'.format('x') }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}",
        "{% include 'chat_template' %}",
    ] {
        let message = refused(bomb);
        assert!(
            message.chars().count() <= limits::TEMPLATE_ERROR_CHARS_MAX + 1,
            "{message}"
        );
    }
}

#[test]
fn values_nested_as_deep_as_the_fuel_allows_do_not_end_the_process() {
    let nest = "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}";
    assert_eq!(render(nest, &json!([])).unwrap(), "");
    let printed = render(&format!("{nest}{{{{ ns.x | tojson }}}}"), &json!([])).unwrap();
    assert!(printed.starts_with("[[[["));
    let endless = format!("{}{nest}{}", "{% for j in range(99999) %}", "{% endfor %}");
    refused(&endless);
    refused(&endless.replace("[ns.x]", "{'x': ns.x}"));
}

#[test]
fn nothing_outside_of_the_template_can_be_loaded() {
    for template in [
        "{% include '/etc/passwd' %}",
        "{% extends 'x' %}",
        "{% import 'x' as y %}",
    ] {
        refused(template);
    }
}

#[test]
fn a_long_conversation_fits_the_fuel() {
    let content = "word ".repeat(60);
    let message = json!({"role": "user", "content": content});
    let messages = Value::Array(vec![message; 10_000]);
    assert!(render(CHATML, &messages).unwrap().len() > 3_000_000);
}

#[test]
fn messages_of_refusals_are_cut() {
    let message = refused("{{ raise_exception('ü' * 10000) }}");
    assert_eq!(
        message.chars().count(),
        limits::TEMPLATE_ERROR_CHARS_MAX + 1
    );
    assert!(matches!(
        ChatTemplate::parse(&" ".repeat(limits::TEMPLATE_BYTES_MAX + 1), special()),
        Err(TextError::Template(_))
    ));
    assert!(matches!(
        ChatTemplate::parse("{% for %}", special()),
        Err(TextError::Template(_))
    ));
}
