//! The body that another server gets: the client's own bytes, with a few fields replaced or added.
//!
//! Everything else stays as the client wrote it, to the byte: a field that we read differently than the next server does
//! must not change on the way.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use crate::upstream::link::{Pieces, Splicer};
use crate::upstream::{Endpoint, GenerateRequest, Prompt};

/// A client's body as it came, and where in it the fields stand that may change on the way.
#[derive(Debug, Clone)]
pub struct Body {
    bytes: Bytes,
    places: Arc<[Place]>,
    /// Bytes of what a model is told: the messages or prompts, and the tools.
    prompt_bytes: usize,
}

/// A field and where its value stands.
type Place = (&'static str, Range<usize>);

/// The fields that may change on the way.
const CHANGING: [&str; 9] = [
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "prompt",
    "n",
    "best_of",
    "logprobs",
    "hansa",
];

/// The fields that tell a model something.
const PROMPT: [&str; 3] = ["messages", "prompt", "tools"];

impl Body {
    /// A body in whose text `fields` stand, each with its value.
    #[must_use]
    pub fn new<'f>(bytes: Bytes, fields: impl Iterator<Item = (&'f str, &'f str)>) -> Self {
        let mut prompt_bytes = 0;
        let place = |(name, value): (&str, &str)| {
            if PROMPT.contains(&name) {
                prompt_bytes += value.len();
            }
            let name = CHANGING.into_iter().find(|changing| *changing == name)?;
            Some((name, place_in(&bytes, value)?))
        };
        let places = fields.filter_map(place).collect();
        Self {
            bytes,
            places,
            prompt_bytes,
        }
    }

    /// Bytes of what it tells a model, as they were written: escapes make more of them, never fewer.
    #[must_use]
    pub const fn prompt_bytes(&self) -> usize {
        self.prompt_bytes
    }

    /// It as it came.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Bytes of it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Where the value of a field stands, one of those that may change.
    fn place(&self, name: &str) -> Option<Range<usize>> {
        let mut places = self.places.iter();
        let found = places.find(|(field, _)| *field == name);
        found.map(|(_, place)| place.clone())
    }
}

/// Where `part`, which borrows from `whole`, stands in it.
pub(super) fn place_in(whole: &[u8], part: &str) -> Option<Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    let end = start + part.len();
    (end <= whole.len()).then_some(start..end)
}

/// A field of the body and its new JSON.
type Patch = (&'static str, String);

/// What servers of ours tell each other inside a body.
#[derive(Debug, Serialize)]
struct Extension<'a> {
    seed: u64,
    template_time: i64,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    resume_token_ids: &'a [Vec<u32>],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    want_token_ids: bool,
    /// What was reserved for a choice where the client names no number.
    #[serde(skip_serializing_if = "Option::is_none")]
    default_max_tokens: Option<u32>,
}

/// The body of `request` for a server that knows the model as `model`; `ours` where it is one of ours, which streams
/// whatever its client wants. `None` where the client's body is not an object, which none is that was parsed.
pub(super) fn outgoing(request: &GenerateRequest, model: &str, ours: bool) -> Option<Pieces> {
    let mut patches = Vec::with_capacity(4);
    if *request.model != *model {
        patches.push(("model", json(model)?));
    }
    if ours || !request.whole {
        patches.push(("stream", "true".to_owned()));
        let options = r#"{"include_usage":true}"#.to_owned();
        patches.push(("stream_options", options));
    }
    if request.endpoint == Endpoint::Completions {
        completion(request, &mut patches)?;
    }
    if ours {
        let extension = Extension {
            seed: request.seed,
            template_time: request.template_time_s,
            resume_token_ids: &request.resume_token_ids,
            want_token_ids: request.want_token_ids,
            default_max_tokens: request.default_max_tokens,
        };
        patches.push(("hansa", json(&extension)?));
    } else if let (None, Some(default)) = (request.max_tokens, request.default_max_tokens) {
        // As many are reserved, and another make has a default of its own.
        patches.push(("max_tokens", default.to_string()));
    }
    patched(&request.body, &patches)
}

/// One prompt of several, and all of the candidates of which the first server shows the best.
fn completion(request: &GenerateRequest, patches: &mut Vec<Patch>) -> Option<()> {
    let body = &request.body;
    let prompt = body
        .place("prompt")
        .and_then(|place| body.bytes.get(place.start));
    if prompt == Some(&b'[') {
        let prompt = match &request.prompt {
            Prompt::Text(text) => json(&**text)?,
            Prompt::Tokens(ids) => json(&**ids)?,
            Prompt::Chat(_) => return None,
        };
        patches.push(("prompt", prompt));
    }
    if body.place("best_of").is_some() {
        patches.push(("best_of", "null".to_owned()));
        patches.push(("n", request.n.to_string()));
        if let Some(logprobs) = request.logprobs {
            patches.push(("logprobs", logprobs.to_string()));
        }
    }
    Some(())
}

