//! What a request for vectors is to whoever serves it.

use std::sync::Arc;
use std::time::Duration;

use crate::upstream::purse::Purse;
use crate::upstream::{Usage, Wishes};

/// A request for vectors as every upstream takes it: parsed and checked against the limits.
#[derive(Debug, Clone)]
pub struct EmbedRequest {
    /// Id of the request, ours or the client's.
    pub id: Arc<str>,
    /// Model as the client named it.
    pub model: Arc<str>,
    /// The texts, at least one.
    pub inputs: Vec<EmbedInput>,
    /// Numbers that a vector is to have; only the model's own are served.
    pub dimensions: Option<u32>,
    /// Moment on the server's clock after which the answer is of no use.
    pub deadline: Option<Duration>,
    /// Servers of ours that the request has crossed.
    pub hops: u8,
    /// What keeps its usage findable for whoever pays, opaque to all others.
    pub charge: Option<Arc<str>>,
    /// Where it may go.
    pub wishes: Arc<Wishes>,
    /// What it is paid from, where that has a say in its way.
    pub purse: Option<Arc<dyn Purse>>,
}

/// One text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EmbedInput {
    /// As it is.
    Text(Arc<str>),
    /// As the model's token ids, its own marks included.
    Tokens(Arc<[u32]>),
}

/// Tokens that an embedder may put around a text; BERT's have two.
const MARKS_MAX: u64 = 16;

impl EmbedInput {
    /// Tokens that no tokenizer exceeds: each stands for at least one byte.
    #[must_use]
    pub fn tokens_max(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64 + MARKS_MAX,
            Self::Tokens(ids) => ids.len() as u64,
        }
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// One vector for each text, in their order.
    pub vectors: Vec<Vec<f32>>,
    /// What they took; the tokens of all texts are those of a prompt.
    pub usage: Usage,
}
