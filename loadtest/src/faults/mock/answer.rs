//! What a mock site understands and what it says, on the wire of the API. Pure: no time, no socket.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::drive::sim_tokens;
use crate::limits::{MAX_TOKENS, MOCK_TOKENS};

/// The two endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Chat,
    Completion,
}

/// A request as it comes; what a mock has no use for is ignored.
#[derive(Debug, Deserialize)]
struct Body {
    model: String,
    #[serde(default)]
    messages: Vec<Message>,
    #[serde(default)]
    prompt: Value,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
    seed: Option<i64>,
    n: Option<u32>,
}

#[derive(Debug, Deserialize)]
struct Message {
    #[serde(default)]
    content: Value,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// A request that will be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) kind: Kind,
    pub(super) model: String,
    pub(super) prompt_tokens: u64,
    pub(super) tokens: u32,
    pub(super) seed: u64,
    pub(super) stream: bool,
    pub(super) usage: bool,
    /// Names the answer.
    pub(super) number: u64,
}

impl Asked {
    /// Reads a body; `number` tells requests apart, and `seed` is taken where the request brings none.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(super) fn read(kind: Kind, body: &[u8], number: u64, seed: u64) -> Result<Self, String> {
        let body: Body = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        if body.n.is_some_and(|n| n != 1) {
            return Err("a mock gives one choice: n must be 1".to_owned());
        }
        let tokens = body
            .max_completion_tokens
            .or(body.max_tokens)
            .unwrap_or(MOCK_TOKENS);
        if !(1..=MAX_TOKENS).contains(&tokens) {
            return Err(format!("max_tokens must be from 1 to {MAX_TOKENS}"));
        }
        let words = match kind {
            Kind::Chat => body
                .messages
                .iter()
                .map(|message| words(&message.content))
                .sum(),
            Kind::Completion => words(&body.prompt),
        };
        Ok(Self {
            kind,
            model: body.model,
            prompt_tokens: words.max(1),
            tokens,
            seed: body.seed.map_or(seed, i64::cast_unsigned),
            stream: body.stream,
            usage: body
                .stream_options
                .is_some_and(|options| options.include_usage),
            number,
        })
    }

    /// The event of one token, with the end of the answer after the last one.
    pub(super) fn event(&self, index: u32) -> Bytes {
        let text = sim_tokens::text(self.seed, 0, u64::from(index));
        let mut events = String::new();
        event(&mut events, &self.chunk(Some(&text), None));
        if index + 1 == self.tokens {
            event(&mut events, &self.chunk(None, Some("length")));
            if self.usage {
                let mut last = self.frame();
                last["choices"] = json!([]);
                last["usage"] = self.counted();
                event(&mut events, &last);
            }
            events += "data: [DONE]\n\n";
        }
        events.into()
    }

    /// The whole answer at once.
    pub(super) fn whole(&self) -> Bytes {
        let tokens = 0..u64::from(self.tokens);
        let text: String = tokens
            .map(|index| sim_tokens::text(self.seed, 0, index))
            .collect();
        let mut answer = self.frame();
        let (name, said) = match self.kind {
            Kind::Chat => ("message", json!({"role": "assistant", "content": text})),
            Kind::Completion => ("text", json!(text)),
        };
        if self.kind == Kind::Chat {
            answer["object"] = json!("chat.completion");
        }
        answer["choices"] =
            json!([{"index": 0, name: said, "finish_reason": "length", "logprobs": null}]);
        answer["usage"] = self.counted();
        answer.to_string().into()
    }

    fn chunk(&self, text: Option<&str>, finish: Option<&str>) -> Value {
        let mut chunk = self.frame();
        let text = text.map_or_else(|| json!(""), |text| json!(text));
        chunk["choices"] = match self.kind {
            Kind::Chat if finish.is_some() => {
                json!([{"index": 0, "delta": {}, "finish_reason": finish}])
            }
            Kind::Chat => json!([{"index": 0, "delta": {"content": text}, "finish_reason": null}]),
            Kind::Completion => json!([{"index": 0, "text": text, "finish_reason": finish}]),
        };
        chunk
    }

    fn frame(&self) -> Value {
        let (id, object) = match self.kind {
            Kind::Chat => ("chatcmpl", "chat.completion.chunk"),
            Kind::Completion => ("cmpl", "text_completion"),
        };
        let id = format!("{id}-{}", self.number);
        json!({"id": id, "object": object, "created": 0, "model": self.model})
    }

    fn counted(&self) -> Value {
        let tokens = u64::from(self.tokens);
        json!({"prompt_tokens": self.prompt_tokens, "completion_tokens": tokens, "total_tokens": self.prompt_tokens + tokens})
    }
}

