//! Judges an answer of the embeddings endpoint: every text that was sent has one vector of finite numbers, all of one
//! length, from the model asked for. Knows no socket and no clock.

use serde::Deserialize;

use super::chunk::Usage;
use super::prompt::Ask;
use super::verdict::{Class, Failure};

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    model: Option<std::borrow::Cow<'a, str>>,
    data: Vec<Entry>,
    usage: Option<Count>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    index: u64,
    embedding: Vec<f32>,
}

#[derive(Deserialize)]
struct Count {
    prompt_tokens: u64,
    total_tokens: Option<u64>,
}

/// Reads the body of an answer with status 200.
///
/// # Errors
/// What makes it no good answer.
pub fn judge(body: &[u8], ask: &Ask) -> Result<Usage, Failure> {
    let body: Body<'_> = serde_json::from_slice(body)
        .map_err(|_| Class::MalformedSse.because("a body that is no list of embeddings"))?;
    match body.model {
        Some(model) if *model == *ask.model => {}
        Some(_) => return Err(Class::WrongModel.because("another model answered")),
        None => return Err(Class::WrongModel.because("no model named")),
    }
    if let Some(fault) = fault(&body.data, ask.messages.len()) {
        return Err(Class::Empty.because(fault));
    }
    match body.usage {
        Some(usage) if usage.prompt_tokens > 0 => Ok(Usage {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: 0,
            total_tokens: usage.total_tokens,
        }),
        _ => Err(Class::TokenMismatch.because("no usage, or one without tokens")),
    }
}

/// What is wrong with the vectors, in words.
fn fault(data: &[Entry], texts: usize) -> Option<&'static str> {
    let mut seen = vec![false; texts];
    for entry in data {
        let at = usize::try_from(entry.index)
            .ok()
            .and_then(|index| seen.get_mut(index));
        match at {
            Some(seen) if !*seen => *seen = true,
            _ => return Some("a vector for no text, or two for one"),
        }
    }
    let length = data.first().map_or(0, |entry| entry.embedding.len());
    if seen.contains(&false) {
        Some("a text without a vector")
    } else if length == 0 || data.iter().any(|entry| entry.embedding.len() != length) {
        Some("vectors that are empty or of different lengths")
    } else if data
        .iter()
        .flat_map(|entry| &entry.embedding)
        .any(|number| !number.is_finite())
    {
        Some("a number that is none")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::prompt::tests::ask;
    use crate::drive::prompt::{Endpoint, Role};

    fn verdict(body: &str) -> Result<u64, String> {
        let ask = Ask {
            endpoint: Endpoint::Embeddings,
            messages: vec![Role::User.says("a"), Role::User.says("b")],
            ..ask()
        };
        let usage = judge(body.as_bytes(), &ask);
        usage
            .map(|usage| usage.prompt_tokens)
            .map_err(|failure| failure.to_string())
    }

    fn body(data: &str) -> String {
        format!(
            r#"{{"object":"list","model":"m","data":{data},"usage":{{"prompt_tokens":5,"total_tokens":5}}}}"#
        )
    }

    #[test]
    fn every_text_has_one_vector() {
        let good = r#"[{"index":1,"embedding":[0.5,-1e-3]},{"index":0,"embedding":[1,2]}]"#;
        assert_eq!(verdict(&body(good)), Ok(5));
        for (data, why) in [
            ("[]", "empty: a text without a vector"),
            (
                r#"[{"index":0,"embedding":[1]}]"#,
                "empty: a text without a vector",
            ),
            (
                r#"[{"index":0,"embedding":[1]},{"index":0,"embedding":[1]}]"#,
                "empty: a vector for no text, or two for one",
            ),
            (
                r#"[{"index":0,"embedding":[1]},{"index":2,"embedding":[1]}]"#,
                "empty: a vector for no text, or two for one",
            ),
            (
                r#"[{"index":0,"embedding":[1]},{"index":1,"embedding":[]}]"#,
                "empty: vectors that are empty or of different lengths",
            ),
            (
                r#"[{"index":0,"embedding":[1e39]},{"index":1,"embedding":[0]}]"#,
                "empty: a number that is none",
            ),
        ] {
            assert_eq!(verdict(&body(data)), Err(why.to_owned()), "{data}");
        }
    }

    #[test]
    fn other_models_and_other_bodies_are_refused() {
        let good = body(r#"[{"index":0,"embedding":[1]},{"index":1,"embedding":[1]}]"#);
        let other = good.replace(r#""model":"m""#, r#""model":"n""#);
        assert_eq!(
            verdict(&other),
            Err("wrong_model: another model answered".to_owned())
        );
        let uncounted = good.replace("prompt_tokens", "tokens");
        assert!(verdict(&uncounted).is_err());
        assert!(
            verdict("data: {}")
                .unwrap_err()
                .starts_with("malformed_sse: a body")
        );
    }
}
