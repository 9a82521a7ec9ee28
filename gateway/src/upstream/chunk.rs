//! A chunk of another server's stream as our events, believed as far as it can be true.
//!
//! The server may be broken or hostile: numbers of choices, ends and usage are held against what was asked. It must not
//! know how chunks arrive (`sse.rs`, `forward.rs`).

mod template;
mod wire;

use std::collections::VecDeque;

use self::template::Template;
pub(super) use self::wire::WireUsage;
use self::wire::{CallDelta, Choice, Chunk};
use crate::upstream::refusal::{self, WireError};
use crate::upstream::tools::CallHead;
use crate::upstream::{
    Endpoint, Event, FinishReason, GenerateRequest, Prompt, UpstreamError, UpstreamErrorKind, Usage,
};

/// What ends a stream before its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The server says so itself.
    Told(Box<UpstreamError>),
    /// It says what makes no sense; the text goes to the log.
    Nonsense(&'static str),
}

/// Reads the chunks of one stream.
#[derive(Debug)]
pub(super) struct Decoder {
    endpoint: Endpoint,
    ours: bool,
    /// For each choice whether it ended.
    finished: Vec<bool>,
    /// Tokens as far as events show them: one each, or as many as they name.
    seen: u32,
    told: Option<WireUsage>,
    /// The last chunk that bore text alone; most are like the one before.
    template: Option<Template>,
    prompt_max: u32,
    /// Tokens of the prompt where the server never tells.
    prompt_guess: u32,
    completion_max: u32,
}

impl Decoder {
    /// For the answer to `request`; `ours` where a server of ours gives it.
    pub(super) fn new(request: &GenerateRequest, ours: bool) -> Self {
        let n = request.n;
        Self {
            endpoint: request.endpoint,
            ours,
            finished: vec![false; n as usize],
            seen: 0,
            told: None,
            template: None,
            prompt_max: prompt_max(request.body.len()),
            prompt_guess: prompt_guess(request),
            completion_max: (request.max_tokens.or(request.default_max_tokens))
                .unwrap_or(COMPLETION_MAX)
                .saturating_mul(n),
        }
    }

    /// Adds the events of one chunk, the JSON in `data`, to `events`.
    pub(super) fn chunk(&mut self, data: &[u8], events: &mut VecDeque<Event>) -> Result<(), Fault> {
        if let Some((choice, text)) = self.as_before(data) {
            if !text.is_empty() {
                self.say(choice, text, events);
            }
            return Ok(());
        }
        let chunk: Chunk<'_> =
            serde_json::from_slice(data).map_err(|_| Fault::Nonsense("a chunk is not JSON"))?;
        self.template = Template::of(data, &chunk, self.endpoint);
        self.read(chunk, events)
    }

    /// Adds the events of an answer in one piece, the JSON in `data`, to `events`, and gives its usage.
    pub(super) fn whole(
        &mut self,
        data: &[u8],
        events: &mut VecDeque<Event>,
    ) -> Result<Usage, Fault> {
        let answer: Chunk<'_> =
            serde_json::from_slice(data).map_err(|_| Fault::Nonsense("an answer is not JSON"))?;
        self.read(answer, events)?;
        // One event is many tokens here. Where the server does not tell how many, it is as with prompts.
        let texts = events.iter().filter_map(|event| match event {
            Event::Delta { text, .. } => Some(text.len()),
            _ => None,
        });
        let guess: usize = texts.map(|bytes| bytes.div_ceil(BYTES_PER_TOKEN)).sum();
        self.seen = self.seen.max(u32::try_from(guess).unwrap_or(u32::MAX));
        self.done()
    }

    /// The choice and text of a chunk that is like the one before but for its text.
    fn as_before(&self, data: &[u8]) -> Option<(u32, String)> {
        let template = self.template.as_ref()?;
        let goes_on = self.finished.get(template.choice() as usize) == Some(&false);
        let text = template.text(data).filter(|_| goes_on)?;
        Some((template.choice(), text))
    }

    fn say(&mut self, choice: u32, text: String, events: &mut VecDeque<Event>) {
        self.saw(1);
        events.push_back(Event::Delta {
            choice,
            text,
            token_ids: Vec::new(),
            logprobs: Vec::new(),
        });
    }

    fn read(&mut self, chunk: Chunk<'_>, events: &mut VecDeque<Event>) -> Result<(), Fault> {
        let extension = chunk.hansa.filter(|_| self.ours).unwrap_or_default();
        if let Some(error) = chunk.error {
            let error = in_stream(&error, self.ours);
            return Err(Fault::Told(Box::new(match extension.usage {
                Some(usage) => error.after(self.believed(usage)),
                None => error,
            })));
        }
        if let Some(usage) = chunk.usage {
            self.told = Some(usage);
        }
        if let Some(syntax) = extension.tool_syntax {
            events.push_back(Event::ToolSyntax(syntax.into()));
        }
        for choice in chunk.choices.unwrap_or_default() {
            self.choice(choice, events)?;
        }
        Ok(())
    }

