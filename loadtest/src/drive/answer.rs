//! Follows one streamed answer: turns pieces of its body into what the server told, with a stamp on every content
//! event. Judges nothing ([`super::verdict`] does) and reads no clock.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::calls::Calls;
use super::chunk::{Choice, Chunk, Usage, error_code};
use super::prompt::Ask;
use super::sim_tokens::TokenCheck;
use super::sse::{Event, SseParser};
use crate::clock::Nanos;
use crate::extras::Extras;
use crate::limits::{MAX_ANSWER_BYTES, MAX_CONTENT_EVENTS, MAX_KEPT_BYTES};
use crate::workload::form::Demand;

/// A streamed answer while it comes.
#[derive(Debug)]
pub struct Answer {
    parser: SseParser,
    bytes: u64,
    ask: Arc<Ask>,
    told: Told,
}

/// What a stream told, as far as it came.
#[derive(Debug, Default)]
pub struct Told {
    /// The choice had a finish reason.
    pub finished: bool,
    /// It was `length`: the answer was cut at its longest.
    pub cut: bool,
    /// `[DONE]` came.
    pub done: bool,
    /// An error event came: its code.
    pub error: Option<Cow<'static, str>>,
    /// It is no stream of completion chunks, and why.
    pub malformed: Option<&'static str>,
    /// Who answered.
    pub model: ModelSeen,
    /// The last usage that came.
    pub usage: Option<Usage>,
    /// Events with content.
    pub content_events: usize,
    /// Gaps between successive content events, in microseconds.
    pub gaps_us: Vec<u32>,
    /// Stamp of the first content event.
    pub first_content: Option<Nanos>,
    /// Stamp of the last content event.
    pub last_content: Option<Nanos>,
    /// Stamp of `[DONE]`.
    pub terminal: Option<Nanos>,
    /// The check of a simulated model's text, where one was asked for.
    pub tokens: Option<TokenCheck>,
    /// The text, where a chat goes on from it or it must have a form.
    pub text: Option<String>,
    /// The tool calls, where they must be whole.
    pub calls: Option<Calls>,
    /// What the usage tells beyond counts.
    pub extras: Extras,
}

/// Which model the chunks named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ModelSeen {
    /// None so far.
    #[default]
    None,
    /// Always the one asked for.
    AsAsked,
    /// Another one, at least once.
    Other,
}

impl Answer {
    /// The answer to a request of `ask`; `tokens` checks its text, and `text` takes it in where a chat goes on from it.
    pub fn new(ask: Arc<Ask>, tokens: Option<TokenCheck>, text: Option<String>) -> Self {
        let demand = ask
            .form
            .as_ref()
            .map_or(Demand::Nothing, |form| form.demand);
        let kept = (demand == Demand::Json).then(String::new);
        let calls = matches!(demand, Demand::WholeCalls | Demand::SomeCall);
        let told = Told {
            tokens,
            text: text.or(kept),
            calls: calls.then(Calls::default),
            ..Told::default()
        };
        Self {
            parser: SseParser::default(),
            bytes: 0,
            ask,
            told,
        }
    }

    /// Takes a piece of the body that was read at `at`. Breaks when nothing that follows can make the answer good.
    pub fn take(&mut self, piece: &[u8], at: Nanos) -> ControlFlow<()> {
        self.bytes += piece.len() as u64;
        let (told, model) = (&mut self.told, &self.ask.model);
        let read = self
            .parser
            .feed(piece, &mut |event| told.on_event(event, model, at));
        if read.is_err() {
            told.malformed
                .get_or_insert("a line or event beyond its bound");
        } else if self.bytes > MAX_ANSWER_BYTES {
            told.malformed.get_or_insert("an answer beyond its bound");
        }
        match told.malformed {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        }
    }

    /// What has been told so far.
    pub fn told(&self) -> &Told {
        &self.told
    }

