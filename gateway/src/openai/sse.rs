//! Events as the bytes of a stream: OpenAI's chunks, each `data: ` and one JSON object.
//!
//! This runs once for every token of every client, so what all chunks of a stream share is written once, and an event
//! costs a few copies into one buffer. It must not know when to write (`stream.rs` does).

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::Serialize;

use super::answer::{Head, Usage, finish_reason};
use super::error::ApiError;
use super::logprobs::{Logprobs, characters_of};
use super::params::StreamOptions;
use crate::limits;
use crate::upstream::tools::{CallHead, ToolSyntax, WireSyntax};
use crate::upstream::{self, Endpoint, Event, TokenLogprob};

/// Writes the events of one stream into a buffer.
#[derive(Debug)]
pub(super) struct Encoder {
    buffer: BytesMut,
    endpoint: Endpoint,
    /// Everything before the first choice, the same in each chunk.
    head: Vec<u8>,
    /// Everything after the last choice, the same in each chunk but that of the usage.
    tail: &'static str,
    include_usage: bool,
    /// Whether a peer reads the stream.
    peer: bool,
    choices: Vec<Choice>,
}

/// What a choice has had so far.
#[derive(Debug, Clone, Copy, Default)]
struct Choice {
    /// Whether its first chunk is out, the only one with a role.
    opened: bool,
    /// Characters of the tokens whose log-probabilities are out.
    characters: usize,
}

impl Encoder {
    pub(super) fn new(head: &Head, options: StreamOptions) -> Self {
        let tail = if options.include_usage {
            "],\"usage\":null}\n\n"
        } else {
            "]}\n\n"
        };
        Self {
            buffer: BytesMut::new(),
            endpoint: head.endpoint,
            head: chunk_head(head),
            tail,
            include_usage: options.include_usage,
            peer: head.peer,
            choices: Vec::new(),
        }
    }

    /// Writes what one event means to the client: none, one or several chunks.
    pub(super) fn event(&mut self, event: &Event) {
        if self.buffer.is_empty() {
            self.buffer.reserve(limits::SSE_BUFFER_BYTES);
        }
        match event {
            // Words for those who look for calls, which a peer does itself.
            Event::ToolSyntax(syntax) if self.peer => self.syntax(*syntax),
            Event::ToolSyntax(_) => {}
            Event::ToolCall {
                choice,
                index,
                head,
                arguments,
            } => {
                self.open(*choice, "null");
                self.start_chunk(*choice);
                self.call(*index, head.as_ref(), arguments);
                self.logprobs(*choice, &[]);
                self.end_chunk(None);
            }
            Event::Delta {
                choice,
                text,
                token_ids,
                logprobs,
            } => {
                self.open(*choice, "\"\"");
                self.start_chunk(*choice);
                self.text(Some(text));
                self.logprobs(*choice, logprobs);
                if self.peer {
                    self.extension(token_ids, logprobs);
                }
                self.end_chunk(None);
            }
            Event::Finished { choice, reason } => {
                self.open(*choice, "\"\"");
                self.start_chunk(*choice);
                self.text(None);
                self.logprobs(*choice, &[]);
                self.end_chunk(Some(finish_reason(*reason)));
            }
            Event::Done(usage) => {
                if self.include_usage {
                    self.usage(&match self.is_for_peer() {
                        true => Usage::for_peer(*usage),
                        false => Usage::from(*usage),
                    });
                }
                self.buffer.extend_from_slice(b"data: [DONE]\n\n");
            }
        }
    }

