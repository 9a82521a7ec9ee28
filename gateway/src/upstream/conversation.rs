//! A chat as its client wrote it: nothing of it is copied or unescaped before somebody needs its words.
//!
//! Most servers pass a chat on and look only at how it begins; a chat template alone, next to a tokenizer, reads it.
//! It must not know what a body may say (`openai/messages.rs` does, and makes it).

use std::fmt;

use bytes::Bytes;
use serde_json::{Map, Value};

/// The messages of a chat, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversation(Vec<Message>);

/// One of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// As chat templates know it.
    pub role: &'static str,
    /// What is said: texts with nothing between them; `None` is null.
    pub content: Option<Vec<Text>>,
    /// Who speaks, where that is said.
    pub name: Option<String>,
    /// Calls of tools, in OpenAI's shape.
    pub calls: Option<Vec<Value>>,
    /// The call that it is the result of.
    pub result_of: Option<String>,
}

impl Conversation {
    /// These messages.
    #[must_use]
    pub const fn new(messages: Vec<Message>) -> Self {
        Self(messages)
    }

    /// How many they are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The messages as chat templates want them: objects with `role`, `content` as a string or null, and where they have
    /// them `name`, `tool_calls` and `tool_call_id`. `None` where a text is none, which none is that was checked.
    #[must_use]
    pub fn read(&self) -> Option<Vec<Value>> {
        self.0.iter().map(Message::read).collect()
    }

    /// What is said and by whom, in order and as it was written: equal beginnings mostly have equal pieces.
    pub fn written(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().flat_map(Message::written)
    }
}

impl Message {
    fn read(&self) -> Option<Value> {
        let content = match &self.content {
            Some(texts) => texts
                .iter()
                .map(Text::read)
                .collect::<Option<String>>()?
                .into(),
            None => Value::Null,
        };
        let mut message = Map::new();
        message.insert("role".to_owned(), self.role.into());
        message.insert("content".to_owned(), content);
        if let Some(name) = &self.name {
            message.insert("name".to_owned(), name.as_str().into());
        }
        if let Some(calls) = &self.calls {
            message.insert("tool_calls".to_owned(), calls.clone().into());
        }
        if let Some(id) = &self.result_of {
            message.insert("tool_call_id".to_owned(), id.as_str().into());
        }
        Some(Value::Object(message))
    }

    fn written(&self) -> impl Iterator<Item = &[u8]> {
        let texts = self.content.iter().flatten().map(Text::written);
        let names = [&self.name, &self.result_of].into_iter().flatten();
        std::iter::once(self.role.as_bytes())
            .chain(names.map(String::as_bytes))
            .chain(texts)
    }
}

/// A JSON string where it lies in a body, quotes and escapes and all.
#[derive(Clone, PartialEq, Eq)]
pub struct Text(Bytes);

impl Text {
    /// The string `quoted`, which borrows from `body`; `None` where it does not.
    #[must_use]
    pub fn within(body: &Bytes, quoted: &str) -> Option<Self> {
        super::body::place_in(body, quoted).map(|place| Self(body.slice(place)))
    }

    /// What stands between the quotes.
    #[must_use]
    pub fn written(&self) -> &[u8] {
        let inside = 1..self.0.len().saturating_sub(1);
        self.0.get(inside).unwrap_or_default()
    }

    /// What it says; `None` where it is no JSON string.
    #[must_use]
    pub fn read(&self) -> Option<String> {
        serde_json::from_slice(&self.0).ok()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Text of {} bytes", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_lie_in_their_body_until_they_are_read() {
        let body = Bytes::from_static(br#"{"a":"H\u00e9\"","b":""}"#);
        let whole = std::str::from_utf8(&body).unwrap();
        let text = Text::within(&body, &whole[5..16]).unwrap();
        assert!(body.as_ptr_range().contains(&text.written().as_ptr()));
        assert_eq!(text.written(), br#"H\u00e9\""#);
        assert_eq!(text.read().unwrap(), "Hé\"");
        let empty = Text::within(&body, &whole[21..23]).unwrap();
        assert_eq!(
            (empty.written(), empty.read()),
            (&b""[..], Some(String::new()))
        );
        assert_eq!(Text::within(&body, "\"elsewhere\""), None);
        assert_eq!(format!("{text:?}"), "Text of 11 bytes");
    }

    #[test]
    fn what_is_written_tells_conversations_apart() {
        let says = |name: Option<&str>, text: &'static str| Message {
            role: "user",
            content: Some(vec![Text(Bytes::from_static(text.as_bytes()))]),
            name: name.map(str::to_owned),
            calls: None,
            result_of: None,
        };
        let written = |message: Message| {
            Conversation::new(vec![message])
                .written()
                .collect::<Vec<_>>()
                .concat()
        };
        assert_eq!(written(says(None, r#""a\n""#)), br"usera\n");
        assert_eq!(written(says(Some("Ann"), r#""a\n""#)), br"userAnna\n");
    }
}
