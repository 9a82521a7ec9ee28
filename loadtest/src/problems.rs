//! What is wrong with a file: every problem at once, each with its line. Knows no format.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::limits::{MAX_PROBLEMS, MAX_QUOTE_CHARS};

/// All that is wrong with one file, in the order of its lines. Never empty where it is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    file: PathBuf,
    /// Line from 1, 0 for the file as a whole; and what is wrong there.
    list: Vec<(usize, String)>,
    /// Problems beyond the bound of the list.
    omitted: usize,
    /// Those of a file that this one names.
    named: Option<Box<Problems>>,
}

impl Problems {
    /// None so far.
    pub fn new(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            list: Vec::new(),
            omitted: 0,
            named: None,
        }
    }

    /// The one problem of a file as a whole.
    pub fn one(file: &Path, what: impl fmt::Display) -> Self {
        let mut problems = Self::new(file);
        problems.add(0, what);
        problems
    }

    /// Notes a problem in `line`, counted from 1.
    pub fn add(&mut self, line: usize, what: impl fmt::Display) {
        if self.list.len() < MAX_PROBLEMS {
            self.list.push((line, what.to_string()));
        } else {
            self.omitted += 1;
        }
    }

    /// `value` if nothing was wrong, else all problems, in the order of lines.
    ///
    /// # Errors
    /// There is a problem.
    pub fn or<T>(mut self, value: T) -> Result<T, Self> {
        if self.list.is_empty() {
            return Ok(value);
        }
        self.list.sort_by_key(|(line, _)| *line);
        Err(self)
    }

    /// These, and those of a file that this one names.
    #[must_use]
    pub fn with(mut self, named: Self) -> Self {
        self.named = Some(Box::new(named));
        self
    }

    /// Whether nothing was wrong so far.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        for (index, (line, what)) in self.list.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            match line {
                0 => write!(f, "{separator}{file}: {what}")?,
                line => write!(f, "{separator}{file}:{line}: {what}")?,
            }
        }
        if self.omitted > 0 {
            write!(f, "\n... and {} more", self.omitted)?;
        }
        match &self.named {
            Some(named) => write!(f, "\n{named}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Problems {}

/// Part of a file inside a message: in quotes, on one line, cut where it is long.
pub fn quote(text: &str) -> String {
    let short: String = text.chars().take(MAX_QUOTE_CHARS).collect();
    let more = if short.len() < text.len() { "..." } else { "" };
    format!("{:?}", short + more)
}

/// The line, from 1, of byte `offset`.
pub fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    1 + before.filter(|&&byte| byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_come_in_the_order_of_lines_and_are_bounded() {
        let mut problems = Problems::new(Path::new("f"));
        problems.add(7, "b");
        problems.add(2, "a");
        assert_eq!(problems.or(()).unwrap_err().to_string(), "f:2: a\nf:7: b");
        let mut many = Problems::new(Path::new("f"));
        (1..=MAX_PROBLEMS + 3).for_each(|line| many.add(line, "x"));
        assert!(
            many.or(())
                .unwrap_err()
                .to_string()
                .ends_with("\n... and 3 more")
        );
        assert_eq!(Problems::new(Path::new("f")).or(5), Ok(5));
        assert_eq!(Problems::one(Path::new("f"), "gone").to_string(), "f: gone");
    }
}