    /// What was told, at the end.
    pub fn into_told(self) -> Told {
        self.told
    }
}

impl Told {
    fn on_event(&mut self, event: Event<'_>, model: &str, at: Nanos) {
        if self.malformed.is_some() {
            return;
        }
        if self.done {
            self.malformed = Some("data after [DONE]");
        } else if event.data == b"[DONE]" {
            self.done = true;
            self.terminal = Some(at);
        } else if event.name == b"error" {
            self.on_error(event.data);
        } else {
            match Chunk::parse(event.data) {
                Ok(chunk) if chunk.is_error() => self.on_error(event.data),
                Ok(chunk) => self.on_chunk(&chunk, model, at),
                Err(_) => self.malformed = Some("an event that is no completion chunk"),
            }
        }
    }

    fn on_error(&mut self, data: &[u8]) {
        let code = error_code(data).map_or(Cow::Borrowed("without a code"), Cow::Owned);
        self.error.get_or_insert(code);
    }

    fn on_chunk(&mut self, chunk: &Chunk<'_>, model: &str, at: Nanos) {
        match chunk.model() {
            Some(name) if name != model => self.model = ModelSeen::Other,
            Some(_) if self.model == ModelSeen::None => self.model = ModelSeen::AsAsked,
            _ => {}
        }
        if let Some(usage) = chunk.counts(&mut self.extras) {
            self.usage = Some(usage);
        }
        let mut has_content = false;
        for choice in chunk.choices.iter().flatten() {
            has_content |= choice.has_content();
            self.on_choice(choice);
        }
        if has_content {
            self.on_content(at);
        }
    }

    fn on_choice(&mut self, choice: &Choice<'_>) {
        if choice.index != 0 {
            self.malformed = Some("a choice that was not asked for");
        } else if self.finished && choice.has_content() {
            self.malformed = Some("content after the finish_reason");
        }
        self.finished |= choice.is_finished();
        self.cut |= choice.is_cut();
        if let (Some(calls), Some(parts)) = (&mut self.calls, choice.tool_calls())
            && let Err(what) = calls.take(parts)
        {
            self.malformed = Some(what);
        }
        if let Some(check) = &mut self.tokens {
            check.follow(choice.text());
        }
        if let Some(text) = &mut self.text {
            text.push_str(choice.text());
            if text.len() > MAX_KEPT_BYTES {
                self.malformed = Some("an answer too long to go on from");
            }
        }
    }

