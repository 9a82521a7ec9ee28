//! Vectors from another server: what it is asked, and what is believed of its answer.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::limits;
use crate::upstream::chunk::WireUsage;
use crate::upstream::{EmbedInput, EmbedRequest, Embeddings, Usage};

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    input: Vec<Input<'a>>,
    /// Others than our servers may know no base64.
    encoding_format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dimensions: Option<u32>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Input<'a> {
    Text(&'a str),
    Tokens(&'a [u32]),
}

/// The body of `request` for a server that knows the model as `model`; `ours` where it is one of ours.
pub(super) fn outgoing(request: &EmbedRequest, model: &str, ours: bool) -> Option<Bytes> {
    let input = request.inputs.iter().map(|input| match input {
        EmbedInput::Text(text) => Input::Text(text),
        EmbedInput::Tokens(ids) => Input::Tokens(ids),
    });
    let body = Body {
        model,
        input: input.collect(),
        encoding_format: if ours { "base64" } else { "float" },
        dimensions: request.dimensions,
    };
    serde_json::to_vec(&body).ok().map(Bytes::from)
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    data: Vec<Item<'a>>,
    usage: Option<WireUsage>,
}

#[derive(Deserialize)]
struct Item<'a> {
    index: usize,
    #[serde(borrow)]
    embedding: Written<'a>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Written<'a> {
    Base64(#[serde(borrow)] Cow<'a, str>),
    Float(Vec<f32>),
}

/// The vectors in `body`, one for each of the request's texts and all of one length; otherwise what is wrong with it. A server
/// of `ours` is believed what they took beside tokens.
pub(super) fn read(
    body: &[u8],
    request: &EmbedRequest,
    ours: bool,
) -> Result<Embeddings, &'static str> {
    let answer: Answer<'_> =
        serde_json::from_slice(body).map_err(|_| "answered with no vectors")?;
    let mut vectors: Vec<Option<Vec<f32>>> = vec![None; request.inputs.len()];
    for item in answer.data {
        let place = vectors.get_mut(item.index);
        let place = place.ok_or("gave a vector to a text that there is not")?;
        *place = Some(item.embedding.read()?);
    }
    let vectors: Option<Vec<Vec<f32>>> = vectors.into_iter().collect();
    let vectors = vectors.ok_or("left a text without a vector")?;
    let length = vectors.first().map_or(0, Vec::len);
    if length == 0 || length > limits::EMBED_LENGTH_MAX || vectors.iter().any(|v| v.len() != length)
    {
        return Err("gave vectors of odd lengths");
    }
    // What it does not tell is taken for the most that there can be: so much was reserved.
    let most = || Usage {
        prompt_tokens: tokens_max(request),
        estimated: true,
        ..Usage::default()
    };
    let told = answer.usage.map(|usage| usage.read(ours));
    let usage = told.map_or_else(most, |told| believed(told, request));
    Ok(Embeddings { vectors, usage })
}

/// What is believed of a usage: no more than there can be, and tokens of texts alone.
pub(super) fn believed(told: Usage, request: &EmbedRequest) -> Usage {
    Usage {
        prompt_tokens: told.prompt_tokens.min(tokens_max(request)),
        cached_tokens: 0,
        completion_tokens: 0,
        ..told
    }
}

fn tokens_max(request: &EmbedRequest) -> u32 {
    let most: u64 = request.inputs.iter().map(EmbedInput::tokens_max).sum();
    u32::try_from(most).unwrap_or(u32::MAX)
}

impl Written<'_> {
    fn read(self) -> Result<Vec<f32>, &'static str> {
        let vector = match self {
            Self::Float(vector) => vector,
            Self::Base64(text) => {
                let bytes = BASE64
                    .decode(&*text)
                    .map_err(|_| "wrote base64 that is none")?;
                let (numbers, []) = bytes.as_chunks::<4>() else {
                    return Err("wrote half a number");
                };
                numbers
                    .iter()
                    .map(|four| f32::from_le_bytes(*four))
                    .collect()
            }
        };
        match vector.iter().all(|number| number.is_finite()) {
            true => Ok(vector),
            false => Err("gave a number that is none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    fn request() -> EmbedRequest {
        EmbedRequest {
            id: "r".into(),
            model: "m".into(),
            inputs: vec![
                EmbedInput::Text("ab".into()),
                EmbedInput::Tokens([1, 2].into()),
            ],
            dimensions: None,
            deadline: None,
            hops: 0,
            charge: None,
            wishes: Arc::default(),
            purse: None,
        }
    }

    #[test]
    fn what_is_sent_says_what_was_asked() {
        let sent = |ours| -> Value {
            let body = outgoing(&request(), "their/m", ours).unwrap();
            serde_json::from_slice(&body).unwrap()
        };
        let expected =
            json!({"model": "their/m", "input": ["ab", [1, 2]], "encoding_format": "float"});
        assert_eq!(sent(false), expected);
        assert_eq!(sent(true)["encoding_format"], "base64");
    }

    #[test]
    fn both_ways_of_writing_are_read_in_any_order() {
        let halves = BASE64.encode([0.5_f32, -2.0].map(f32::to_le_bytes).concat());
        let body = json!({
            "data": [{"index": 1, "embedding": [1, 2.25]}, {"index": 0, "embedding": halves}],
            "usage": {"prompt_tokens": 4},
        });
        let read = read(body.to_string().as_bytes(), &request(), false).unwrap();
        assert_eq!(read.vectors, [[0.5, -2.0], [1.0, 2.25]]);
        assert_eq!((read.usage.prompt_tokens, read.usage.estimated), (4, false));
    }

    #[test]
    fn what_a_server_of_ours_says_of_energy_and_time_is_believed_and_no_other() {
        let vectors = json!([{"index": 0, "embedding": [1]}, {"index": 1, "embedding": [1]}]);
        let took = json!({"joules": 0.5, "grams": 0.25, "gpu_seconds": 0.125});
        let usage = json!({"prompt_tokens": 4, "hansa": took});
        let body = json!({"data": vectors, "usage": usage}).to_string();
        let read = |ours| read(body.as_bytes(), &request(), ours).unwrap().usage;
        let (ours, theirs) = (read(true), read(false));
        assert_eq!(
            (ours.millijoules, ours.micrograms, ours.gpu_us),
            (Some(500), Some(250_000), Some(125_000))
        );
        let tokens_alone = Usage {
            prompt_tokens: 4,
            ..Usage::default()
        };
        assert_eq!(theirs, tokens_alone);
    }

    #[test]
    fn whatever_makes_no_sense_is_refused() {
        for data in [
            json!([]),
            json!([{"index": 0, "embedding": [1]}]),
            json!([{"index": 0, "embedding": [1]}, {"index": 2, "embedding": [1]}]),
            json!([{"index": 0, "embedding": [1]}, {"index": 1, "embedding": [1, 2]}]),
            json!([{"index": 0, "embedding": []}, {"index": 1, "embedding": []}]),
            json!([{"index": 0, "embedding": "AAAA"}, {"index": 1, "embedding": "AAAA"}]),
            json!([{"index": 0, "embedding": [1e300]}, {"index": 1, "embedding": [1]}]),
            json!(7),
        ] {
            let body = json!({ "data": data }).to_string();
            assert!(read(body.as_bytes(), &request(), true).is_err(), "{body}");
        }
        // A lie about usage is cut to what can be.
        let vectors = json!([{"index": 0, "embedding": [1]}, {"index": 1, "embedding": [1]}]);
        let usage = json!({"prompt_tokens": u64::MAX});
        let body = json!({"data": vectors, "usage": usage}).to_string();
        let lie = read(body.as_bytes(), &request(), true).unwrap().usage;
        assert_eq!((lie.prompt_tokens, lie.estimated), (2 + 16 + 2, false));
        let body = json!({ "data": vectors }).to_string();
        let silent = read(body.as_bytes(), &request(), true).unwrap().usage;
        assert_eq!((silent.prompt_tokens, silent.estimated), (2 + 16 + 2, true));
    }
}
