//! Bodies that are refused, and how what is wrong with them is named.

use bytes::Bytes;

use super::{CHAT, COMPLETIONS, Server, error, hello, saying, text, with};

/// Holds every line `VALUE => CODE PARAM` of the table: the body made of the value is refused with status 400, and
/// nothing reaches the upstream.
async fn check(path: &str, body: impl Fn(&str) -> String, table: &str) {
    let server = Server::saying(hello());
    for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (value, expected) = line.split_once(" => ").unwrap();
        let (status, code, param) = error(server.post(path, body(value.trim())).await).await;
        let got = format!("{code} {}", param.as_deref().unwrap_or("-"));
        assert_eq!((status.as_u16(), &*got), (400, expected), "{line}");
    }
    assert!(server.asked().is_empty());
}

/// A chat body with one message.
fn message(fields: &str) -> String {
    saying(&format!("[{{{fields}}}]"))
}

/// A chat body with one message that has a text part and another part.
fn part(part: &str) -> String {
    message(&format!(
        r#""role":"user","content":[{{"type":"text","text":"a"}},{part}]"#
    ))
}

/// A completion body with this prompt, and what follows it.
fn prompting(prompt: &str) -> String {
    format!(r#"{{"model":"m","prompt":{prompt}}}"#)
}

#[tokio::test]
async fn what_is_not_a_json_object() {
    let deep = format!(r#"{{"model":{}"#, "[".repeat(100_000));
    let bodies = [
        &b""[..],
        b" \n",
        b"{",
        b"{\"model\":\"m\",}",
        b"{\"model\":\"m\"} x",
        b"\xff\xfe",
        b"{\"model\":\"\xc3\x28\"}",
        b"[]",
        b"\"secret\"",
        b"null",
        b"[1,",
        b"{\"temperature\":NaN}",
        b"{\"model\":\"a\nb\"}",
        deep.as_bytes(),
    ];
    let server = Server::saying(hello());
    for body in bodies {
        for path in [CHAT, COMPLETIONS] {
            let response = server.post(path, Bytes::copy_from_slice(body)).await;
            let (status, code, param) = error(response).await;
            assert_eq!(
                (status.as_u16(), &*code, param),
                (400, "invalid_json", None)
            );
        }
    }
}

#[tokio::test]
async fn malformed_json_is_located_without_being_quoted() {
    let server = Server::saying(hello());
    let response = server
        .chat("{\"model\": \"m\",\n \"secret\" \"words\"}")
        .await;
    let body = text(response).await;
    assert!(body.contains("line 2 column"), "{body}");
    assert!(
        !body.contains("secret") && !body.contains("words"),
        "{body}"
    );
}

#[tokio::test]
async fn what_is_missing_or_twice_there() {
    check(
        CHAT,
        str::to_owned,
        r#"
        {}                                      => missing_required_parameter model
        {"model":"m"}                           => missing_required_parameter messages
        {"model":null,"messages":[]}            => missing_required_parameter model
        {"model":7,"messages":[]}               => invalid_type model
        {"model":"\ud800","messages":[]}        => invalid_value model
        {"model":"m","model":"m"}               => duplicate_parameter model
        {"model":"m","mod\u0065l":"m"}          => duplicate_parameter model
        "#,
    )
    .await;
    let fields: Vec<_> = (0..80).map(|index| format!("\"f{index}\":1")).collect();
    check(
        CHAT,
        with,
        &format!("{} => array_above_max_length body", fields.join(",")),
    )
    .await;
}

#[tokio::test]
async fn a_model_that_nobody_serves() {
    let server = Server::saying(hello());
    let body = with("\"n\":1").replace("\"m\"", "\"gpt\"");
    let (status, code, param) = error(server.chat(&body).await).await;
    assert_eq!(
        (status.as_u16(), &*code, param.as_deref()),
        (404, "model_not_found", Some("model"))
    );
}

#[tokio::test]
async fn messages_that_are_none() {
    let message = r#"{"role":"user","content":""}"#;
    let many = format!("[{}]", vec![message; 1025].join(","));
    check(
        CHAT,
        saying,
        r#"
        []        => empty_array messages
        {}        => invalid_type messages
        "Hi"      => invalid_type messages
        ["Hi"]    => invalid_type messages[0]
        "#,
    )
    .await;
    check(
        CHAT,
        saying,
        &format!("{many} => array_above_max_length messages"),
    )
    .await;
}

#[tokio::test]
async fn fields_of_a_message() {
    check(
        CHAT,
        message,
        r#"
        "content":"a"                                         => missing_required_parameter messages[0].role
        "role":"wizard","content":"a"                         => invalid_value messages[0].role
        "role":"tool","content":"a"                           => missing_required_parameter messages[0].tool_call_id
        "role":"user","content":"a","tool_call_id":"x"        => invalid_parameter_combination messages[0].tool_call_id
        "role":"function","content":"a","name":"f"            => unsupported_value messages[0].role
        "role":"user"                                         => missing_required_parameter messages[0].content
        "role":"user","content":null                          => missing_required_parameter messages[0].content
        "role":"user","content":7                             => invalid_type messages[0].content
        "role":"user","content":[]                            => empty_array messages[0].content
        "role":"user","content":"\udc00"                      => invalid_value messages[0].content
        "role":"user","content":"a","content":"b"             => duplicate_parameter messages[0].content
        "role":"user","content":"a","cat":1                   => unknown_parameter messages[0].cat
        "role":"user","content":"a","name":1                  => invalid_type messages[0].name
        "role":"assistant","content":null,"tool_calls":[]     => missing_required_parameter messages[0].content
        "role":"assistant","content":null,"tool_calls":[{}]   => missing_required_parameter messages[0].tool_calls[0].type
        "role":"user","content":"a","tool_calls":[{}]         => invalid_parameter_combination messages[0].tool_calls
        "role":"assistant","content":"a","function_call":{}   => unsupported_parameter messages[0].function_call
        "#,
    )
    .await;
}

#[tokio::test]
async fn parts_of_a_content() {
    check(
        CHAT,
        part,
        r#"
        7                                       => invalid_type messages[0].content[1]
        {"text":"a"}                            => missing_required_parameter messages[0].content[1].type
        {"type":"text"}                         => missing_required_parameter messages[0].content[1].text
        {"type":"text","text":1}                => invalid_type messages[0].content[1].text
        {"type":"text","text":"a","x":1}        => unknown_parameter messages[0].content[1].x
        {"type":"image_url","image_url":{}}     => unsupported_value messages[0].content[1].type
        {"type":"input_audio","input_audio":{}} => unsupported_value messages[0].content[1].type
        {"type":"smell"}                        => invalid_value messages[0].content[1].type
        "#,
    )
    .await;
}

#[tokio::test]
async fn numbers_outside_of_their_range() {
    check(
        CHAT,
        with,
        r#"
        "temperature":-0.1                => invalid_value temperature
        "temperature":2.1                 => invalid_value temperature
        "temperature":1e400               => invalid_value temperature
        "top_p":0                         => invalid_value top_p
        "top_p":1e-60                     => invalid_value top_p
        "top_p":1.01                      => invalid_value top_p
        "top_k":-2                        => invalid_value top_k
        "top_k":4294967296                => invalid_value top_k
        "min_p":1.5                       => invalid_value min_p
        "n":0                             => invalid_value n
        "n":9                             => invalid_value n
        "max_tokens":0                    => invalid_value max_tokens
        "max_tokens":-1                   => invalid_value max_tokens
        "max_completion_tokens":4294967296                                   => invalid_value max_completion_tokens
        "max_completion_tokens":9999999999999999999999999999999999999999999  => invalid_value max_completion_tokens
        "frequency_penalty":2.1           => invalid_value frequency_penalty
        "presence_penalty":-2.1           => invalid_value presence_penalty
        "repetition_penalty":0            => invalid_value repetition_penalty
        "logit_bias":{"7":100.5}          => invalid_value logit_bias.7
        "logit_bias":{"-1":1}             => invalid_value logit_bias.-1
        "logit_bias":{"07":1}             => invalid_value logit_bias.07
        "logit_bias":{"4294967296":1}     => invalid_value logit_bias.4294967296
        "logprobs":true,"top_logprobs":21 => invalid_value top_logprobs
        "stop_token_ids":[-1]             => invalid_value stop_token_ids
        "min_tokens":-1                   => invalid_value min_tokens
        "min_tokens":6,"max_tokens":5     => invalid_value min_tokens
        "seed":18446744073709551616       => invalid_value seed
        "seed":-9223372036854775809       => invalid_value seed
        "#,
    )
    .await;
}

#[tokio::test]
async fn values_of_the_wrong_type() {
    check(
        CHAT,
        with,
        r#"
        "temperature":"1"                 => invalid_type temperature
        "top_k":1.5                       => invalid_type top_k
        "n":1.0                           => invalid_type n
        "max_tokens":1e3                  => invalid_type max_tokens
        "seed":true                       => invalid_type seed
        "stream":1                        => invalid_type stream
        "ignore_eos":"no"                 => invalid_type ignore_eos
        "logit_bias":[1]                  => invalid_type logit_bias
        "logit_bias":{"7":"1"}            => invalid_type logit_bias.7
        "logprobs":5                      => invalid_type logprobs
        "stop_token_ids":7                => invalid_type stop_token_ids
        "stop":7                          => invalid_type stop
        "stop":[["a"]]                    => invalid_type stop[0]
        "user":7                          => invalid_type user
        "metadata":[]                     => invalid_type metadata
        "parallel_tool_calls":1           => invalid_type parallel_tool_calls
        "#,
    )
    .await;
}

#[tokio::test]
async fn what_openai_knows_and_we_do_not() {
    check(
        CHAT,
        with,
        r#"
        "functions":[{"name":"f"}]                    => unsupported_parameter functions
        "function_call":{"name":"f"}                  => unsupported_parameter function_call
        "store":true                                  => unsupported_value store
        "service_tier":"flex"                         => unsupported_value service_tier
        "modalities":["text","audio"]                 => unsupported_value modalities
        "reasoning_effort":"high"                     => unsupported_value reasoning_effort
        "audio":{"voice":"x"}                         => unsupported_parameter audio
        "hansa":{}                                    => unknown_parameter hansa
        "#,
    )
    .await;
}

#[tokio::test]
async fn structures_that_are_none() {
    check(
        CHAT,
        with,
        r#"
        "response_format":"json_object"                        => invalid_type response_format
        "response_format":{}                                   => missing_required_parameter response_format.type
        "response_format":{"type":"xml"}                       => invalid_value response_format.type
        "response_format":{"type":"text","x":1}                => unknown_parameter response_format.x
        "response_format":{"type":"json_schema"}               => missing_required_parameter response_format.json_schema
        "response_format":{"type":"json_schema","json_schema":{}} => missing_required_parameter response_format.json_schema.name
        "response_format":{"type":"json_schema","json_schema":{"name":"n","schema":[]}} => invalid_type response_format.json_schema.schema
        "response_format":{"type":"json_object"},"guided_regex":"a" => invalid_parameter_combination guided_regex
        "structured_outputs":{"regex":"a","choice":["b"]}      => invalid_parameter_combination structured_outputs.choice
        "structured_outputs":{"whitespace_pattern":"a"}        => unknown_parameter structured_outputs.whitespace_pattern
        "structured_outputs":{"json":7}                        => invalid_type structured_outputs.json
        "guided_regex":7                                       => invalid_type guided_regex
        "guided_choice":[]                                     => empty_array guided_choice
        "guided_choice":["a",1]                                => invalid_type guided_choice[1]
        "#,
    )
    .await;
}

#[tokio::test]
async fn what_contradicts_itself_or_is_too_much() {
    check(
        CHAT,
        with,
        r#"
        "stop":["a","b","c","d","e"]                  => array_above_max_length stop
        "stop":["a",""]                               => invalid_value stop[1]
        "max_tokens":5,"max_completion_tokens":6      => invalid_parameter_combination max_tokens
        "top_logprobs":1                              => invalid_parameter_combination top_logprobs
        "logit_bias":{"7":1,"7":2}                    => duplicate_parameter logit_bias.7
        "stream_options":{"include_usage":true}       => invalid_parameter_combination stream_options
        "stream":true,"stream_options":7              => invalid_type stream_options
        "stream":true,"stream_options":{"x":true}     => unknown_parameter stream_options.x
        "#,
    )
    .await;
    check(
        CHAT,
        |options| with(&format!(r#""stream":true,"stream_options":{options}"#)),
        r#"
        {"include_usage":1}             => invalid_type stream_options.include_usage
        {"continuous_usage_stats":1}    => invalid_type stream_options.continuous_usage_stats
        {"include_obfuscation":true}    => unsupported_value stream_options.include_obfuscation
        "#,
    )
    .await;
    let ids: Vec<String> = (0..=300).map(|id| format!("\"{id}\":1")).collect();
    let bias = ids.join(",");
    let stops = vec!["7"; 257].join(",");
    check(
        CHAT,
        with,
        &format!(
            "\"logit_bias\":{{{bias}}} => array_above_max_length logit_bias
            \"stop_token_ids\":[{stops}] => array_above_max_length stop_token_ids"
        ),
    )
    .await;
    let long = "x".repeat(257);
    check(
        CHAT,
        with,
        &format!("\"stop\":\"{long}\" => string_above_max_length stop"),
    )
    .await;
}

#[tokio::test]
async fn prompts() {
    check(
        COMPLETIONS,
        prompting,
        r#"
        null                    => missing_required_parameter prompt
        []                      => empty_array prompt
        7                       => invalid_type prompt
        {}                      => invalid_type prompt
        [[]]                    => empty_array prompt[0]
        ["a",7]                 => invalid_type prompt[1]
        [1,"a"]                 => invalid_value prompt
        [-1]                    => invalid_value prompt
        [1.5]                   => invalid_value prompt
        [[1],[4294967296]]      => invalid_value prompt[1]
        "a","n":2,"best_of":1   => invalid_value best_of
        "a","best_of":9         => invalid_value best_of
        "a","best_of":2,"stream":true => invalid_parameter_combination best_of
        "a","echo":true,"logprobs":0,"best_of":2 => invalid_parameter_combination echo
        "a","echo":true,"max_tokens":0 => invalid_value max_tokens
        "a","logprobs":0,"max_tokens":0 => invalid_value max_tokens
        "a","logprobs":21       => invalid_value logprobs
        "a","logprobs":true     => invalid_type logprobs
        "a","suffix":"b"        => unsupported_value suffix
        "a","messages":[]       => unknown_parameter messages
        "#,
    )
    .await;
    let many = format!("[{}]", ["\"a\""; 17].join(","));
    check(
        COMPLETIONS,
        prompting,
        &format!("{many} => array_above_max_length prompt"),
    )
    .await;
}

#[tokio::test]
async fn an_unknown_field_brings_a_suggestion() {
    let server = Server::saying(hello());
    for (field, meant) in [
        ("temprature", "'temperature'"),
        ("maxTokens", "'max_tokens'"),
        ("max_new_tokens", "'max_tokens'"),
        ("stops", "'stop'"),
    ] {
        let body = text(server.chat(&with(&format!("\"{field}\":1"))).await).await;
        assert!(
            body.contains(&format!("Did you mean {meant}?")),
            "{field}: {body}"
        );
    }
    let body = text(server.chat(&with("\"zzz\":1")).await).await;
    assert!(!body.contains("Did you mean"), "{body}");
}
