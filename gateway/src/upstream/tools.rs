//! Functions that a chat may call: what a request says of them, and how a model's text and our events tell of calls.
//!
//! A node with the template knows how its model writes calls and says so first ([`ToolSyntax`]); the first server, which
//! answers the client, finds them in the text. Between the two goes text alone, so that a stream can be continued
//! elsewhere in the middle of a call.

use std::fmt::{self, Display};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The functions of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Tools {
    /// OpenAI's definitions, as chat templates take them.
    pub definitions: Arc<[Value]>,
    /// Those that may be called, at least one.
    pub callable: Vec<Function>,
    /// Whether there must be a call.
    pub must_call: bool,
    /// Whether there may be several calls.
    pub parallel: bool,
}

/// A function that may be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Letters, digits, `_` and `-`.
    pub name: Arc<str>,
    /// A JSON schema of its arguments, which are an object.
    pub parameters: Arc<str>,
}

/// How a model writes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToolSyntax {
    /// The form.
    pub form: CallForm,
    /// Whether a grammar holds calls to it to the letter: arguments then stream, since they cannot turn out to be none.
    pub is_guided: bool,
}

/// The form of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallForm {
    /// `<tool_call>{"name": .., "arguments": {..}}</tool_call>`: Hermes, Qwen, and models without a form of their own.
    Tagged,
    /// `{"name": .., "parameters": {..}}` and nothing else: Llama 3.
    Object,
    /// `[TOOL_CALLS] [{"name": .., "arguments": {..}}]`: Mistral.
    List,
}

/// The syntax as servers of ours tell each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireSyntax {
    form: WireForm,
    is_guided: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WireForm {
    Tagged,
    Object,
    List,
}

impl From<ToolSyntax> for WireSyntax {
    fn from(syntax: ToolSyntax) -> Self {
        Self {
            form: match syntax.form {
                CallForm::Tagged => WireForm::Tagged,
                CallForm::Object => WireForm::Object,
                CallForm::List => WireForm::List,
            },
            is_guided: syntax.is_guided,
        }
    }
}

impl From<WireSyntax> for ToolSyntax {
    fn from(syntax: WireSyntax) -> Self {
        Self {
            form: match syntax.form {
                WireForm::Tagged => CallForm::Tagged,
                WireForm::Object => CallForm::Object,
                WireForm::List => CallForm::List,
            },
            is_guided: syntax.is_guided,
        }
    }
}

/// The beginning of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallHead {
    /// Id by which the client gives back the result.
    pub id: String,
    /// Name of the function.
    pub name: String,
}

impl CallForm {
    /// What a model may write before its calls; some write it as a control token, which is no text.
    #[must_use]
    pub const fn tag(self) -> &'static str {
        match self {
            Self::Tagged => "<tool_call>",
            Self::Object => "<|python_tag|>",
            Self::List => "[TOOL_CALLS]",
        }
    }

    /// What a grammar puts before the first call.
    #[must_use]
    pub const fn open(self) -> &'static str {
        match self {
            Self::Tagged => "<tool_call>\n",
            Self::Object => "",
            Self::List => "[",
        }
    }

    /// What a grammar puts between two calls; `None` where the model knows one at a time.
    #[must_use]
    pub const fn between(self) -> Option<&'static str> {
        match self {
            Self::Tagged => Some("\n</tool_call>\n<tool_call>\n"),
            Self::Object => None,
            Self::List => Some(", "),
        }
    }

    /// What a grammar puts after the last call.
    #[must_use]
    pub const fn close(self) -> &'static str {
        match self {
            Self::Tagged => "\n</tool_call>",
            Self::Object => "",
            Self::List => "]",
        }
    }

    /// What a grammar puts before the arguments of the function `name`; after them comes a brace.
    #[must_use]
    pub fn head(self, name: &str) -> String {
        let arguments = self.arguments();
        format!(r#"{{"name": "{name}", "{arguments}": "#)
    }

    /// The name of a call's arguments.
    #[must_use]
    pub const fn arguments(self) -> &'static str {
        match self {
            Self::Tagged | Self::List => "arguments",
            Self::Object => "parameters",
        }
    }

    /// The form of that name, as [`CallForm`] displays it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let all = [Self::Tagged, Self::Object, Self::List];
        all.into_iter().find(|form| form.name() == name)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Tagged => "tagged",
            Self::Object => "object",
            Self::List => "list",
        }
    }
}

impl Display for CallForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
