//! From a file to a config, or to all of its problems.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::limits::FILE_BYTES_MAX;
use crate::problems::{Fault, Problem, Problems, position};
use crate::schema::Config;
use crate::{check, read};

impl Config {
    /// The config in the file at `path`.
    ///
    /// # Errors
    /// Every problem of the file at once, or the one reason why it cannot be read.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        let bytes = read_file(path)?;
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            let fault = Fault::new("is not UTF-8 text", "save the file as UTF-8");
            Problems::one(place(
                path,
                &bytes,
                error.valid_up_to(),
                String::new(),
                fault,
            ))
        })?;
        Self::parse(text, path)
    }

    /// The config in `text`; `file` names it in messages.
    ///
    /// # Errors
    /// Every problem of the text at once. After a syntax error the rest of the file cannot be
    /// judged: then these are all syntax errors, and all problems of the lines before the first
    /// one.
    pub fn parse(text: &str, file: &Path) -> Result<Self, Problems> {
        check_size(text.len(), file)?;
        let mut reader = read::Reader::new();
        let syntax_errors = reader.document(text);
        let mut faults = if syntax_errors.is_empty() {
            check::config(&mut reader);
            reader.faults
        } else {
            sound_part(reader.faults, syntax_errors)
        };
        if faults.is_empty() {
            return Ok(reader.config);
        }
        faults.sort_by_key(|placed| placed.offset);
        Err(Problems::collect(
            faults,
            |read::Placed {
                 offset,
                 path,
                 fault,
             }| { place(file, text.as_bytes(), offset, path, fault) },
        ))
    }
}

/// The syntax errors and what was found before the first of them: behind it, keys may have landed
/// in the wrong section.
fn sound_part(
    mut faults: Vec<read::Placed>,
    syntax_errors: Vec<read::Placed>,
) -> Vec<read::Placed> {
    let first = syntax_errors.iter().map(|error| error.offset).min();
    faults.retain(|placed| Some(placed.offset) < first);
    faults.extend(syntax_errors);
    faults
}

fn read_file(path: &Path) -> Result<Vec<u8>, Problems> {
    let unreadable = |error: std::io::Error| {
        let fault = Fault::new(
            format!("cannot be read: {error}"),
            "name a readable TOML file; config/examples/reference.toml shows every key",
        );
        Problems::of_file(path, fault)
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    check_size(bytes.len(), path)?;
    Ok(bytes)
}

fn check_size(bytes: usize, file: &Path) -> Result<(), Problems> {
    if bytes <= FILE_BYTES_MAX {
        return Ok(());
    }
    let help = format!("at most {FILE_BYTES_MAX} bytes are read; is this the right file?");
    Err(Problems::of_file(file, Fault::new("is too large", help)))
}

fn place(file: &Path, text: &[u8], offset: usize, path: String, fault: Fault) -> Problem {
    let (line, column) = position(text, offset);
    Problem {
        file: file.to_owned(),
        line,
        column,
        path,
        message: fault.message,
        help: fault.help,
    }
}
