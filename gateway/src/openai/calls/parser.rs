//! Finds calls in a model's text as it comes, cut anywhere.
//!
//! What may yet turn out to be a call is held back, and nothing longer; what turns out to be none is text after all. So no
//! part of a tag shows as text, and no text is lost. Where a grammar holds calls to their form, arguments pass on as they
//! come; otherwise a call is told when it is whole and sound, since nothing can be taken back. However the text is cut
//! into pieces, the same comes out. It must not know events or OpenAI's JSON.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::extent::Extent;
use crate::limits::{CALL_BYTES_MAX, CALL_SPACE_MAX};
use crate::upstream::tools::{CallForm, ToolSyntax, Tools};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// Words for the reader.
    Text(String),
    /// A call of the function of this name begins.
    Call(String),
    /// The next part of its arguments.
    Arguments(String),
}

/// The text of one choice on its way.
#[derive(Debug)]
pub(super) struct Parser {
    tools: Arc<Tools>,
    syntax: ToolSyntax,
    /// Text that was not told yet.
    held: String,
    state: State,
    /// Whether there was a whole call.
    called: bool,
}

#[derive(Debug)]
enum State {
    /// Before all text, or after a call: space and marks of the form are no text there.
    Gap,
    /// Among words.
    Text,
    /// After this many bytes of marks, before the brace of a call.
    Opening(usize),
    /// In a call that is held back, from its brace at `start` on; `seen` bytes of it are known not to end it.
    Call {
        start: usize,
        seen: usize,
        extent: Extent,
    },
    /// In the arguments of a call that was told already.
    Arguments(Extent),
    /// After these, before the brace that ends the call.
    Tail,
}

use State::{Arguments, Call, Gap, Opening, Tail, Text};

/// What stands at the beginning of a text.
enum Mark {
    /// So many bytes that mean nothing.
    Skip(usize),
    /// So many bytes after which there is a call.
    Open(usize),
    /// Perhaps the beginning of one of these.
    Partial,
    /// None of these.
    Other,
}

/// Whether a call's beginning names one of the functions.
enum Heads {
    /// It does, with so many bytes.
    Names(Arc<str>, usize),
    /// It may yet.
    Partial,
    /// It is written otherwise.
    Other,
}

impl Parser {
    pub(super) const fn new(tools: Arc<Tools>, syntax: ToolSyntax) -> Self {
        Self {
            tools,
            syntax,
            held: String::new(),
            state: Gap,
            called: false,
        }
    }

    /// Takes the next piece of text and appends what it makes certain to `out`.
    pub(super) fn push(&mut self, text: &str, out: &mut Vec<Piece>) {
        self.held.push_str(text);
        while self.step(out) {}
    }

    /// Takes the end of the text. A call that it cuts off is told as far as it came, or as text.
    pub(super) fn finish(&mut self, out: &mut Vec<Piece>) {
        let rest = self.held.trim_start();
        let is_markup = match self.state {
            Gap => self.called && self.closes().starts_with(rest),
            Tail => rest.is_empty(),
            Text | Opening(_) | Call { .. } | Arguments(_) => false,
        };
        if is_markup {
            self.held.clear();
        }
        self.tell_text(self.held.len(), out);
    }

    /// Whether there was a whole call, and none that was cut off.
    pub(super) const fn has_called(&self) -> bool {
        self.called && !matches!(self.state, Arguments(_) | Tail)
    }

    /// Goes on by one state; `false` where more text is needed.
    fn step(&mut self, out: &mut Vec<Piece>) -> bool {
        if self.held.is_empty() {
            return false;
        }
        match self.state {
            Gap => self.step_gap(),
            Text => self.step_text(out),
            Opening(marks) => self.step_opening(marks, out),
            Call { start, .. } => self.step_head(start, out) || self.step_call(out),
            Arguments(_) => self.step_arguments(out),
            Tail => self.step_tail(),
        }
    }

