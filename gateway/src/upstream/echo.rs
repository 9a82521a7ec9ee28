//! `echo`: each choice begins with the prompt's text.
//!
//! Here and not in `openai`, because only who holds the tokenizer knows the text of a prompt given as token ids. The text
//! comes together with a choice's first event and not before it, so that an error before the first token is still one
//! that the client gets as a status.

use std::sync::Arc;

use futures::{StreamExt as _, stream};
use hansa_models::text::TextCodec;

use crate::upstream::{Event, EventStream, GenerateRequest, Prompt};

/// The prompt's text and who has told it.
#[derive(Debug, Default)]
pub(super) struct Echo {
    text: Option<Arc<str>>,
    told: Vec<bool>,
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
            told: vec![false; request.n as usize],
        }
    }

    /// The events with the prompt's text before each choice's own.
    pub(super) fn before(mut self, events: EventStream) -> EventStream {
        if self.text.is_none() {
            return events;
        }
        let told = events.flat_map(move |event| {
            let echo = event.as_ref().ok().and_then(|event| self.first_of(event));
            stream::iter(echo.map(Ok).into_iter().chain([event]))
        });
        told.boxed()
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
            logprobs: Vec::new(),
        })
    }
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

    #[tokio::test]
    async fn each_choice_begins_with_the_prompt_and_an_error_comes_alone() {
        let echo = || Echo {
            text: Some("P".into()),
            told: vec![false; 2],
        };
        let finished = Event::Finished {
            choice: 1,
            reason: FinishReason::Stop,
        };
        let events = [delta(0, "a"), delta(0, "b"), finished.clone()].map(Ok);
        let events = stream::iter(events).boxed();
        let told: Vec<_> = echo().before(events).collect().await;
        let expected = [
            delta(0, "P"),
            delta(0, "a"),
            delta(0, "b"),
            delta(1, "P"),
            finished,
        ];
        assert_eq!(told, expected.map(Ok));
        let failing = stream::iter([Err(UpstreamErrorKind::Internal.into())]).boxed();
        let told: Vec<_> = echo().before(failing).collect().await;
        assert_eq!(told.len(), 1);
    }
}
