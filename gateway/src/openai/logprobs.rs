//! Log-probabilities in OpenAI's two shapes: a list of objects for chats, parallel lists for completions.

use std::borrow::Cow;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::upstream::{Endpoint, Likely, TokenLogprob};

/// The `logprobs` of a choice, or of a chunk of it.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Logprobs<'a> {
    Chat(ChatLogprobs<'a>),
    Completion(CompletionLogprobs<'a>),
}

#[derive(Debug, Serialize)]
pub(super) struct ChatLogprobs<'a> {
    content: Vec<ChatToken<'a>>,
    /// Always null.
    refusal: (),
}

#[derive(Debug, Serialize)]
struct ChatToken<'a> {
    #[serde(flatten)]
    chosen: ChatLikely<'a>,
    top_logprobs: Vec<ChatLikely<'a>>,
}

#[derive(Debug, Serialize)]
struct ChatLikely<'a> {
    token: Cow<'a, str>,
    logprob: Option<f32>,
    /// A token may be a part of a character, which its text cannot show.
    bytes: &'a [u8],
}

#[derive(Debug, Serialize)]
pub(super) struct CompletionLogprobs<'a> {
    /// Characters of the choice's text before each token.
    text_offset: Vec<usize>,
    /// Null for the first token of an echoed prompt.
    token_logprobs: Vec<Option<f32>>,
    tokens: Vec<Cow<'a, str>>,
    /// Null where the token's own is.
    top_logprobs: Vec<Option<TopByText<'a>>>,
}

/// An object from tokens' texts to their log-probabilities, the chosen one among them as OpenAI has it.
#[derive(Debug)]
struct TopByText<'a>(&'a TokenLogprob);

impl<'a> Logprobs<'a> {
    /// Those of `tokens`, before which the choice has `characters` characters of text.
    pub(super) fn of(endpoint: Endpoint, tokens: &'a [TokenLogprob], characters: usize) -> Self {
        match endpoint {
            Endpoint::Chat => Self::Chat(ChatLogprobs {
                content: tokens.iter().map(chat_token).collect(),
                refusal: (),
            }),
            Endpoint::Completions => Self::Completion(completion(tokens, characters)),
        }
    }
}

fn chat_token(token: &TokenLogprob) -> ChatToken<'_> {
    ChatToken {
        chosen: chat_likely(&token.chosen),
        top_logprobs: token.top.iter().map(chat_likely).collect(),
    }
}

fn chat_likely(likely: &Likely) -> ChatLikely<'_> {
    ChatLikely {
        token: text(likely),
        logprob: likely.logprob,
        bytes: &likely.bytes,
    }
}

fn completion(tokens: &[TokenLogprob], characters: usize) -> CompletionLogprobs<'_> {
    let mut offset = characters;
    let mut text_offset = Vec::with_capacity(tokens.len());
    for token in tokens {
        text_offset.push(offset);
        offset += characters_of(token);
    }
    CompletionLogprobs {
        text_offset,
        token_logprobs: tokens.iter().map(|t| t.chosen.logprob).collect(),
        tokens: tokens.iter().map(|t| text(&t.chosen)).collect(),
        top_logprobs: tokens.iter().map(top_by_text).collect(),
    }
}

fn top_by_text(token: &TokenLogprob) -> Option<TopByText<'_>> {
    token.chosen.logprob.map(|_| TopByText(token))
}

fn text(likely: &Likely) -> Cow<'_, str> {
    String::from_utf8_lossy(&likely.bytes)
}

/// Characters that begin in a token.
pub(super) fn characters_of(token: &TokenLogprob) -> usize {
    let bytes = token.chosen.bytes.iter();
    bytes.filter(|&&byte| byte & 0xC0 != 0x80).count()
}

impl Serialize for TopByText<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(token) = self;
        let mut shown: Vec<Cow<'_, str>> = Vec::with_capacity(token.top.len() + 1);
        let mut map = serializer.serialize_map(None)?;
        for likely in token.top.iter().chain([&token.chosen]) {
            let text = text(likely);
            // Several tokens may be parts of characters and look the same: the likeliest has the name.
            if !shown.contains(&text) {
                map.serialize_entry(&text, &likely.logprob)?;
                shown.push(text);
            }
        }
        map.end()
    }
}
