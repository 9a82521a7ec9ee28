//! The grammar of calls: functions by name with arguments that obey each its schema, alone or after other text.
//!
//! How a model writes a call is its template's affair and comes in as plain pieces of text; nothing here knows a family of
//! models.

use std::fmt::Write as _;
use std::sync::Arc;

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde_json::Value;

use super::{GrammarError, vet};

/// A text of one or several calls: `open`, a call, `between` and a call as often as wanted, `close`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CallSpec {
    /// What may be said instead.
    pub otherwise: Otherwise,
    /// Before the first call; it begins with the tag of [`Otherwise::TextBefore`] where that is chosen.
    pub open: Arc<str>,
    /// Between two calls; `None` where there is only one.
    pub between: Option<Arc<str>>,
    /// After the last call.
    pub close: Arc<str>,
    /// The functions that may be called, at least one.
    pub functions: Vec<CallShape>,
}

/// How a function is called: `head`, the arguments, `tail`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CallShape {
    /// What comes before the arguments, the name in it.
    pub head: Arc<str>,
    /// A schema of the arguments, as JSON.
    pub schema: Arc<str>,
    /// What comes after them.
    pub tail: Arc<str>,
}

/// What may be said beside calls.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Otherwise {
    /// Nothing: there must be a call.
    Nothing,
    /// Any text, until this tag of its own accord begins the calls.
    TextBefore(Arc<str>),
    /// A JSON value of this schema.
    Json(Arc<str>),
}

impl CallSpec {
    /// Every schema that it holds.
    pub(super) fn schemas(&self) -> impl Iterator<Item = &Arc<str>> {
        let functions = self.functions.iter().map(|function| &function.schema);
        let other = match &self.otherwise {
            Otherwise::Json(schema) => Some(schema),
            Otherwise::Nothing | Otherwise::TextBefore(_) => None,
        };
        functions.chain(other)
    }

    /// Bytes of all its texts, nearly.
    pub(super) fn bytes(&self) -> usize {
        let heads = self.functions.iter().map(|function| function.head.len());
        self.schemas().map(|schema| schema.len()).sum::<usize>() + heads.sum::<usize>()
    }

    /// The grammar as the compiler takes it: one that joins, and one for each schema.
    pub(super) fn compose(&self, schemas: Vec<Value>) -> Result<TopLevelGrammar, GrammarError> {
        if self.functions.is_empty() {
            let what = "there is no function to call";
            return Err(GrammarError::Invalid(what.to_owned()));
        }
        let joined = GrammarWithLexer::from_lark(self.lark()?);
        let named = schemas.into_iter().zip(0..).map(|(schema, index)| {
            let name = Some(format!("s{index}"));
            let grammar = GrammarWithLexer::from_json_schema(vet::with_little_space(schema));
            GrammarWithLexer { name, ..grammar }
        });
        Ok(TopLevelGrammar {
            grammars: std::iter::once(joined).chain(named).collect(),
            max_tokens: None,
        })
    }

    fn lark(&self) -> Result<String, GrammarError> {
        let (start, open) = match &self.otherwise {
            Otherwise::Nothing => ("start: open calls\n".to_owned(), &*self.open),
            Otherwise::Json(_) => {
                let schema = self.functions.len();
                let start = format!("start: open calls | @s{schema}\n");
                (start, &*self.open)
            }
            Otherwise::TextBefore(tag) => {
                let rest = self.open.strip_prefix(&**tag);
                let what = || GrammarError::Invalid("calls do not begin with their tag".to_owned());
                (text_before(tag), rest.ok_or_else(what)?)
            }
        };
        let mut lark = start;
        // What is empty is no terminal.
        let _ = writeln!(lark, "open: {}", literal(open));
        let _ = writeln!(lark, "calls: call {} {}", self.more(), literal(&self.close));
        for (function, index) in self.functions.iter().zip(0..) {
            let lead = if index == 0 { "call:" } else { "    |" };
            let (head, tail) = (literal(&function.head), literal(&function.tail));
            let _ = writeln!(lark, "{lead} {head} @s{index} {tail}");
        }
        Ok(lark)
    }

    fn more(&self) -> String {
        let between = self.between.as_deref();
        between.map_or_else(String::new, |between| {
            format!("({} call)*", literal(between))
        })
    }
}

/// Text to the end, or up to the tag for the first time: the shortest match counts there.
fn text_before(tag: &str) -> String {
    let tag = literal(tag);
    format!("start: TEXT | before open calls\nTEXT: /(.|\\n)*/\nbefore[lazy]: TEXT {tag}\n")
}

/// Lark writes strings as JSON does.
fn literal(text: &str) -> String {
    Value::from(text).to_string()
}
