//! `echo`: each choice begins with the prompt's text, and its log-probabilities where they are wanted.
//!
//! Here and not in `openai`, because only who holds the tokenizer knows the text of a prompt given as token ids. The text
//! comes together with a choice's first event and not before it, so that an error before the first token is still one
//! that the client gets as a status.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use hansa_models::text::TextCodec;

use crate::upstream::{
    Event, EventStream, GenerateRequest, Likely, Prompt, TokenLogprob, UpstreamError,
};

/// The prompt's text and who has told it.
#[derive(Debug, Default)]
pub(super) struct Echo {
    text: Option<Arc<str>>,
    /// Log-probabilities of the prompt's tokens, where wanted: at first of the first one alone.
    logprobs: Vec<TokenLogprob>,
    told: Vec<bool>,
}

/// What an engine tells.
#[derive(Debug)]
pub(super) enum Told {
    /// Log-probabilities of the prompt's tokens after its first one.
    Prompt(Vec<TokenLogprob>),
    /// Anything else.
    Event(Result<Event, UpstreamError>),
}

impl Echo {
    /// The text of `request`'s prompt, whose ids are `ids`.
    pub(super) fn of(codec: &dyn TextCodec, request: &GenerateRequest, ids: &[u32]) -> Self {
        let text = match &request.prompt {
            Prompt::Text(text) => Arc::clone(text),
            Prompt::Chat(_) | Prompt::Tokens(_) => detokenised(codec, ids),
        };
        Self {
            text: Some(text),
            logprobs: first_token(codec, request, ids),
            told: vec![false; request.n as usize],
        }
    }

    /// The events with the prompt's text before each choice's own.
    pub(super) fn before(mut self, told: BoxStream<'static, Told>) -> EventStream {
        let events = told.flat_map(move |told| {
            let event = match told {
                Told::Prompt(logprobs) => {
                    self.logprobs.extend(logprobs);
                    None
                }
                Told::Event(event) => Some(event),
            };
            let first = event
                .iter()
                .flatten()
                .find_map(|event| self.first_of(event));
            stream::iter(first.map(Ok).into_iter().chain(event))
        });
        events.boxed()
    }

    /// What comes before `event`, where it is the first one of its choice.
    fn first_of(&mut self, event: &Event) -> Option<Event> {
        let (Event::Delta { choice, .. } | Event::Finished { choice, .. }) = event else {
            return None;
        };
        let told = self.told.get_mut(*choice as usize)?;
        if std::mem::replace(told, true) {
            return None;
        }
        Some(Event::Delta {
            choice: *choice,
            text: self.text.as_deref()?.to_owned(),
            token_ids: Vec::new(),
            logprobs: self.logprobs.clone(),
        })
    }
}

/// The first token of a prompt whose log-probabilities are wanted: it comes after nothing, and so has none.
fn first_token(codec: &dyn TextCodec, request: &GenerateRequest, ids: &[u32]) -> Vec<TokenLogprob> {
    let first = ids.first().filter(|_| request.prompt_logprobs);
    let unknown = |id: &u32| TokenLogprob {
        chosen: Likely {
            bytes: codec.piece(request.seed, 0, *id).into_owned(),
            logprob: None,
        },
        top: Vec::new(),
    };
    first.map(unknown).into_iter().collect()
}

fn detokenised(codec: &dyn TextCodec, ids: &[u32]) -> Arc<str> {
    let mut text = String::new();
    let mut detokenizer = codec.detokenizer(0, 0);
    for id in ids {
        detokenizer.push(*id, &mut text);
    }
    detokenizer.finish(&mut text);
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{FinishReason, UpstreamErrorKind};

    fn delta(choice: u32, text: &str) -> Event {
        Event::Delta {
            choice,
            text: text.to_owned(),
            token_ids: Vec::new(),
            logprobs: Vec::new(),
        }
    }

    fn likely(text: &str, logprob: Option<f32>) -> TokenLogprob {
        let bytes = text.as_bytes().to_vec();
        TokenLogprob {
            chosen: Likely { bytes, logprob },
            top: Vec::new(),
        }
    }

    async fn told(echo: Echo, events: Vec<Told>) -> Vec<Result<Event, UpstreamError>> {
        echo.before(stream::iter(events).boxed()).collect().await
    }

    #[tokio::test]
    async fn each_choice_begins_with_the_prompt_and_an_error_comes_alone() {
        let echo = || Echo {
            text: Some("P".into()),
            logprobs: Vec::new(),
            told: vec![false; 2],
        };
        let finished = Event::Finished {
            choice: 1,
            reason: FinishReason::Stop,
        };
        let events = [delta(0, "a"), delta(0, "b"), finished.clone()];
        let events = events.map(|event| Told::Event(Ok(event)));
        let expected = [
            delta(0, "P"),
            delta(0, "a"),
            delta(0, "b"),
            delta(1, "P"),
            finished,
        ];
        assert_eq!(told(echo(), events.into()).await, expected.map(Ok));
        let failing = Told::Event(Err(UpstreamErrorKind::Internal.into()));
        assert_eq!(told(echo(), vec![failing]).await.len(), 1);
    }

    #[tokio::test]
    async fn the_prompt_s_log_probabilities_come_with_its_text_for_each_choice() {
        let (first, second) = (likely("P", None), likely("Q", Some(-1.0)));
        let echo = Echo {
            text: Some("PQ".into()),
            logprobs: vec![first.clone()],
            told: vec![false; 2],
        };
        let events = vec![
            Told::Prompt(vec![second.clone()]),
            Told::Event(Ok(delta(0, "a"))),
            Told::Event(Ok(delta(1, "b"))),
        ];
        let prompt = |choice| Event::Delta {
            choice,
            text: "PQ".to_owned(),
            token_ids: Vec::new(),
            logprobs: vec![first.clone(), second.clone()],
        };
        let expected = [prompt(0), delta(0, "a"), prompt(1), delta(1, "b")];
        assert_eq!(told(echo, events).await, expected.map(Ok));
    }
}
