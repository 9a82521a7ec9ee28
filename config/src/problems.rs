//! What is wrong with a config file: every problem at once, each with its place and a way out.
//!
//! It must not know what the keys mean; the reader and the checks do.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::limits;

/// One thing that is wrong, where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named.
    pub file: PathBuf,
    /// Line in the file from 1; 0 where the file as a whole is meant (it cannot be read).
    pub line: u32,
    /// Character in the line from 1; 0 where `line` is 0.
    pub column: u32,
    /// The key as a path from the root, `model[1].kv_type`; empty where no key is meant.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// The way out.
    pub help: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}\n  help: {}", self.message, self.help)
    }
}

/// All that is wrong with one file, in the order of its lines. Never empty where it is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    list: Vec<Problem>,
    /// Problems beyond `limits::PROBLEMS_MAX`.
    omitted: usize,
}

impl Problems {
    /// The problems, at most [`limits::PROBLEMS_MAX`] of them.
    pub fn list(&self) -> &[Problem] {
        &self.list
    }

    /// The first of `items` as problems; the rest is only counted.
    pub(crate) fn collect<T>(items: Vec<T>, problem: impl FnMut(T) -> Problem) -> Self {
        let omitted = items.len().saturating_sub(limits::PROBLEMS_MAX);
        let kept = items.into_iter().take(limits::PROBLEMS_MAX);
        Self {
            list: kept.map(problem).collect(),
            omitted,
        }
    }

    /// Each problem changed by `change`.
    pub(crate) fn each(mut self, change: impl FnMut(Problem) -> Problem) -> Self {
        self.list = self.list.into_iter().map(change).collect();
        self
    }

    pub(crate) fn one(problem: Problem) -> Self {
        Self {
            list: vec![problem],
            omitted: 0,
        }
    }

    /// The one problem of a file that cannot be read at all.
    pub(crate) fn of_file(file: &Path, fault: Fault) -> Self {
        Self::one(Problem {
            file: file.to_owned(),
            line: 0,
            column: 0,
            path: String::new(),
            message: fault.message,
            help: fault.help,
        })
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        if self.omitted > 0 {
            write!(f, "\n... and {} more", self.omitted)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// What is wrong with a value and the way out, before its place is known.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) message: String,
    pub(crate) help: String,
}

impl Fault {
    pub(crate) fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: help.into(),
        }
    }
}

/// Line and column, both from 1, of a byte in `text`; columns count characters.
pub(crate) fn position(text: &[u8], offset: usize) -> (u32, u32) {
    let before = &text[..offset.min(text.len())];
    let line_start = before
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |newline| newline + 1);
    let lines = before.iter().filter(|byte| **byte == b'\n').count();
    // Bytes that continue a UTF-8 character start with the bits 10.
    let characters = before[line_start..]
        .iter()
        .filter(|byte| **byte & 0xC0 != 0x80);
    let from_one = |count: usize| u32::try_from(count + 1).unwrap_or(u32::MAX);
    (from_one(lines), from_one(characters.count()))
}

/// Part of the file inside a message: in quotes, on one line, cut where it is long.
pub(crate) fn quote(text: &str) -> String {
    if text.chars().count() <= limits::QUOTE_CHARS_MAX {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(limits::QUOTE_CHARS_MAX).collect();
    format!("{:?}", start + "...")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let text = "a\nbé=c\n".as_bytes();
        let cases = [
            (0, (1, 1)),
            (2, (2, 1)),
            (5, (2, 3)),
            (6, (2, 4)),
            (8, (3, 1)),
            (99, (3, 1)),
        ];
        for (offset, expected) in cases {
            assert_eq!(position(text, offset), expected, "{offset}");
        }
    }

    #[test]
    fn problems_beyond_the_bound_are_counted() {
        let problem = Problems::of_file(Path::new("f"), Fault::new("m", "h")).list[0].clone();
        let problems = Problems::collect(vec![problem; limits::PROBLEMS_MAX + 2], |same| same);
        assert!(problems.to_string().ends_with("\n... and 2 more"));
    }
}
