//! What one request asks for, and its body in OpenAI's wire format. Where the words come from is the workload's business.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::workload::form::Form;

/// Which endpoint is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Endpoint {
    /// `POST /v1/chat/completions`.
    Chat,
    /// `POST /v1/completions`.
    Completions,
    /// `POST /v1/embeddings`.
    Embeddings,
}

/// What one request asks for.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The model's id.
    pub model: Arc<str>,
    /// The chat so far; joined by newlines it is the prompt of the endpoint that knows no chats, and each message is a
    /// text of its own where vectors are asked for.
    pub messages: Vec<Message>,
    /// Most tokens of the answer.
    pub output_tokens: u32,
    /// Sends `seed`, which fixes the text of a simulated model.
    pub seed: Option<u64>,
    /// Sends `ignore_eos`, an extension of vLLM, sglang and others.
    pub ignore_eos: bool,
    /// Sends `priority`, an extension of vLLM and sglang.
    pub priority: Option<i32>,
    /// What form the answer must have, if any.
    pub form: Option<Arc<Form>>,
}

/// One message of a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: Arc<str>,
}

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The one who sets the stage.
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
}

impl Endpoint {
    /// The path below `/v1`.
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/chat/completions",
            Self::Completions => "/completions",
            Self::Embeddings => "/embeddings",
        }
    }

    /// Whether answers come as streams of events.
    pub fn streams(self) -> bool {
        self != Self::Embeddings
    }
}

impl Role {
    /// A message of this one.
    pub fn says(self, content: impl Into<Arc<str>>) -> Message {
        Message {
            role: self,
            content: content.into(),
        }
    }
}

impl Ask {
    /// The JSON body.
    pub fn body(&self) -> Vec<u8> {
        if self.endpoint == Endpoint::Embeddings {
            let input = self.messages.iter().map(|text| &*text.content).collect();
            let body = Texts {
                model: &self.model,
                input,
                encoding_format: "float",
            };
            return serde_json::to_vec(&body).unwrap_or_default();
        }
        let chat = self.endpoint == Endpoint::Chat;
        let form = self.form.as_deref();
        let body = Body {
            model: &self.model,
            messages: chat.then_some(&*self.messages),
            prompt: (!chat).then(|| self.joined()),
            max_completion_tokens: chat.then_some(self.output_tokens),
            max_tokens: (!chat).then_some(self.output_tokens),
            temperature: 0.0,
            stream: true,
            stream_options: StreamOptions {
                include_usage: true,
            },
            ignore_eos: self.ignore_eos.then_some(true),
            seed: self.seed,
            priority: self.priority,
            response_format: form.and_then(|form| form.response_format.as_deref()),
            tools: form.and_then(|form| form.tools.as_deref()),
            tool_choice: form.and_then(|form| form.tool_choice.as_deref()),
        };
        // Strings and numbers always serialise; an empty body would be answered with 400 and counted as failed.
        serde_json::to_vec(&body).unwrap_or_default()
    }

    fn joined(&self) -> String {
        let texts: Vec<&str> = self.messages.iter().map(|said| &*said.content).collect();
        texts.join("\n")
    }
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<&'a [Message]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    temperature: f32,
    stream: bool,
    stream_options: StreamOptions,
    #[serde(skip_serializing_if = "Option::is_none")]
    ignore_eos: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<&'a RawValue>,
}

/// The body that asks for vectors.
#[derive(Serialize)]
struct Texts<'a> {
    model: &'a str,
    input: Vec<&'a str>,
    encoding_format: &'a str,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A request for at most 8 tokens of model `m`.
    pub(crate) fn ask() -> Ask {
        Ask {
            endpoint: Endpoint::Chat,
            model: "m".into(),
            messages: vec![Role::System.says("be brief"), Role::User.says("a b c d")],
            output_tokens: 8,
            seed: None,
            ignore_eos: false,
            priority: None,
            form: None,
        }
    }

    fn json(ask: &Ask) -> serde_json::Value {
        serde_json::from_slice(&ask.body()).unwrap()
    }

    #[test]
    fn bodies_are_what_the_endpoints_take() {
        let chat = json(&ask());
        assert_eq!(chat["messages"][1]["role"], "user");
        assert_eq!(chat["max_completion_tokens"], 8);
        assert_eq!(chat["stream_options"]["include_usage"], true);
        for absent in [
            "prompt",
            "ignore_eos",
            "seed",
            "priority",
            "tools",
            "response_format",
        ] {
            assert!(chat.get(absent).is_none(), "{absent}");
        }
        let text = json(&Ask {
            endpoint: Endpoint::Completions,
            seed: Some(5),
            priority: Some(-1),
            ..ask()
        });
        assert_eq!(text["prompt"], "be brief\na b c d");
        assert_eq!((&text["max_tokens"], &text["seed"]), (&8.into(), &5.into()));
        assert_eq!(text["priority"], -1);
        assert!(text.get("messages").is_none());
        let vectors = json(&Ask {
            endpoint: Endpoint::Embeddings,
            ..ask()
        });
        assert_eq!(vectors["input"], serde_json::json!(["be brief", "a b c d"]));
        assert!(vectors.get("stream").is_none());
    }

    #[test]
    fn forms_are_sent_as_they_are_written() {
        let with = |form: Form| {
            json(&Ask {
                form: Some(Arc::new(form)),
                ..ask()
            })
        };
        let schema = serde_json::json!({"type": "object"});
        let body = with(Form::schema("s".into(), &schema).unwrap());
        assert_eq!(body["response_format"]["json_schema"]["schema"], schema);
        let tools = serde_json::json!([{"type": "function", "function": {"name": "f"}}]);
        let body = with(Form::tools("t".into(), &tools, "required").unwrap());
        assert_eq!(
            (&body["tools"], &body["tool_choice"]),
            (&tools, &"required".into())
        );
    }
}