    fn step_gap(&mut self) -> bool {
        let Some((space, _)) = self.after_space(0) else {
            return false;
        };
        self.state = match self.mark(&self.held[space..]) {
            _ if space > CALL_SPACE_MAX => Text,
            Mark::Partial => return false,
            Mark::Open(length) if self.may_call() => Opening(space + length),
            Mark::Skip(length) => {
                self.held.drain(..space + length);
                Gap
            }
            Mark::Open(_) | Mark::Other => Text,
        };
        true
    }

    fn step_text(&mut self, out: &mut Vec<Piece>) -> bool {
        let tag = self.syntax.form.tag();
        if !self.may_call() {
            self.tell_text(self.held.len(), out);
            return false;
        }
        match self.held.find(tag) {
            Some(at) => {
                self.tell_text(at, out);
                self.state = Opening(tag.len());
                true
            }
            None => {
                let told = self.held.len() - overlap(&self.held, tag);
                self.tell_text(told, out);
                false
            }
        }
    }

    fn step_opening(&mut self, marks: usize, out: &mut Vec<Piece>) -> bool {
        let Some((mut at, mut byte)) = self.after_space(marks) else {
            return false;
        };
        if self.syntax.form == CallForm::List && byte == b'[' {
            match self.after_space(at + 1) {
                Some(next) => (at, byte) = next,
                None => return false,
            }
        }
        if byte == b'{' && at <= marks + CALL_SPACE_MAX {
            self.state = Call {
                start: at,
                seen: 0,
                extent: Extent::default(),
            };
        } else {
            self.state = Text;
            self.tell_text(at, out);
        }
        true
    }

    /// Tells a call by its head alone, where the rest of it is certain.
    fn step_head(&mut self, start: usize, out: &mut Vec<Piece>) -> bool {
        if !self.syntax.is_guided {
            return false;
        }
        let Heads::Names(name, length) = self.heads(&self.held[start..]) else {
            return false;
        };
        out.push(Piece::Call(name.to_string()));
        self.held.drain(..start + length);
        self.state = Arguments(Extent::default());
        true
    }

    fn step_call(&mut self, out: &mut Vec<Piece>) -> bool {
        let Call {
            start,
            seen,
            extent,
        } = &mut self.state
        else {
            return false;
        };
        let unseen = &self.held[*start + *seen..];
        let room = CALL_BYTES_MAX - *seen;
        let scanned = unseen.len().min(room);
        match extent.end(&unseen.as_bytes()[..scanned]) {
            Some(end) => {
                let (start, end) = (*start, *start + *seen + end);
                self.judge(start, end, out);
                true
            }
            None if unseen.len() < room => {
                *seen = self.held.len() - *start;
                false
            }
            None => {
                // Too long to be one. What is inside of it is not looked at again.
                let mut end = *start + CALL_BYTES_MAX;
                while !self.held.is_char_boundary(end) {
                    end += 1;
                }
                self.state = Text;
                self.tell_text(end, out);
                true
            }
        }
    }

    /// Tells the call whose object stands in the held text from `start` to `end`, which may be none.
    fn judge(&mut self, start: usize, end: usize, out: &mut Vec<Piece>) {
        match self.sound_call(&self.held[start..end]) {
            Some((name, arguments)) => {
                out.extend([Piece::Call(name), Piece::Arguments(arguments)]);
                self.held.drain(..end);
                self.end_call();
            }
            None => {
                self.state = Text;
                self.tell_text(end, out);
            }
        }
    }

    fn step_arguments(&mut self, out: &mut Vec<Piece>) -> bool {
        let Arguments(extent) = &mut self.state else {
            return false;
        };
        let end = extent.end(self.held.as_bytes());
        let told = end.unwrap_or(self.held.len());
        out.push(Piece::Arguments(self.held.drain(..told).collect()));
        if end.is_some() {
            self.state = Tail;
        }
        end.is_some()
    }