    /// Writes an error. No `[DONE]` follows: a client that stops there would take half an answer for a whole one.
    /// A peer learns what was used until then, where that is known.
    pub(super) fn error(&mut self, error: &ApiError, used: Option<upstream::Usage>) {
        let json = error.to_json();
        self.buffer.extend_from_slice(b"data: ");
        match (used.filter(|_| self.peer), json.strip_suffix(b"}")) {
            (Some(used), Some(open)) => {
                self.buffer.extend_from_slice(open);
                self.buffer.extend_from_slice(br#","hansa":{"usage":"#);
                self.json(&used);
                self.buffer.extend_from_slice(b"}}");
            }
            _ => self.buffer.extend_from_slice(&json),
        }
        self.buffer.extend_from_slice(b"\n\n");
    }

    /// Whether a peer reads the stream.
    pub(super) const fn is_for_peer(&self) -> bool {
        self.peer
    }

    /// Writes a comment, which clients skip and middlemen count as life.
    pub(super) fn ping(&mut self) {
        self.buffer.extend_from_slice(b": ping\n\n");
    }

    /// Bytes written and not taken.
    pub(super) fn pending(&self) -> usize {
        self.buffer.len()
    }

    /// Takes what was written, with the memory that it lies in: a stream that waits holds none.
    pub(super) fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.buffer).freeze()
    }

    /// The first chunk of a chat's choice, with the role and no text, as OpenAI sends it. `content` is JSON.
    fn open(&mut self, choice: u32, content: &str) {
        if self.endpoint != Endpoint::Chat || std::mem::replace(&mut self.at(choice).opened, true) {
            return;
        }
        self.start_chunk(choice);
        for part in [
            r#","delta":{"role":"assistant","content":"#,
            content,
            r#","refusal":null},"logprobs":null"#,
        ] {
            self.buffer.extend_from_slice(part.as_bytes());
        }
        self.end_chunk(None);
    }

    /// The choice with that number; a run bounds the numbers.
    fn at(&mut self, choice: u32) -> &mut Choice {
        let index = choice as usize;
        if self.choices.len() <= index {
            self.choices.resize(index + 1, Choice::default());
        }
        &mut self.choices[index]
    }

    fn text(&mut self, text: Option<&str>) {
        match (self.endpoint, text) {
            (Endpoint::Chat, Some(text)) => {
                self.buffer.extend_from_slice(br#","delta":{"content":"#);
                self.json(text);
                self.buffer.extend_from_slice(b"}");
            }
            (Endpoint::Chat, None) => self.buffer.extend_from_slice(br#","delta":{}"#),
            (Endpoint::Completions, text) => {
                self.buffer.extend_from_slice(br#","text":"#);
                self.json(text.unwrap_or_default());
            }
        }
    }

    fn call(&mut self, index: u32, head: Option<&CallHead>, arguments: &str) {
        self.buffer
            .extend_from_slice(br#","delta":{"tool_calls":["#);
        let call = CallDelta {
            index,
            id: head.map(|head| &*head.id),
            r#type: head.map(|_| "function"),
            function: FunctionDelta {
                name: head.map(|head| &*head.name),
                arguments,
            },
        };
        self.json(&call);
        self.buffer.extend_from_slice(b"]}");
    }

    fn logprobs(&mut self, choice: u32, tokens: &[TokenLogprob]) {
        self.buffer.extend_from_slice(br#","logprobs":"#);
        if tokens.is_empty() {
            self.buffer.extend_from_slice(b"null");
            return;
        }
        let characters = self.at(choice).characters;
        self.json(&Logprobs::of(self.endpoint, tokens, characters));
        self.at(choice).characters += tokens.iter().map(characters_of).sum::<usize>();
    }

    /// How the model writes calls, in a chunk of its own.
    fn syntax(&mut self, syntax: ToolSyntax) {
        self.buffer.extend_from_slice(&self.head);
        self.buffer
            .extend_from_slice(br#"],"hansa":{"tool_syntax":"#);
        self.json(&WireSyntax::from(syntax));
        self.buffer.extend_from_slice(b"}}\n\n");
    }

    /// What only a peer reads: ids to go on from, and the bytes that a completion's log-probabilities lose.
    fn extension(&mut self, token_ids: &[u32], logprobs: &[TokenLogprob]) {
        #[derive(Serialize)]
        struct Extension<'a> {
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            token_ids: &'a [u32],
            #[serde(skip_serializing_if = "Option::is_none")]
            logprobs: Option<Logprobs<'a>>,
        }
        let whole = self.endpoint == Endpoint::Completions && !logprobs.is_empty();
        if token_ids.is_empty() && !whole {
            return;
        }
        let logprobs = whole.then(|| Logprobs::of(Endpoint::Chat, logprobs, 0));
        self.buffer.extend_from_slice(br#","hansa":"#);
        self.json(&Extension {
            token_ids,
            logprobs,
        });
    }

    fn end_chunk(&mut self, reason: Option<&str>) {
        self.buffer.extend_from_slice(br#","finish_reason":"#);
        self.json(&reason);
        self.buffer.extend_from_slice(b"}");
        self.buffer.extend_from_slice(self.tail.as_bytes());
    }

    fn start_chunk(&mut self, choice: u32) {
        self.buffer.extend_from_slice(&self.head);
        self.buffer.extend_from_slice(br#"{"index":"#);
        self.json(&choice);
    }

    fn usage(&mut self, usage: &Usage) {
        self.buffer.extend_from_slice(&self.head);
        self.buffer.extend_from_slice(br#"],"usage":"#);
        self.json(usage);
        self.buffer.extend_from_slice(b"}\n\n");
    }

    fn json<T: Serialize + ?Sized>(&mut self, value: &T) {
        let written = serde_json::to_writer((&mut self.buffer).writer(), value);
        debug_assert!(written.is_ok(), "strings and numbers fit into memory");
    }
}

/// A part of a call; only the first one says whom it calls.
#[derive(Serialize)]
struct CallDelta<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: FunctionDelta<'a>,
}

#[derive(Serialize)]
struct FunctionDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}

fn chunk_head(head: &Head) -> Vec<u8> {
    #[derive(Serialize)]
    struct Fields<'a> {
        id: &'a str,
        object: &'static str,
        created: i64,
        model: &'a str,
    }
    let fields = Fields {
        id: &head.id,
        object: match head.endpoint {
            Endpoint::Chat => "chat.completion.chunk",
            Endpoint::Completions => "text_completion",
        },
        created: head.created_s,
        model: &head.model,
    };
    let mut text = b"data: ".to_vec();
    let written = serde_json::to_writer(&mut text, &fields);
    debug_assert!(written.is_ok(), "strings and numbers fit into memory");
    // The object goes on with the choices.
    text.pop();
    text.extend_from_slice(br#","choices":["#);
    text
}
