//! ShareGPT conversations: real texts with the answers they got, and nothing of when. Every turn of the human is a
//! request that brings the recorded chat before it; the length of the recorded answer is asked for.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::jsonl::in_words;
use super::{Entry, Prompt, Raw};
use crate::drive::prompt::{Message, Role};
use crate::limits::{MAX_SHAREGPT_BYTES, MAX_TOKENS};
use crate::problems::{Problems, line_of, quote};

#[derive(Deserialize)]
struct Conversation {
    conversations: Vec<Said>,
}

/// One message in either of the two spellings of the field.
#[derive(Deserialize)]
struct Said {
    #[serde(alias = "role")]
    from: String,
    #[serde(alias = "content")]
    value: String,
}

pub(super) fn read(path: &Path, limit: usize, problems: &mut Problems) -> io::Result<Vec<Raw>> {
    let size = fs::metadata(path)?.len();
    if size > MAX_SHAREGPT_BYTES {
        problems.add(
            0,
            format!("has {size} bytes, more than {MAX_SHAREGPT_BYTES}"),
        );
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(path)?;
    let items: Vec<&RawValue> = match serde_json::from_str(&text) {
        Ok(items) => items,
        Err(error) => {
            problems.add(
                error.line(),
                format!("no JSON array of conversations: {}", in_words(&error)),
            );
            return Ok(Vec::new());
        }
    };
    let mut rows = Vec::new();
    for item in items {
        if rows.len() >= limit {
            break;
        }
        match conversation(item.get()) {
            Ok(turns) => rows.extend(turns),
            Err(what) => {
                let offset = (item.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
                problems.add(line_of(&text, offset), what);
            }
        }
    }
    rows.truncate(limit);
    Ok(rows)
}

fn conversation(text: &str) -> Result<Vec<Raw>, String> {
    let read: Conversation = serde_json::from_str(text).map_err(|error| in_words(&error))?;
    let messages: Vec<Message> = read
        .conversations
        .into_iter()
        .map(message)
        .collect::<Result<_, _>>()?;
    let messages: Arc<[Message]> = messages.into();
    let mut rows = Vec::new();
    for upto in 1..=messages.len() {
        if messages[upto - 1].role != Role::User {
            continue;
        }
        let answer = messages
            .get(upto)
            .filter(|next| next.role == Role::Assistant);
        let entry = Entry {
            at: 0,
            prompt: Prompt::Chat {
                messages: messages.clone(),
                upto,
            },
            output_tokens: answer.map_or(1, length),
            model: None,
            priority: None,
        };
        let goes_on = !rows.is_empty();
        rows.push(Raw {
            at: None,
            entry,
            goes_on,
        });
    }
    if rows.is_empty() {
        return Err("a conversation in which no human speaks".to_owned());
    }
    Ok(rows)
}

fn message(said: Said) -> Result<Message, String> {
    let role = match &*said.from {
        "human" | "user" => Role::User,
        "gpt" | "assistant" | "chatgpt" | "bing" | "bard" => Role::Assistant,
        "system" => Role::System,
        other => return Err(format!("{} is no speaker that is known", quote(other))),
    };
    Ok(role.says(said.value))
}

/// Tokens of an answer, by a rule of thumb: four thirds of its words. A tokenizer would need the model's files.
fn length(answer: &Message) -> u32 {
    let words = answer.content.split_whitespace().count();
    u32::try_from(words * 4 / 3)
        .unwrap_or(MAX_TOKENS)
        .clamp(1, MAX_TOKENS)
}