    fn choice(&mut self, choice: Choice<'_>, events: &mut VecDeque<Event>) -> Result<(), Fault> {
        let index = choice.index;
        match self.finished.get(index as usize) {
            None => {
                return Err(Fault::Nonsense(
                    "a choice has a number that nobody asked for",
                ));
            }
            // Some servers repeat a choice when all is over.
            Some(true) if choice.is_empty() => return Ok(()),
            Some(true) => return Err(Fault::Nonsense("a choice goes on after its end")),
            Some(false) => {}
        }
        let hansa = choice.hansa.filter(|_| self.ours).unwrap_or_default();
        let logprobs = hansa.logprobs.or(choice.logprobs);
        let logprobs = logprobs
            .map(|logprobs| logprobs.read())
            .transpose()
            .map_err(Fault::Nonsense)?;
        let (content, calls) = choice
            .delta
            .map(|d| (d.content, d.tool_calls))
            .unwrap_or_default();
        let text = match self.endpoint {
            Endpoint::Chat => content,
            Endpoint::Completions => choice.text,
        };
        let (text, logprobs) = (text.unwrap_or_default(), logprobs.unwrap_or_default());
        let token_ids = hansa.token_ids;
        if !text.is_empty() || !logprobs.is_empty() || !token_ids.is_empty() {
            let named = token_ids.len().max(logprobs.len()).max(1);
            self.saw(u32::try_from(named).unwrap_or(u32::MAX));
            events.push_back(Event::Delta {
                choice: index,
                text: text.into_owned(),
                token_ids,
                logprobs,
            });
        }
        for (place, call) in (0..).zip(calls.unwrap_or_default()) {
            self.saw(1);
            events.push_back(call_event(index, place, call));
        }
        if let Some(reason) = choice.finish_reason {
            if let Some(finished) = self.finished.get_mut(index as usize) {
                *finished = true;
            }
            events.push_back(Event::Finished {
                choice: index,
                reason: finish_reason(&reason),
            });
        }
        Ok(())
    }

    /// What the request used, once every choice has ended.
    pub(super) fn done(&self) -> Result<Usage, Fault> {
        if self.finished.iter().all(|finished| *finished) {
            Ok(self.usage())
        } else {
            Err(Fault::Nonsense("the stream ended before its choices did"))
        }
    }

    /// What the server tells where that can be; counted from the events otherwise.
    pub(super) fn usage(&self) -> Usage {
        match self.told.as_ref().map(|told| told.read(self.ours)) {
            Some(told) => self.believed(told),
            None => Usage {
                prompt_tokens: self.prompt_guess,
                ..self.counted()
            },
        }
    }

    /// `told` where that can be; counted from the events otherwise.
    pub(super) fn believed(&self, told: Usage) -> Usage {
        let possible = told.prompt_tokens <= self.prompt_max
            && told.cached_tokens <= told.prompt_tokens
            && told.completion_tokens <= self.completion_max
            && (told.completion_tokens > 0 || self.seen == 0 || self.completion_max == 0);
        match possible {
            true => told,
            false => Usage {
                prompt_tokens: told.prompt_tokens.min(self.prompt_max),
                ..self.counted()
            },
        }
    }

    fn counted(&self) -> Usage {
        Usage {
            completion_tokens: self.seen.min(self.completion_max),
            estimated: true,
            ..Usage::default()
        }
    }

    fn saw(&mut self, tokens: u32) {
        self.seen = self.seen.saturating_add(tokens);
    }

    /// Whether the server tells a usage that cannot be.
    pub(super) fn usage_is_impossible(&self) -> bool {
        let told = self.told.as_ref().map(|told| told.read(self.ours));
        told.is_some_and(|told| self.believed(told) != told)
    }
}

/// A part of a call; the first one has its name.
fn call_event(choice: u32, place: u32, call: CallDelta<'_>) -> Event {
    let function = call.function;
    let (name, arguments) = function.map(|f| (f.name, f.arguments)).unwrap_or_default();
    let id = call.id.unwrap_or_default().into_owned();
    let head = name.filter(|name| !name.is_empty()).map(|name| CallHead {
        id,
        name: name.into_owned(),
    });
    Event::ToolCall {
        choice,
        index: call.index.unwrap_or(place),
        head,
        arguments: arguments.unwrap_or_default().into_owned(),
    }
}

/// Bytes of a token in most languages.
const BYTES_PER_TOKEN: usize = 4;

/// Tokens of a prompt whose server never tells.
fn prompt_guess(request: &GenerateRequest) -> u32 {
    let tokens = match &request.prompt {
        Prompt::Tokens(ids) => ids.len(),
        Prompt::Text(text) => text.len().div_ceil(BYTES_PER_TOKEN),
        Prompt::Chat(_) => request.body.len().div_ceil(BYTES_PER_TOKEN),
    };
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

/// Tokens of the largest context there is.
const COMPLETION_MAX: u32 = 1 << 24;

/// A token stands for at least a byte, and templates add some of their own.
fn prompt_max(body_bytes: usize) -> u32 {
    let bytes = u32::try_from(body_bytes).unwrap_or(u32::MAX);
    bytes.saturating_mul(4).saturating_add(1 << 16)
}

/// An error inside a stream has no status: its code says what it is. Where a server of ours lost the one behind it and could
/// not go on itself, whoever has the whole stream still can.
fn in_stream(error: &WireError<'_>, ours: bool) -> UpstreamError {
    let lost = ours && error.code() == Some("upstream_unreachable");
    let lost = lost.then_some(UpstreamErrorKind::Unreachable);
    let kind = lost.or_else(|| refusal::of_code(error, ours));
    kind.unwrap_or(UpstreamErrorKind::Internal).into()
}

/// Words of other servers that we have no word for are ends of their own accord.
fn finish_reason(word: &str) -> FinishReason {
    match word {
        "length" => FinishReason::Length,
        "tool_calls" | "function_call" => FinishReason::ToolCalls,
        _ => FinishReason::Stop,
    }
}

#[cfg(test)]
mod tests;
