//! The JSON of chunks as other servers write it, each field optional that some server leaves out.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::upstream::refusal::WireError;
use crate::upstream::tools::WireSyntax;
use crate::upstream::{Likely, TokenLogprob, Usage};

#[derive(Debug, Deserialize)]
pub(super) struct Chunk<'a> {
    #[serde(borrow)]
    pub(super) choices: Option<Vec<Choice<'a>>>,
    pub(super) usage: Option<WireUsage>,
    #[serde(borrow)]
    pub(super) error: Option<WireError<'a>>,
    pub(super) hansa: Option<ChunkExtension>,
}

/// A string, borrowed where it holds no escapes.
#[derive(Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// A string that may be missing. By itself serde copies what is in an `Option<Cow<str>>`, whatever its attributes say.
fn borrowed<'de: 'a, 'a, D: Deserializer<'de>>(from: D) -> Result<Option<Cow<'a, str>>, D::Error> {
    let text: Option<Text<'a>> = Deserialize::deserialize(from)?;
    Ok(text.map(|Text(text)| text))
}

/// What a server of ours adds to a chunk.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ChunkExtension {
    pub(super) tool_syntax: Option<WireSyntax>,
    /// Beside an error: what the request used until then.
    pub(super) usage: Option<Usage>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Choice<'a> {
    #[serde(default)]
    pub(super) index: u32,
    /// What it goes on with, or in an answer in one piece all of it.
    #[serde(borrow, alias = "message")]
    pub(super) delta: Option<Delta<'a>>,
    #[serde(borrow, default, deserialize_with = "borrowed")]
    pub(super) text: Option<Cow<'a, str>>,
    pub(super) logprobs: Option<Box<Logprobs>>,
    #[serde(borrow, default, deserialize_with = "borrowed")]
    pub(super) finish_reason: Option<Cow<'a, str>>,
    pub(super) hansa: Option<Extension>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Delta<'a> {
    #[serde(borrow, default, deserialize_with = "borrowed")]
    pub(super) content: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) tool_calls: Option<Vec<CallDelta<'a>>>,
}

/// A part of a call that another server found in its model's text.
#[derive(Debug, Deserialize)]
pub(super) struct CallDelta<'a> {
    /// Left out in an answer in one piece, where its place tells.
    pub(super) index: Option<u32>,
    #[serde(borrow, default, deserialize_with = "borrowed")]
    pub(super) id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) function: Option<FunctionDelta<'a>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct FunctionDelta<'a> {
    #[serde(borrow, default, deserialize_with = "borrowed")]
    pub(super) name: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "borrowed")]
    pub(super) arguments: Option<Cow<'a, str>>,
}

/// What a server of ours adds to a choice.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Extension {
    #[serde(default)]
    pub(super) token_ids: Vec<u32>,
    /// Of a completion, whose own shape loses the bytes of tokens that are parts of characters.
    pub(super) logprobs: Option<Box<Logprobs>>,
}

/// Log-probabilities in either of OpenAI's shapes.
#[derive(Debug, Deserialize)]
pub(super) struct Logprobs {
    content: Option<Vec<Token>>,
    tokens: Option<Vec<String>>,
    token_logprobs: Option<Vec<Option<f32>>>,
    top_logprobs: Option<Vec<Option<Map<String, Value>>>>,
}

#[derive(Debug, Deserialize)]
struct Token {
    #[serde(flatten)]
    chosen: WireLikely,
    #[serde(default)]
    top_logprobs: Vec<WireLikely>,
}

#[derive(Debug, Deserialize)]
struct WireLikely {
    token: String,
    logprob: Option<f32>,
    bytes: Option<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(in crate::upstream) struct WireUsage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
    prompt_tokens_details: Option<PromptDetails>,
    hansa: Option<UsageExtension>,
}

/// What a server of ours adds to a usage.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct UsageExtension {
    estimated: bool,
    joules: Option<f64>,
    grams: Option<f64>,
    gpu_seconds: Option<f64>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u64>,
}