    fn step_tail(&mut self) -> bool {
        match self.after_space(0) {
            None => false,
            Some((space, b'}')) => {
                self.held.drain(..=space);
                self.end_call();
                true
            }
            // No grammar of ours says so. The arguments were whole.
            Some(_) => {
                self.called = true;
                self.state = Text;
                true
            }
        }
    }

    fn end_call(&mut self) {
        self.called = true;
        self.state = Gap;
    }

    /// Whether a call may come, as far as the request says.
    fn may_call(&self) -> bool {
        self.tools.parallel || !self.called
    }

    /// The mark that `text`, which is not empty and has no space before it, begins with in a gap.
    fn mark(&self, text: &str) -> Mark {
        let form = self.syntax.form;
        let begins = |mark: &str| text.starts_with(mark);
        let tag = form.tag();
        let closes = self.closes();
        if begins(tag) {
            return Mark::Open(tag.len());
        }
        match (form, self.called) {
            (CallForm::Tagged | CallForm::List, true) if begins(closes) => Mark::Skip(closes.len()),
            (CallForm::List, true) if begins(",") => Mark::Open(1),
            (CallForm::Object, true) if begins(";") => Mark::Open(1),
            (CallForm::Object, false) if begins("{") => Mark::Open(0),
            (CallForm::List, false) if begins("[") && !tag.starts_with(text) => Mark::Open(0),
            _ if tag.starts_with(text) => Mark::Partial,
            (CallForm::Tagged, true) if closes.starts_with(text) => Mark::Partial,
            _ => Mark::Other,
        }
    }

    /// What ends a call, or all of them.
    const fn closes(&self) -> &'static str {
        match self.syntax.form {
            CallForm::Tagged => "</tool_call>",
            CallForm::Object => "",
            CallForm::List => "]",
        }
    }

    /// Whether `object` begins as a grammar would have it.
    fn heads(&self, object: &str) -> Heads {
        let mut is_partial = false;
        for function in &self.tools.callable {
            let head = self.syntax.form.head(&function.name);
            match object.strip_prefix(&*head) {
                Some(rest) if rest.starts_with('{') => {
                    return Heads::Names(Arc::clone(&function.name), head.len());
                }
                Some("") => is_partial = true,
                _ => is_partial |= head.starts_with(object),
            }
        }
        if is_partial {
            Heads::Partial
        } else {
            Heads::Other
        }
    }

    /// Name and arguments of a call that was written in any order, where it is sound JSON and names one of the functions.
    fn sound_call(&self, object: &str) -> Option<(String, String)> {
        let written: Written<'_> = serde_json::from_str(object).ok()?;
        let is_known = |name: &str| self.tools.callable.iter().any(|f| &*f.name == name);
        let arguments = match (written.arguments, written.parameters) {
            (None, None) => "{}",
            (Some(arguments), None) | (None, Some(arguments)) => arguments.get(),
            (Some(_), Some(_)) => return None,
        };
        let is_sound = is_known(&written.name) && arguments.starts_with('{');
        is_sound.then(|| (written.name.into_owned(), arguments.to_owned()))
    }

    /// The first byte of the held text from `from` on that is no space, and where it stands.
    fn after_space(&self, from: usize) -> Option<(usize, u8)> {
        let mut bytes = self.held.bytes().enumerate().skip(from);
        bytes.find(|(_, byte)| !byte.is_ascii_whitespace())
    }

    /// Tells this many bytes of the held text as words.
    fn tell_text(&mut self, bytes: usize, out: &mut Vec<Piece>) {
        if bytes > 0 {
            out.push(Piece::Text(self.held.drain(..bytes).collect()));
        }
    }
}

/// A call as models write it.
#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow)]
    parameters: Option<&'a RawValue>,
}

/// Bytes at the end of `text` that `tag` may begin with.
fn overlap(text: &str, tag: &str) -> usize {
    let mut lengths = (1..tag.len().min(text.len() + 1)).rev();
    lengths
        .find(|length| text.as_bytes().ends_with(&tag.as_bytes()[..*length]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests;
