//! The body that another server gets: the client's own bytes, with a few fields replaced or added.
//!
//! Everything else stays as the client wrote it, to the byte: a field that we read differently than the next server does
//! must not change on the way.

use std::collections::HashMap;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::upstream::{Endpoint, GenerateRequest, Prompt};

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

/// The body of `request` for a server that knows the model as `model`; `ours` where it is one of ours. `None` where the
/// client's body is not an object, which none is that was parsed.
pub(super) fn outgoing(request: &GenerateRequest, model: &str, ours: bool) -> Option<Bytes> {
    let text = std::str::from_utf8(&request.body).ok()?;
    let fields: HashMap<String, &RawValue> = serde_json::from_str(text).ok()?;
    let mut patches = vec![
        ("model", json(model)?),
        // Streamed always: only so does a cancelled request end at once, and a dead server show.
        ("stream", "true".to_owned()),
        ("stream_options", r#"{"include_usage":true}"#.to_owned()),
    ];
    if request.endpoint == Endpoint::Completions {
        completion(request, &fields, &mut patches)?;
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
    patched(text, &fields, &patches)
}

/// One prompt of several, and all of the candidates of which the first server shows the best.
fn completion(
    request: &GenerateRequest,
    fields: &HashMap<String, &RawValue>,
    patches: &mut Vec<Patch>,
) -> Option<()> {
    let several = fields
        .get("prompt")
        .is_some_and(|raw| raw.get().starts_with('['));
    if several {
        let prompt = match &request.prompt {
            Prompt::Text(text) => json(&**text)?,
            Prompt::Tokens(ids) => json(&**ids)?,
            Prompt::Chat(_) => return None,
        };
        patches.push(("prompt", prompt));
    }
    if fields.contains_key("best_of") {
        patches.push(("best_of", "null".to_owned()));
        patches.push(("n", request.n.to_string()));
        if let Some(logprobs) = request.logprobs {
            patches.push(("logprobs", logprobs.to_string()));
        }
    }
    Some(())
}

/// `text` with each patched field's value replaced where it stands, or the field put in front where it does not.
fn patched(text: &str, fields: &HashMap<String, &RawValue>, patches: &[Patch]) -> Option<Bytes> {
    let mut replaced: Vec<(usize, usize, &str)> = Vec::with_capacity(patches.len());
    let mut added = String::new();
    for (name, value) in patches {
        match fields.get(*name) {
            Some(raw) => {
                let start = offset_in(text, raw.get())?;
                replaced.push((start, start + raw.get().len(), value));
            }
            None => added += &format!("\"{name}\":{value},"),
        }
    }
    replaced.sort_unstable();
    let open = text.find('{')? + 1;
    if fields.is_empty() {
        return None;
    }
    let mut out = String::with_capacity(text.len() + added.len() + 64);
    out.push_str(&text[..open]);
    out.push_str(&added);
    let mut from = open;
    for (start, end, value) in replaced {
        out.push_str(text.get(from..start)?);
        out.push_str(value);
        from = end;
    }
    out.push_str(text.get(from..)?);
    Some(out.into())
}

/// Where `part`, which borrows from `text`, begins in it.
fn offset_in(text: &str, part: &str) -> Option<usize> {
    let offset = (part.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
    (offset + part.len() <= text.len()).then_some(offset)
}

fn json<T: Serialize + ?Sized>(value: &T) -> Option<String> {
    serde_json::to_string(value).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn with(text: &str, patches: &[Patch]) -> String {
        let fields = serde_json::from_str(text).unwrap();
        let bytes = patched(text, &fields, patches).unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
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

    proptest! {
        #[test]
        fn a_patched_body_says_what_it_said_and_the_patches(
            names in proptest::collection::btree_set("[a-d]", 1..4),
            value in "[ -~é]{0,8}",
        ) {
            let object: serde_json::Map<String, Value> =
                names.iter().map(|name| (name.clone(), Value::from(value.as_str()))).collect();
            let text = Value::Object(object.clone()).to_string();
            let patched = with(&text, &[("a", "1".to_owned()), ("z", "[2]".to_owned())]);
            let mut expected = object;
            expected.insert("a".to_owned(), 1.into());
            expected.insert("z".to_owned(), serde_json::json!([2]));
            let read: serde_json::Map<String, Value> = serde_json::from_str(&patched).unwrap();
            prop_assert_eq!(Value::Object(read), Value::Object(expected));
        }
    }
}
