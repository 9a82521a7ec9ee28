//! The few fields of a completion chunk that a verdict needs, borrowed from the event: a chunk costs no tree of values
//! and, but for escaped text, no copy. Knows the OpenAI wire format and nothing else.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::extras::Extras;

/// One `data:` payload of a chat or text completion stream.
#[derive(Debug, Deserialize)]
pub struct Chunk<'a> {
    #[serde(borrow)]
    model: Option<Text<'a>>,
    #[serde(borrow)]
    object: Option<Text<'a>>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    /// Absent or empty in the chunk that carries the usage.
    #[serde(borrow)]
    pub choices: Option<Vec<Choice<'a>>>,
    /// Token counts as the server sees them.
    #[serde(borrow)]
    pub usage: Option<Counted<'a>>,
    /// What Hansa adds to the protocol.
    #[serde(borrow)]
    hansa: Option<&'a RawValue>,
}

/// The usage object of a chunk.
#[derive(Debug, Deserialize)]
pub struct Counted<'a> {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: Option<u64>,
    #[serde(borrow)]
    prompt_tokens_details: Option<&'a RawValue>,
    #[serde(borrow)]
    hansa: Option<&'a RawValue>,
}

/// One choice of a chunk.
#[derive(Debug, Deserialize)]
pub struct Choice<'a> {
    /// Which of the `n` choices asked for; servers may leave out a 0.
    #[serde(default)]
    pub index: u64,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    finish_reason: Option<Text<'a>>,
}

/// Token counts of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, chat template included.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub completion_tokens: u64,
    /// Their sum, if the server says it.
    pub total_tokens: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<Text<'a>>,
    #[serde(borrow)]
    reasoning_content: Option<Text<'a>>,
    #[serde(borrow)]
    reasoning: Option<Text<'a>>,
    #[serde(borrow)]
    refusal: Option<Text<'a>>,
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
}

/// A string, borrowed where it holds no escapes. (A bare `Option<Cow<str>>` would always be copied by serde.)
#[derive(Debug, Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Chunk<'a> {
    /// Reads one payload.
    ///
    /// # Errors
    /// Not JSON, or a field that we need has another type.
    pub fn parse(data: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(data)
    }

    /// The model that answered, if the chunk names one.
    pub fn model(&self) -> Option<&str> {
        self.model.as_ref().map(|text| &*text.0)
    }

    /// The counts of the chunk that carries them; what else it tells goes into `extras`.
    pub fn counts(&self, extras: &mut Extras) -> Option<Usage> {
        let counted = self.usage.as_ref()?;
        if let Some(details) = counted.prompt_tokens_details {
            extras.take_details(details);
        }
        for told in [self.hansa, counted.hansa].into_iter().flatten() {
            extras.take_hansa(told);
        }
        Some(Usage {
            prompt_tokens: counted.prompt_tokens,
            completion_tokens: counted.completion_tokens,
            total_tokens: counted.total_tokens,
        })
    }

    /// Whether this is an error inside a stream, in OpenAI's form or in that of older vLLM and sglang servers.
    pub fn is_error(&self) -> bool {
        self.error.is_some()
            || self
                .object
                .as_ref()
                .is_some_and(|object| object.0 == "error")
    }
}

impl Choice<'_> {
    /// Generated text that a reader sees in this event; empty for role-only and closing chunks.
    pub fn text(&self) -> &str {
        let delta = self.delta.as_ref().and_then(|delta| delta.content.as_ref());
        delta.or(self.text.as_ref()).map_or("", |text| &*text.0)
    }

    /// Whether the event carries anything generated: text, reasoning, a refusal or a part of a tool call.
    pub fn has_content(&self) -> bool {
        !self.text().is_empty() || self.delta.as_ref().is_some_and(Delta::has_other_content)
    }

    /// Whether the choice ends here, for a stated reason.
    pub fn is_finished(&self) -> bool {
        self.finish_reason
            .as_ref()
            .is_some_and(|reason| !reason.0.is_empty())
    }

    /// Whether the answer was cut at its longest.
    pub fn is_cut(&self) -> bool {
        let reason = self.finish_reason.as_ref();
        reason.is_some_and(|reason| reason.0 == "length")
    }

    /// The parts of tool calls that this event carries, as they came.
    pub fn tool_calls(&self) -> Option<&RawValue> {
        self.delta.as_ref().and_then(|delta| delta.tool_calls)
    }
}

impl Delta<'_> {
    fn has_other_content(&self) -> bool {
        let texts = [&self.reasoning_content, &self.reasoning, &self.refusal];
        texts.into_iter().flatten().any(|text| !text.0.is_empty())
            || self.tool_calls.is_some_and(|calls| calls.get() != "[]")
    }
}

