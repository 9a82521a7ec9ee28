//! What a client has been told, and how another upstream goes on from there, token for token (I3).
//!
//! The next upstream gets the request as it came and the ids that every choice has produced, all but the last one: it must
//! produce that one again, and only if it is the same does its stream follow on the first. Whatever differs ends the
//! stream with an error.

use crate::limits::RESUME_TOKENS_MAX;
use crate::upstream::{Event, GenerateRequest};

/// What a client has been told of each choice.
#[derive(Debug)]
pub(super) struct Told {
    choices: Vec<Choice>,
    tokens: usize,
    /// Whether all text came with its ids.
    exact: bool,
    /// Whether each choice begins with the prompt, which comes as text without ids.
    echo: bool,
    /// Whether log-probabilities are wanted.
    logprobs: bool,
}

#[derive(Debug, Clone, Default)]
struct Choice {
    ids: Vec<u32>,
    logprobs: usize,
    /// Whether it was told the prompt.
    echoed: bool,
    finished: bool,
}

impl Told {
    /// Nothing yet of a request's choices.
    pub(super) fn nothing(request: &GenerateRequest) -> Self {
        Self {
            choices: vec![Choice::default(); request.n as usize],
            tokens: 0,
            exact: request.resume_token_ids.is_empty(),
            echo: request.echo,
            logprobs: request.logprobs.is_some(),
        }
    }

    /// Notes an event that is about to be told.
    pub(super) fn note(&mut self, event: &Event) {
        match event {
            Event::Delta {
                choice,
                text,
                token_ids,
                logprobs,
            } => {
                if self.is_prompt(*choice, token_ids) {
                    return;
                }
                self.exact &= !token_ids.is_empty() || (text.is_empty() && logprobs.is_empty());
                self.tokens += token_ids.len();
                if self.tokens > RESUME_TOKENS_MAX {
                    self.exact = false;
                }
                if !self.exact {
                    // They are of no use any more.
                    self.choices
                        .iter_mut()
                        .for_each(|choice| choice.ids = Vec::new());
                } else if let Some(choice) = self.choices.get_mut(*choice as usize) {
                    choice.ids.extend_from_slice(token_ids);
                    choice.logprobs += logprobs.len();
                }
            }
            Event::Finished { choice, .. } => {
                if let Some(choice) = self.choices.get_mut(*choice as usize) {
                    choice.finished = true;
                }
            }
            // Calls that an upstream found itself come without ids.
            Event::ToolCall { .. } => self.exact = false,
            Event::ToolSyntax(_) | Event::Done(_) => {}
        }
    }

    /// Whether an event is the prompt that its choice begins with. Whoever goes on does not tell it again.
    fn is_prompt(&mut self, choice: u32, token_ids: &[u32]) -> bool {
        let choice = self.choices.get_mut(choice as usize);
        let Some(choice) = choice.filter(|choice| self.echo && !choice.echoed) else {
            return false;
        };
        choice.echoed = token_ids.is_empty() && choice.ids.is_empty();
        choice.echoed
    }

    /// Tokens of all choices.
    pub(super) fn tokens(&self) -> u32 {
        u32::try_from(self.tokens).unwrap_or(u32::MAX)
    }

    /// Whether all that was told can be continued to the letter.
    pub(super) fn is_exact(&self) -> bool {
        // A token whose text is held back has its log-probability held back too, and replaying would lose it.
        let held = |c: &Choice| self.logprobs && !c.finished && c.logprobs != c.ids.len();
        let begun = |c: &Choice| c.echoed || !self.echo;
        self.exact && self.choices.iter().all(|c| begun(c) && !held(c))
    }

    /// The ids that the next upstream replays, and what it must say before anything is told again.
    pub(super) fn seam(&self) -> (Vec<Vec<u32>>, Seam) {
        let replayed = |choice: &Choice| match choice.ids.split_last() {
            Some((_, before)) => before.to_vec(),
            None => Vec::new(),
        };
        let expected = |choice: &Choice| match choice.ids.last() {
            _ if choice.finished => Expected::Nothing,
            Some(last) => Expected::Token(*last),
            None => Expected::Anything,
        };
        let choices = self.choices.iter();
        let replayed = choices.clone().map(replayed).collect();
        (replayed, Seam(choices.map(expected).collect()))
    }
}

/// Where two streams meet.
#[derive(Debug)]
pub(super) struct Seam(Vec<Expected>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// The last token that was told, again.
    Token(u32),
    /// What was not told.
    Anything,
    /// The choice is over: all of it was told.
    Nothing,
}

/// What becomes of an event of the second stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Met {
    /// It is new.
    New,
    /// It was told.
    Known,
    /// It is something else than what was told.
    Different,
}

impl Seam {
    /// Judges the next event of the second stream.
    pub(super) fn meet(&mut self, event: &Event) -> Met {
        let (choice, ids) = match event {
            Event::Delta {
                choice, token_ids, ..
            } => (*choice, Some(token_ids.as_slice())),
            Event::Finished { choice, .. } | Event::ToolCall { choice, .. } => (*choice, None),
            // It came before everything else.
            Event::ToolSyntax(_) => return Met::Known,
            Event::Done(_) => return Met::New,
        };
        let Some(expected) = self.0.get_mut(choice as usize) else {
            return Met::Different;
        };
        match (*expected, ids) {
            (Expected::Anything, _) => Met::New,
            (Expected::Nothing, _) => Met::Known,
            (Expected::Token(last), Some([id])) if *id == last => {
                *expected = Expected::Anything;
                Met::Known
            }
            (Expected::Token(_), _) => Met::Different,
        }
    }
}