impl Choice<'_> {
    /// Whether it says nothing new.
    pub(super) fn is_empty(&self) -> bool {
        let content = self
            .delta
            .as_ref()
            .and_then(|delta| delta.content.as_deref());
        let text = content.or(self.text.as_deref()).unwrap_or_default();
        let calls = self
            .delta
            .as_ref()
            .and_then(|delta| delta.tool_calls.as_ref());
        text.is_empty() && calls.is_none() && self.logprobs.is_none() && self.hansa.is_none()
    }
}

impl Logprobs {
    /// The tokens, or what is wrong with them.
    pub(super) fn read(self) -> Result<Vec<TokenLogprob>, &'static str> {
        let Self {
            content,
            tokens,
            token_logprobs,
            top_logprobs,
        } = self;
        match (content, tokens) {
            (Some(content), _) => content.into_iter().map(Token::read).collect(),
            (None, Some(tokens)) => {
                let own = token_logprobs.unwrap_or_default();
                parallel(tokens, own, top_logprobs.unwrap_or_default())
            }
            (None, None) => Ok(Vec::new()),
        }
    }
}

/// The shape of completions: lists side by side. An echoed prompt's first token has no log-probability.
fn parallel(
    tokens: Vec<String>,
    own: Vec<Option<f32>>,
    top: Vec<Option<Map<String, Value>>>,
) -> Result<Vec<TokenLogprob>, &'static str> {
    if own.len() != tokens.len() {
        return Err("log-probabilities do not fit their tokens");
    }
    let mut top = top.into_iter();
    let read = |(token, logprob): (String, Option<f32>)| {
        let others = top.next().flatten().unwrap_or_default();
        let others = others.into_iter().map(|(token, logprob)| {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "precision, not range: it is checked below"
            )]
            let logprob = logprob.as_f64().unwrap_or(f64::NAN) as f32;
            likely(token.into_bytes(), Some(logprob))
        });
        Ok(TokenLogprob {
            chosen: likely(token.into_bytes(), logprob)?,
            top: others.collect::<Result<_, _>>()?,
        })
    };
    tokens.into_iter().zip(own).map(read).collect()
}

impl Token {
    fn read(self) -> Result<TokenLogprob, &'static str> {
        let top = self.top_logprobs.into_iter().map(WireLikely::read);
        Ok(TokenLogprob {
            chosen: self.chosen.read()?,
            top: top.collect::<Result<_, _>>()?,
        })
    }
}

impl WireLikely {
    fn read(self) -> Result<Likely, &'static str> {
        let bytes = self.bytes.unwrap_or_else(|| self.token.into_bytes());
        likely(bytes, self.logprob)
    }
}

fn likely(bytes: Vec<u8>, logprob: Option<f32>) -> Result<Likely, &'static str> {
    match logprob.is_none_or(f32::is_finite) {
        // Rounding may push the surest tokens a hair above.
        true => Ok(Likely {
            bytes,
            logprob: logprob.map(|logprob| logprob.min(0.0)),
        }),
        false => Err("a log-probability is no number"),
    }
}

impl WireUsage {
    /// As it was told, extensions those of servers of `ours` alone.
    pub(in crate::upstream) fn read(&self, ours: bool) -> Usage {
        let hansa = self.hansa.filter(|_| ours).unwrap_or_default();
        let small = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let details = self.prompt_tokens_details;
        let cached = details.and_then(|details| details.cached_tokens);
        Usage {
            prompt_tokens: small(self.prompt_tokens),
            cached_tokens: small(cached.unwrap_or(0)),
            completion_tokens: small(self.completion_tokens),
            estimated: hansa.estimated,
            millijoules: scaled(hansa.joules, 1e3),
            micrograms: scaled(hansa.grams, 1e6),
            gpu_us: scaled(hansa.gpu_seconds, 1e6),
        }
    }
}

/// A figure in whole small units; nothing where it is none that a request can come to.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the range is checked"
)]
fn scaled(figure: Option<f64>, units: f64) -> Option<u32> {
    let scaled = figure? * units;
    (0.0..=f64::from(u32::MAX))
        .contains(&scaled)
        .then(|| scaled.round() as u32)
}
