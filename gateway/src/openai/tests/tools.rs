//! Tools from the body to the answer: what is taken, what is refused, and how calls are told.

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    CHAT, Server, Step, delta, done, error, finished, hello, json, saying, scored, text, with,
};
use crate::upstream::tools::{CallForm, CallHead, ToolSyntax, Tools};
use crate::upstream::{Event, FinishReason, Grammar, Prompt};

/// `weather` of a `city`, and `now` without parameters.
const TOOLS: &str = r#""tools":[
    {"type":"function","function":{"name":"weather","description":"Says it.","strict":true,
        "parameters":{"properties":{"city":{"type":"string"}},"required":["city"]}}},
    {"type":"function","function":{"name":"now"}}]"#;

fn asking(fields: &str) -> String {
    with(&format!("{TOOLS}{fields}"))
}

fn syntax(form: CallForm, is_guided: bool) -> Step {
    Step::Say(Event::ToolSyntax(ToolSyntax { form, is_guided }))
}

const CALL: &str =
    "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Visby\"}}\n</tool_call>";

/// A model that says `pieces` and ends.
fn says(is_guided: bool, pieces: &[&str]) -> Server {
    let spoken = pieces.iter().map(|piece| delta(0, piece));
    let said = std::iter::once(syntax(CallForm::Tagged, is_guided)).chain(spoken);
    Server::saying(said.chain([finished(0), done()]).collect())
}

async fn tools_of(fields: &str) -> Option<Tools> {
    let server = Server::saying(hello());
    let response = server.chat(&asking(fields)).await;
    assert_eq!(
        response.status(),
        StatusCode::OK,
        "{}",
        text(response).await
    );
    let asked = server.asked().remove(0);
    asked.tools.as_deref().cloned()
}

fn names(tools: &Tools) -> Vec<&str> {
    tools
        .callable
        .iter()
        .map(|function| &*function.name)
        .collect()
}

#[tokio::test]
async fn definitions_arrive_as_templates_and_compilers_want_them() {
    let tools = tools_of("").await.unwrap();
    let defined = json!([
        {"type": "function", "function": {"name": "weather", "description": "Says it.",
            "parameters": {"properties": {"city": {"type": "string"}}, "required": ["city"]}}},
        {"type": "function", "function": {"name": "now"}},
    ]);
    assert_eq!(Value::from(tools.definitions.to_vec()), defined);
    assert_eq!(names(&tools), ["weather", "now"]);
    assert!(tools.parallel && !tools.must_call);
    let schemas: Vec<Value> = tools
        .callable
        .iter()
        .map(|f| serde_json::from_str(&f.parameters).unwrap())
        .collect();
    let expected = [
        json!({"properties": {"city": {"type": "string"}}, "required": ["city"], "type": "object"}),
        json!({"type": "object", "properties": {}, "additionalProperties": false}),
    ];
    assert_eq!(schemas, expected);
}