/// The machine-readable code of an error object (`code`, else `type`), with or without the `error` envelope.
/// Never its message: that may repeat a prompt.
pub fn error_code(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Object {
        error: Option<Box<Object>>,
        code: Option<serde_json::Value>,
        r#type: Option<String>,
    }
    let mut object: Object = serde_json::from_slice(body).ok()?;
    if let Some(inner) = object.error.take() {
        object = *inner;
    }
    let code = match object.code {
        Some(serde_json::Value::String(code)) => Some(code),
        Some(serde_json::Value::Number(code)) => Some(code.to_string()),
        _ => None,
    };
    code.or(object.r#type).and_then(|code| presentable(&code))
}

/// Keeps a code only if it is short and plain; a server must not write to the reader's terminal.
fn presentable(code: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let fits = !code.is_empty() && code.len() <= crate::limits::MAX_CODE_BYTES;
    (fits && code.bytes().all(plain)).then(|| code.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_chat_and_text_chunks_and_ignores_the_rest() {
        let chat = br#"{"id":"x","model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"a\nb"},
            "logprobs":null,"finish_reason":null}],"usage":null,"extra":{"deep":[1,2]}}"#;
        let chunk = Chunk::parse(chat).unwrap();
        let choices = chunk.choices.as_ref().unwrap();
        assert_eq!((chunk.model(), choices[0].text()), (Some("m"), "a\nb"));
        assert!(choices[0].has_content() && !choices[0].is_finished() && !chunk.is_error());

        let text = br#"{"choices":[{"text":"hi","finish_reason":"stop"}]}"#;
        let chunk = Chunk::parse(text).unwrap();
        let choice = &chunk.choices.as_ref().unwrap()[0];
        assert!(choice.text() == "hi" && choice.is_finished());
    }

    #[test]
    fn plain_text_is_borrowed() {
        let data = br#"{"model":"m"}"#;
        assert!(matches!(
            Chunk::parse(data).unwrap().model,
            Some(Text(Cow::Borrowed("m")))
        ));
    }

    #[test]
    fn content_is_what_was_generated() {
        let has_content = |delta: &str| {
            let data = format!(r#"{{"choices":[{{"delta":{delta}}}]}}"#);
            Chunk::parse(data.as_bytes()).unwrap().choices.unwrap()[0].has_content()
        };
        for delta in [
            r#"{"role":"assistant","content":""}"#,
            "{}",
            "null",
            r#"{"tool_calls":[]}"#,
        ] {
            assert!(!has_content(delta), "{delta}");
        }
        for delta in [
            r#"{"content":" "}"#,
            r#"{"reasoning_content":"so"}"#,
            r#"{"reasoning":"so"}"#,
            r#"{"tool_calls":[{"index":0}]}"#,
        ] {
            assert!(has_content(delta), "{delta}");
        }
    }

    #[test]
    fn errors_inside_a_stream_are_seen_in_both_forms() {
        let is_error = |data: &[u8]| Chunk::parse(data).unwrap().is_error();
        assert!(is_error(br#"{"error":{"message":"boom"}}"#));
        assert!(is_error(br#"{"error":"boom"}"#));
        assert!(is_error(
            br#"{"object":"error","message":"boom","code":500}"#
        ));
        assert!(!is_error(br#"{"error":null,"choices":[]}"#));
    }

    #[test]
    fn wrong_shapes_are_refused() {
        let refused: [&[u8]; 7] = [
            b"",
            b"nonsense",
            b"[1]",
            br#"{"choices":{}}"#,
            br#"{"choices":[{"delta":{"content":7}}]}"#,
            br#"{"usage":{"prompt_tokens":-1,"completion_tokens":1}}"#,
            b"{\"model\":\"\xff\"}",
        ];
        for data in refused {
            assert!(
                Chunk::parse(data).is_err(),
                "{}",
                String::from_utf8_lossy(data)
            );
        }
    }

    #[test]
    fn error_codes_are_taken_only_if_presentable() {
        let code = |body: &str| error_code(body.as_bytes());
        let openai =
            r#"{"error":{"message":"secret","type":"requests","code":"rate_limit_exceeded"}}"#;
        assert_eq!(code(openai).as_deref(), Some("rate_limit_exceeded"));
        assert_eq!(
            code(r#"{"object":"error","code":400}"#).as_deref(),
            Some("400")
        );
        assert_eq!(
            code(r#"{"error":{"type":"server_error","code":null}}"#).as_deref(),
            Some("server_error")
        );
        assert_eq!(code(r#"{"error":{"code":"\u001b[2J"}}"#), None);
        assert_eq!(code("<html>"), None);
    }
}