/// `body` with each patched field's value replaced where it stands, or the field put in front where it does not.
fn patched(body: &Body, patches: &[Patch]) -> Option<Pieces> {
    let open = body.bytes.iter().position(|byte| *byte == b'{')? + 1;
    let mut out = Splicer::new(&body.bytes);
    out.keep(0..open)?;
    let mut replaced: Vec<(Range<usize>, &str)> = Vec::with_capacity(patches.len());
    for (name, value) in patches {
        match body.place(name) {
            Some(place) => replaced.push((place, value.as_str())),
            None => {
                for part in ["\"", *name, "\":", value.as_str(), ","] {
                    out.write(part);
                }
            }
        }
    }
    replaced.sort_unstable_by_key(|(place, _)| place.start);
    let mut from = open;
    for (place, value) in replaced {
        out.keep(from..place.start)?;
        out.write(value);
        from = place.end;
    }
    out.keep(from..body.len())?;
    Some(out.finish())
}

fn json<T: Serialize + ?Sized>(value: &T) -> Option<String> {
    serde_json::to_string(value).ok()
}

#[cfg(test)]
impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        use std::collections::HashMap;

        use serde_json::value::RawValue;

        let text = bytes.clone();
        let fields: HashMap<String, &RawValue> = serde_json::from_slice(&text).unwrap_or_default();
        let fields = fields.iter().map(|(name, raw)| (name.as_str(), raw.get()));
        Self::new(bytes, fields)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use http_body_util::BodyExt as _;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::upstream::test_request;

    fn text(pieces: Pieces) -> String {
        let whole = pieces.collect().now_or_never().unwrap().unwrap();
        String::from_utf8(whole.to_bytes().to_vec()).unwrap()
    }

    fn with(body: &str, patches: &[Patch]) -> String {
        let body = Body::from(Bytes::copy_from_slice(body.as_bytes()));
        text(patched(&body, patches).unwrap())
    }

    #[test]
    fn all_but_the_patched_values_stay_to_the_byte() {
        let text = " { \"tools\" : [ 1.0e3 ,\t{\"a\\u0062\": -0}] , \"model\" :\"m\" ,\"x\":1}\n";
        let patches = [
            ("model", "\"org/m\"".to_owned()),
            ("stream", "true".to_owned()),
        ];
        assert_eq!(
            with(text, &patches),
            " {\"stream\":true, \"tools\" : [ 1.0e3 ,\t{\"a\\u0062\": -0}] , \"model\" :\"org/m\" ,\"x\":1}\n"
        );
    }

    #[test]
    fn a_whole_answer_is_asked_for_whole_of_others_alone() {
        let request = GenerateRequest {
            whole: true,
            max_tokens: Some(3),
            ..test_request()
        };
        let foreign = text(outgoing(&request, "m", false).unwrap());
        assert_eq!(foreign.as_bytes(), &request.body.bytes[..]);
        let streams = |text: &str| {
            let body: Value = serde_json::from_str(text).unwrap();
            body["stream"] == true && body["stream_options"]["include_usage"] == true
        };
        assert!(streams(&text(outgoing(&request, "m", true).unwrap())));
        let request = GenerateRequest {
            whole: false,
            ..request
        };
        assert!(streams(&text(outgoing(&request, "m", false).unwrap())));
    }

    proptest! {
        #[test]
        fn a_patched_body_says_what_it_said_and_the_patches(
            names in proptest::collection::btree_set("model|x|n|prompt|other", 1..4),
            value in "[ -~é]{0,8}",
        ) {
            let object: serde_json::Map<String, Value> =
                names.iter().map(|name| (name.clone(), Value::from(value.as_str()))).collect();
            let text = Value::Object(object.clone()).to_string();
            let patched = with(&text, &[("model", "1".to_owned()), ("hansa", "[2]".to_owned())]);
            let mut expected = object;
            expected.insert("model".to_owned(), 1.into());
            expected.insert("hansa".to_owned(), serde_json::json!([2]));
            let read: serde_json::Map<String, Value> = serde_json::from_str(&patched).unwrap();
            prop_assert_eq!(Value::Object(read), Value::Object(expected));
        }
    }
}