    fn on_content(&mut self, at: Nanos) {
        if self.content_events >= MAX_CONTENT_EVENTS {
            self.malformed = Some("more content events than the bound");
            return;
        }
        self.content_events += 1;
        self.first_content.get_or_insert(at);
        if let Some(before) = self.last_content.replace(at) {
            let gap = at.saturating_sub(before).saturating_add(500) / 1_000;
            self.gaps_us.push(u32::try_from(gap).unwrap_or(u32::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::prompt::tests::ask;
    use crate::drive::verdict::{Verdict, judge};

    fn told(events: &[(&str, Nanos)]) -> Told {
        let mut answer = Answer::new(Arc::new(ask()), None, Some(String::new()));
        for (data, at) in events {
            if answer
                .take(format!("data: {data}\n\n").as_bytes(), *at)
                .is_break()
            {
                break;
            }
        }
        answer.into_told()
    }

    const ROLE: &str = r#"{"model":"m","choices":[{"delta":{"role":"assistant","content":""}}]}"#;
    const WORD: &str = r#"{"model":"m","choices":[{"delta":{"content":"hi"}}]}"#;
    const STOP: &str = r#"{"model":"m","choices":[{"delta":{},"finish_reason":"stop"}]}"#;
    const USAGE: &str =
        r#"{"model":"m","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}"#;

    #[test]
    fn content_is_stamped_and_role_only_events_are_not_content() {
        let events = [
            (ROLE, 1_000),
            (WORD, 5_000),
            (WORD, 8_000),
            (STOP, 9_000),
            (USAGE, 9_500),
        ];
        let told = told(&[&events[..], &[("[DONE]", 10_000)]].concat());
        assert_eq!(
            (told.first_content, told.last_content),
            (Some(5_000), Some(8_000))
        );
        assert_eq!((told.terminal, told.gaps_us), (Some(10_000), vec![3]));
        assert!(told.finished && told.done && told.malformed.is_none() && told.error.is_none());
        assert_eq!((told.content_events, told.model), (2, ModelSeen::AsAsked));
        assert_eq!(told.usage.unwrap().completion_tokens, 2);
        assert_eq!(told.text.as_deref(), Some("hihi"));
    }

    #[test]
    fn nonsense_has_a_name() {
        let malformed = |data: &[&str]| {
            let events: Vec<(&str, Nanos)> = data.iter().map(|data| (*data, 1)).collect();
            told(&events).malformed
        };
        assert_eq!(
            malformed(&[WORD, "oops"]),
            Some("an event that is no completion chunk")
        );
        assert_eq!(
            malformed(&[STOP, WORD]),
            Some("content after the finish_reason")
        );
        assert_eq!(malformed(&["[DONE]", WORD]), Some("data after [DONE]"));
        let second = r#"{"choices":[{"index":1,"delta":{"content":"x"}}]}"#;
        assert_eq!(
            malformed(&[second]),
            Some("a choice that was not asked for")
        );
    }

    #[test]
    fn one_chunk_of_another_model_is_enough() {
        let other = WORD.replace(r#""model":"m""#, r#""model":"n""#);
        assert_eq!(
            told(&[(WORD, 1), (&other, 2), (WORD, 3)]).model,
            ModelSeen::Other
        );
    }

    #[test]
    fn error_events_keep_their_code_and_not_their_message() {
        let data = r#"{"error":{"message":"a prompt","code":"overloaded"}}"#;
        assert_eq!(
            told(&[(WORD, 1), (data, 2)]).error.as_deref(),
            Some("overloaded")
        );
    }

    /// Events that a server may send; all but the first four are nonsense or worse.
    const EVENTS: [&str; 9] = [
        WORD,
        STOP,
        USAGE,
        "[DONE]",
        ROLE,
        r#"{"error":{"code":"x"}}"#,
        "{\"choices\":",
        r#"{"model":"n","choices":[]}"#,
        r#"{"model":"m","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":0}}"#,
    ];

    /// How often each comes, so that some streams are good.
    const MIX: &[usize] = &[0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 4, 4, 5, 6, 7, 8];

    /// What makes a stream good, said in another way than by following it: words, then the one reason to stop, the last usage of no fewer
    /// tokens than words, and the end.
    fn is_good(events: &[usize]) -> bool {
        let at = |event: usize| events.iter().position(|&other| other == event);
        let last = |event: usize| events.iter().rposition(|&other| other == event);
        let words = events.iter().filter(|&&event| event == 0).count();
        let nonsense = events.iter().any(|event| (5..=7).contains(event));
        let in_order = last(0).zip(at(1)).is_some_and(|(word, stop)| word < stop);
        let counted = last(2) > last(8) && (1..=2).contains(&words);
        let ended = at(3).is_some_and(|done| done + 1 == events.len());
        !nonsense && in_order && counted && ended
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2_000))]
        #[test]
        fn nonsense_is_never_good(
            mut events in proptest::collection::vec(proptest::sample::select(MIX), 0..7),
            done in proptest::bool::ANY,
        ) {
            if done {
                events.push(3);
            }
            let sent: Vec<(&str, Nanos)> = events.iter().map(|&event| (EVENTS[event], 1)).collect();
            let verdict = judge(&told(&sent), &ask(), None);
            proptest::prop_assert_eq!(verdict == Verdict::Good, is_good(&events), "{:?}", events);
        }
    }
}