/// An error in the form of the API.
pub(super) fn error(kind: &str, code: &str, message: &str) -> Bytes {
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
        .to_string()
        .into()
}

/// The list of models.
pub(super) fn models(model: &str) -> Bytes {
    let model = json!({"id": model, "object": "model", "created": 0, "owned_by": "mock"});
    json!({"object": "list", "data": [model]})
        .to_string()
        .into()
}

fn event(events: &mut String, data: &Value) {
    *events += "data: ";
    *events += &data.to_string();
    *events += "\n\n";
}

/// Words of a text, or of all texts in a list.
fn words(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.split_whitespace().count() as u64,
        Value::Array(parts) => parts.iter().map(words).sum(),
        Value::Object(part) => part.get("text").map_or(0, words),
        Value::Number(_) => 1,
        Value::Null | Value::Bool(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: Kind, body: &Value) -> Result<Asked, String> {
        Asked::read(kind, body.to_string().as_bytes(), 3, 11)
    }

    #[test]
    fn requests_are_read_and_what_makes_no_sense_is_refused() {
        let chat = json!({"model": "m", "seed": -1, "max_tokens": 2, "stream": true, "temperature": 0.5,
            "messages": [{"role": "user", "content": "one two"}, {"role": "user", "content": [{"type": "text", "text": "three"}]}]});
        let asked = read(Kind::Chat, &chat).unwrap();
        assert_eq!(
            (asked.prompt_tokens, asked.tokens, asked.seed),
            (3, 2, u64::MAX)
        );
        let tokens = read(
            Kind::Completion,
            &json!({"model": "m", "prompt": [1, 2, 3, 4]}),
        )
        .unwrap();
        assert_eq!(
            (tokens.prompt_tokens, tokens.tokens, tokens.seed),
            (4, MOCK_TOKENS, 11)
        );
        for bad in [
            json!({}),
            json!({"model": "m", "n": 2}),
            json!({"model": "m", "max_tokens": 0}),
            json!([]),
        ] {
            assert!(read(Kind::Chat, &bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn streams_and_whole_answers_say_the_same() {
        let body = json!({"model": "m", "prompt": "a b", "max_tokens": 3, "stream": true, "stream_options": {"include_usage": true}});
        let asked = read(Kind::Completion, &body).unwrap();
        let whole: Value = serde_json::from_slice(&asked.whole()).unwrap();
        let events: Vec<u8> = (0..3).flat_map(|index| asked.event(index)).collect();
        let events = String::from_utf8(events).unwrap();
        let data: Vec<&str> = events
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .collect();
        assert_eq!(data.last(), Some(&"[DONE]"));
        let chunks: Vec<Value> = data
            .iter()
            .filter_map(|data| serde_json::from_str(data).ok())
            .collect();
        let text: String = chunks
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["text"].as_str())
            .collect();
        assert_eq!(whole["choices"][0]["text"], text);
        assert_eq!(
            chunks.last().map(|last| &last["usage"]),
            Some(&whole["usage"])
        );
        assert_eq!(chunks[3]["choices"][0]["finish_reason"], "length");
    }
}
