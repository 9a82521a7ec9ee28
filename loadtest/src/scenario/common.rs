//! What the scenarios of loads and of simulations have in common: the file, `[trace]` and `[prefix]`.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::read::{Document, Section};
use crate::limits::{MAX_PREFIXES, MAX_SCENARIO_BYTES, MAX_TOKENS};
use crate::problems::Problems;
use crate::trace::{Cut, Format, Trace};
use crate::workload::Prefix;

/// The text of a scenario file.
///
/// # Errors
/// It cannot be read, or is too large.
pub(crate) fn text(path: &Path) -> Result<String, Problems> {
    let unreadable =
        |error: std::io::Error| Problems::one(path, format!("cannot be read: {error}"));
    if fs::metadata(path).map_err(unreadable)?.len() > MAX_SCENARIO_BYTES {
        let what = format!("has more than {MAX_SCENARIO_BYTES} bytes");
        return Err(Problems::one(path, what));
    }
    fs::read_to_string(path).map_err(unreadable)
}

/// What `read` makes of the text; it is given the document, and the folder in which the document's files are looked for.
///
/// # Errors
/// Every problem of the text at once, and those of a file that it names, which are the errors of `read`.
pub(crate) fn parse<T>(
    path: &Path,
    text: &str,
    read: impl FnOnce(&Section<'_, '_>, &Path) -> Result<Option<T>, Problems>,
) -> Result<T, Problems> {
    let document = Document::new(path, text);
    let table = document.parse();
    if !document.is_sound() {
        // Behind a syntax error, keys may have landed in the wrong section.
        let problems = document.into_problems();
        return problems.or(()).and(Err(Problems::new(path)));
    }
    let root = document.root(table.get_ref());
    let made = read(&root, path.parent().unwrap_or(Path::new("")));
    root.finish();
    match (document.into_problems().or(()), made) {
        (Ok(()), Ok(Some(made))) => Ok(made),
        (Ok(()), Ok(None)) => Err(Problems::one(path, "cannot be followed")),
        (Ok(()), Err(in_file)) => Err(in_file),
        (Err(own), Ok(_)) => Err(own),
        (Err(own), Err(in_file)) => Err(own.with(in_file)),
    }
}

/// `[trace]`: a recorded load; its file is looked for in `folder`.
///
/// # Errors
/// Those of the recorded load's own file.
pub(crate) fn trace(root: &Section<'_, '_>, folder: &Path) -> Result<Option<Arc<Trace>>, Problems> {
    let section = root.section("trace");
    let file = section.text("file");
    let format = section.choice::<Format>("format");
    let limit = section.whole("limit", 1..=i64::MAX);
    let cut = Cut {
        time_scale: section.number("time_scale", 1e-6..=1e6).unwrap_or(1.0),
        limit: limit.map_or(usize::MAX, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX)
        }),
    };
    if section.is_given() && (!section.peek("file") || !section.peek("format")) {
        section.fault("needs a file and its format");
    }
    section.finish();
    match (file, format) {
        (Some(file), Some(format)) => {
            Trace::load(&folder.join(file), format, cut).map(|trace| Some(Arc::new(trace)))
        }
        _ => Ok(None),
    }
}

/// `[prefix]`: beginnings that prompts share.
pub(crate) fn prefix(root: &Section<'_, '_>) -> Option<Prefix> {
    let section = root.section("prefix");
    let count = |key, most: u32| {
        let read = section.whole(key, 1..=i64::from(most));
        read.and_then(|count| u32::try_from(count).ok())
    };
    let tokens = count("tokens", MAX_TOKENS);
    let distinct = count("count", MAX_PREFIXES).unwrap_or(1);
    let share = section.number("share", 0.0..=1.0).unwrap_or(1.0);
    if section.is_given() && !section.peek("tokens") {
        section.fault("needs tokens");
    }
    section.finish();
    Some(Prefix {
        tokens: tokens?,
        share,
        count: distinct,
    })
}
