//! Calls of tools: from a model's text to events, as the first server of a request makes them.
//!
//! An upstream that finds calls itself, as foreign ones do, says no syntax, and its events pass as they are.

mod extent;
mod parser;

use std::collections::VecDeque;
use std::sync::Arc;

use self::parser::{Parser, Piece};
use crate::upstream::tools::{CallHead, ToolSyntax, Tools};
use crate::upstream::{Event, FinishReason, GenerateRequest};

/// The calls of one request.
#[derive(Debug)]
pub(super) struct Calls {
    tools: Arc<Tools>,
    /// What ids are made of beside choice and index.
    salt: u64,
    /// How the model writes calls, once it is told.
    syntax: Option<ToolSyntax>,
    choices: Vec<Choice>,
}

#[derive(Debug)]
struct Choice {
    parser: Parser,
    /// Calls that began.
    calls: u32,
}

impl Calls {
    /// The calls of `request`; `None` where it has no tools.
    pub(super) fn of(request: &GenerateRequest) -> Option<Self> {
        let tools = Arc::clone(request.tools.as_ref()?);
        // The moment is in it, since a client may use one seed for every turn of a conversation.
        let moment = request.template_time_s.cast_unsigned();
        Some(Self {
            tools,
            salt: mixed(request.seed ^ mixed(moment)),
            syntax: None,
            choices: Vec::new(),
        })
    }

    /// Takes one event and appends what becomes of it to `out`.
    pub(super) fn take(&mut self, event: Event, out: &mut VecDeque<Event>) {
        match (event, self.syntax) {
            (Event::ToolSyntax(syntax), _) => self.syntax = Some(syntax),
            (event @ Event::Delta { .. }, Some(syntax)) => self.take_delta(event, syntax, out),
            (Event::Finished { choice, reason }, Some(syntax)) => {
                let reason = self.finish(choice, reason, syntax, out);
                out.push_back(Event::Finished { choice, reason });
            }
            (event, _) => out.push_back(event),
        }
    }

    fn take_delta(&mut self, delta: Event, syntax: ToolSyntax, out: &mut VecDeque<Event>) {
        let Event::Delta {
            choice,
            text,
            token_ids,
            logprobs,
        } = delta
        else {
            return;
        };
        let mut pieces = Vec::new();
        self.at(choice, syntax).parser.push(&text, &mut pieces);
        let mut pieces = pieces.into_iter().peekable();
        // What is known of the tokens goes with the text, where there is some, and alone otherwise.
        let text = match pieces.peek_mut() {
            Some(Piece::Text(text)) => std::mem::take(text),
            _ => String::new(),
        };
        if !(text.is_empty() && token_ids.is_empty() && logprobs.is_empty()) {
            out.push_back(Event::Delta {
                choice,
                text,
                token_ids,
                logprobs,
            });
        }
        self.tell(choice, syntax, pieces, out);
    }

    fn finish(
        &mut self,
        choice: u32,
        reason: FinishReason,
        syntax: ToolSyntax,
        out: &mut VecDeque<Event>,
    ) -> FinishReason {
        let mut pieces = Vec::new();
        let parser = &mut self.at(choice, syntax).parser;
        parser.finish(&mut pieces);
        let has_called = parser.has_called();
        self.tell(choice, syntax, pieces, out);
        match reason {
            FinishReason::Stop if has_called => FinishReason::ToolCalls,
            reason => reason,
        }
    }

    fn tell(
        &mut self,
        choice: u32,
        syntax: ToolSyntax,
        pieces: impl IntoIterator<Item = Piece>,
        out: &mut VecDeque<Event>,
    ) {
        for piece in pieces {
            let event = match piece {
                Piece::Text(text) if text.is_empty() => continue,
                Piece::Text(text) => Event::Delta {
                    choice,
                    text,
                    token_ids: Vec::new(),
                    logprobs: Vec::new(),
                },
                Piece::Call(name) => {
                    let salt = self.salt;
                    let calls = &mut self.at(choice, syntax).calls;
                    let index = *calls;
                    *calls += 1;
                    let id = call_id(salt, choice, index);
                    Event::ToolCall {
                        choice,
                        index,
                        head: Some(CallHead { id, name }),
                        arguments: String::new(),
                    }
                }
                Piece::Arguments(arguments) => Event::ToolCall {
                    choice,
                    index: self.at(choice, syntax).calls.saturating_sub(1),
                    head: None,
                    arguments,
                },
            };
            out.push_back(event);
        }
    }

    /// The choice with that number; a run bounds the numbers.
    fn at(&mut self, choice: u32, syntax: ToolSyntax) -> &mut Choice {
        let index = choice as usize;
        if self.choices.len() <= index {
            self.choices.resize_with(index + 1, || Choice {
                parser: Parser::new(Arc::clone(&self.tools), syntax),
                calls: 0,
            });
        }
        &mut self.choices[index]
    }
}

/// An id that is the same wherever the stream goes on, and another for each call.
fn call_id(salt: u64, choice: u32, index: u32) -> String {
    let place = u64::from(choice) << 32 | u64::from(index);
    let first = mixed(salt ^ mixed(place));
    let second = mixed(first);
    format!("call_{first:016x}{:08x}", second >> 32)
}

/// splitmix64: <https://prng.di.unimi.it/splitmix64.c>.
const fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