#[tokio::test]
async fn the_choice_says_what_may_and_what_must_be_called() {
    for (choice, expected) in [
        (r#""auto""#, Some((2, false))),
        (r#""required""#, Some((2, true))),
        (r#""none""#, None),
        (
            r#"{"type":"function","function":{"name":"now"}}"#,
            Some((1, true)),
        ),
        (
            r#"{"type":"allowed_tools","allowed_tools":{"mode":"auto","tools":[{"type":"function","function":{"name":"now"}}]}}"#,
            Some((1, false)),
        ),
    ] {
        let tools = tools_of(&format!(
            r#","parallel_tool_calls":false,"tool_choice":{choice}"#
        ))
        .await;
        let got = tools
            .as_ref()
            .map(|tools| (tools.callable.len(), tools.must_call));
        assert_eq!(got, expected, "{choice}");
        assert!(tools.is_none_or(|tools| !tools.parallel && tools.definitions.len() == 2));
    }
}

#[tokio::test]
async fn a_schema_may_stand_beside_tools() {
    let server = Server::saying(hello());
    let body = asking(r#","response_format":{"type":"json_object"}"#);
    assert_eq!(server.chat(&body).await.status(), StatusCode::OK);
    let asked = server.asked().remove(0);
    assert!(matches!(
        asked.structure.as_ref().unwrap().grammar,
        Grammar::JsonSchema(_)
    ));
    assert!(asked.tools.is_some());
}

#[tokio::test]
async fn calls_and_results_reach_the_template() {
    let server = Server::saying(hello());
    let messages = json!([
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": null, "refusal": "", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Visby\"}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "No."}]},
    ]);
    let response = server.chat(&saying(&messages.to_string())).await;
    assert_eq!(
        response.status(),
        StatusCode::OK,
        "{}",
        text(response).await
    );
    let Prompt::Chat(arrived) = server.asked().remove(0).prompt.clone() else {
        panic!("no chat");
    };
    let mut expected = messages;
    expected[1].as_object_mut().unwrap().remove("refusal");
    expected[2]["content"] = "No.".into();
    assert_eq!(Value::from(arrived.read().unwrap()), expected);
}

/// Holds every line `VALUE => CODE PARAM`: the body made of the value is refused and reaches nobody.
async fn refuses(body: impl Fn(&str) -> String, table: &str) {
    let server = Server::saying(hello());
    for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (value, expected) = line.split_once(" => ").unwrap();
        let (status, code, param) = error(server.post(CHAT, body(value.trim())).await).await;
        let got = format!("{code} {}", param.as_deref().unwrap_or("-"));
        assert_eq!((status.as_u16(), &*got), (400, expected), "{line}");
    }
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn tools_that_are_none() {
    refuses(
        |tools| with(&format!("\"tools\":{tools}")),
        r#"
        {}                                          => invalid_type tools
        [7]                                         => invalid_type tools[0]
        [{"function":{"name":"f"}}]                 => missing_required_parameter tools[0].type
        [{"type":"custom","custom":{"name":"f"}}]   => unsupported_value tools[0].type
        [{"type":"web_search"}]                     => invalid_value tools[0].type
        [{"type":"function"}]                       => missing_required_parameter tools[0].function
        [{"type":"function","function":{"name":"f"},"x":1}]             => unknown_parameter tools[0].x
        "#,
    )
    .await;
    let function = |function: &str| {
        with(&format!(
            r#""tools":[{{"type":"function","function":{{{function}}}}}]"#
        ))
    };
    let long = "f".repeat(65);
    refuses(
        function,
        &format!("\"name\":\"{long}\" => invalid_value tools[0].function.name"),
    )
    .await;
    refuses(
        function,
        r#"
        "description":"f"                           => missing_required_parameter tools[0].function.name
        "name":""                                   => invalid_value tools[0].function.name
        "name":"a b"                                => invalid_value tools[0].function.name
        "name":"f","parameters":[]                  => invalid_type tools[0].function.parameters
        "name":"f","parameters":{"type":"string"}   => invalid_value tools[0].function.parameters
        "name":"f","strict":1                       => invalid_type tools[0].function.strict
        "name":"f","arguments":{}                   => unknown_parameter tools[0].function.arguments
        "#,
    )
    .await;
}

#[tokio::test]
async fn tools_that_are_too_many_or_twice_there() {
    let tool = |name: &str| format!(r#"{{"type":"function","function":{{"name":"{name}"}}}}"#);
    let tools: Vec<String> = (0..129).map(|index| tool(&format!("f{index}"))).collect();
    let many = tools.join(",");
    let twice = [tool("f"), tool("f")].join(",");
    let large = format!(
        r#"{{"type":"function","function":{{"name":"f","description":"{}"}}}}"#,
        "a".repeat(256 << 10)
    );
    let deep = format!(
        r#"{{"type":"function","function":{{"name":"f","parameters":{{"a":{}{}}}}}}}"#,
        "[".repeat(200),
        "]".repeat(200)
    );
    refuses(
        |tools| with(&format!("\"tools\":[{tools}]")),
        &format!(
            "{many} => array_above_max_length tools
            {twice} => invalid_value tools[1].function.name
            {large} => string_above_max_length tools
            {deep} => invalid_value tools[0].function.parameters"
        ),
    )
    .await;
}

#[tokio::test]
async fn choices_that_are_none() {
    refuses(
        |choice| with(&format!("\"tool_choice\":{choice}")),
        r#"
        "required"                                            => invalid_parameter_combination tool_choice
        {"type":"function","function":{"name":"now"}}         => invalid_value tool_choice.function.name
        "sometimes"                                           => invalid_value tool_choice
        "#,
    )
    .await;
    refuses(
        |choice| asking(&format!(",\"tool_choice\":{choice}")),
        r#"
        7                                                     => invalid_type tool_choice
        "any"                                                 => invalid_value tool_choice
        {"type":"function"}                                   => missing_required_parameter tool_choice.function
        {"type":"function","name":"now"}                      => unknown_parameter tool_choice.name
        {"type":"function","function":{"name":"then"}}        => invalid_value tool_choice.function.name
        {"type":"allowed_tools","allowed_tools":{"mode":"any","tools":[]}}   => invalid_value tool_choice.allowed_tools.mode
        {"type":"allowed_tools","allowed_tools":{"mode":"auto","tools":[]}}  => empty_array tool_choice.allowed_tools.tools
        "required","guided_regex":"a+"                        => invalid_parameter_combination guided_regex
        "#,
    )
    .await;
}

#[tokio::test]
async fn calls_in_messages_that_are_none() {
    refuses(
        |call| saying(&format!(r#"[{{"role":"assistant","tool_calls":[{call}]}}]"#)),
        r#"
        7                                                        => invalid_type messages[0].tool_calls[0]
        {"type":"custom"}                                        => invalid_value messages[0].tool_calls[0].type
        {"type":"function","function":{}}                        => missing_required_parameter messages[0].tool_calls[0].id
        {"type":"function","id":"c","function":{}}               => missing_required_parameter messages[0].tool_calls[0].function.name
        {"type":"function","id":"c","function":{"name":"f"}}     => missing_required_parameter messages[0].tool_calls[0].function.arguments
        {"type":"function","id":"c","function":{"name":"f","arguments":{}}} => invalid_type messages[0].tool_calls[0].function.arguments
        "#,
    )
    .await;
}

#[tokio::test]
async fn a_call_is_answered_as_openai_does() {
    let server = says(
        true,
        &["\n<tool", "_call>\n", &CALL["<tool_call>\n".len()..]],
    );
    let answer = json(server.chat(&asking("")).await).await;
    let choice = &answer["choices"][0];
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], Value::Null);
    assert_eq!(choice["message"]["tool_calls"].as_array().unwrap().len(), 1);
    assert_eq!(call["type"], "function");
    assert_eq!(
        call["function"],
        json!({"name": "weather", "arguments": "{\"city\": \"Visby\"}"})
    );
    assert!(call["id"].as_str().unwrap().starts_with("call_"));
    let message = choice["message"].to_string();
    let id = &call["id"];
    let again = format!(
        r#"[{{"role":"user","content":"Rain?"}},{message},{{"role":"tool","tool_call_id":{id},"content":"No."}}]"#
    );
    assert_eq!(server.chat(&saying(&again)).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn words_and_several_calls() {
    let two = format!("Well:\n{CALL}\n{}", CALL.replace("weather", "now"));
    let answer = json(says(false, &[&two]).chat(&asking("")).await).await;
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["content"], "Well:\n");
    let calls = message["tool_calls"].as_array().unwrap();
    let called: Vec<_> = calls.iter().map(|call| &call["function"]["name"]).collect();
    assert_eq!(called, ["weather", "now"]);
    assert_ne!(calls[0]["id"], calls[1]["id"]);
}

#[tokio::test]
async fn without_tools_tags_are_text() {
    let answer = json(says(false, &[CALL]).chat(&with("\"n\":1")).await).await;
    assert_eq!(answer["choices"][0]["message"]["content"], CALL);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert!(answer["choices"][0]["message"].get("tool_calls").is_none());
}

#[tokio::test]
async fn a_broken_call_is_text_and_no_call() {
    let broken = CALL.replace("\"Visby\"", "Visby");
    let answer = json(says(false, &[&broken]).chat(&asking("")).await).await;
    assert_eq!(answer["choices"][0]["message"]["content"], broken);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
}

/// The chunks of a stream, as JSON.
async fn chunks(server: &Server, fields: &str) -> Vec<Value> {
    let body = asking(&format!(",\"seed\":7,\"stream\":true{fields}"));
    let all = text(server.chat(&body).await).await;
    let (events, end) = all.trim_end().rsplit_once("\n\n").unwrap();
    assert_eq!(end, "data: [DONE]");
    let chunk = |event: &str| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
    events.split("\n\n").map(chunk).collect()
}

fn deltas(chunks: &[Value]) -> Vec<&Value> {
    chunks
        .iter()
        .map(|chunk| &chunk["choices"][0]["delta"])
        .collect()
}

#[tokio::test]
async fn a_call_streams_as_openai_does() {
    let pieces = [
        "<tool_call>\n{\"name\": \"weath",
        "er\", \"arguments\": {\"city\"",
        ": \"Visby\"}}\n</tool_call>",
    ];
    let chunks = chunks(&says(true, &pieces), "").await;
    let id = chunks[1]["choices"][0]["delta"]["tool_calls"][0]["id"].clone();
    let part = |text: &str| json!({"tool_calls": [{"index": 0, "function": {"arguments": text}}]});
    let head = json!({"tool_calls": [
        {"index": 0, "id": id, "type": "function", "function": {"name": "weather", "arguments": ""}}]});
    let expected = [
        json!({"role": "assistant", "content": null, "refusal": null}),
        head,
        part("{\"city\""),
        part(": \"Visby\"}"),
        json!({}),
    ];
    assert_eq!(deltas(&chunks), expected.iter().collect::<Vec<_>>());
    assert_eq!(chunks[4]["choices"][0]["finish_reason"], "tool_calls");
    assert!(
        chunks[..4]
            .iter()
            .all(|chunk| chunk["choices"][0]["finish_reason"].is_null())
    );
}

#[tokio::test]
async fn ids_depend_on_the_request_and_not_on_how_its_text_comes() {
    let whole = chunks(&says(true, &[CALL]), "").await;
    let cut: Vec<&str> = CALL.split_inclusive(' ').collect();
    let parts = chunks(&says(false, &cut), "").await;
    assert_eq!(deltas(&whole)[1], deltas(&parts)[1]);
}

#[tokio::test]
async fn log_probabilities_of_a_calls_tokens_are_not_lost() {
    let steps = [
        vec![syntax(CallForm::Tagged, false)],
        CALL.split_inclusive('\n')
            .map(|part| scored(0, part.as_bytes(), -1.0))
            .collect(),
        vec![scored(0, b"Bye", -1.0), finished(0), done()],
    ];
    let answer = json(
        Server::saying(steps.concat())
            .chat(&asking(",\"logprobs\":true"))
            .await,
    )
    .await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"]["content"], "Bye");
    assert_eq!(choice["logprobs"]["content"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn a_call_that_is_cut_off_ends_for_its_length() {
    let steps = vec![
        syntax(CallForm::Object, true),
        delta(
            0,
            "{\"name\": \"weather\", \"parameters\": {\"city\": \"Vis",
        ),
        Step::Say(Event::Finished {
            choice: 0,
            reason: FinishReason::Length,
        }),
        done(),
    ];
    let answer = json(Server::saying(steps).chat(&asking("")).await).await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(
        choice["message"]["tool_calls"][0]["function"]["arguments"],
        "{\"city\": \"Vis"
    );
}

#[tokio::test]
async fn calls_that_an_upstream_found_itself_pass() {
    let call = |head: Option<CallHead>, arguments: &str| {
        Step::Say(Event::ToolCall {
            choice: 0,
            index: 0,
            head,
            arguments: arguments.to_owned(),
        })
    };
    let head = CallHead {
        id: "theirs".to_owned(),
        name: "now".to_owned(),
    };
    let reason = FinishReason::ToolCalls;
    let steps = vec![
        delta(0, "<tool_call>"),
        call(Some(head), ""),
        call(None, "{}"),
        Step::Say(Event::Finished { choice: 0, reason }),
        done(),
    ];
    let answer = json(Server::saying(steps).chat(&asking("")).await).await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"]["content"], "<tool_call>");
    let call =
        json!({"id": "theirs", "type": "function", "function": {"name": "now", "arguments": "{}"}});
    assert_eq!(choice["message"]["tool_calls"], json!([call]));
    assert_eq!(choice["finish_reason"], "tool_calls");
}
