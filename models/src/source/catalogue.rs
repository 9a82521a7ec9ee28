//! The models that are known by name, out of the pinned file `catalogue.toml`.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde::Deserialize;

/// A model that is known by name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What a user writes, and the model's id in the API.
    pub name: String,
    /// One line for people.
    pub about: String,
    /// Name in the cache folder: of a file, or of a folder where the parts name files.
    pub file: String,
    /// Size of the file, or of all files together.
    pub bytes: u64,
    /// SHA-256 of the file, or of all files one behind the other; 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Licence of the weights, an SPDX expression.
    pub licence: String,
    /// The Python packages that carry it: one, or several whose files are put one behind the other, or one beside the other
    /// in a folder.
    #[serde(rename = "part")]
    pub parts: Vec<Part>,
}

/// A Python package that carries a model, or a piece of one that is too large for one package.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The package, as `name==version`.
    pub package: String,
    /// Size of the wheel; only the progress bar relies on it.
    pub package_bytes: u64,
    /// Name of the file inside of the wheel.
    pub member: String,
    /// Size of that file.
    pub bytes: u64,
    /// Where it lies in the model's folder; `None` where the model is one file.
    pub file: Option<String>,
}

impl Entry {
    /// The files of the model, in the order in which they are hashed, where the model lies at `path`.
    pub(super) fn files(&self, path: &Path) -> Vec<PathBuf> {
        let inside = self.parts.iter().filter_map(|part| part.file.as_ref());
        let files: Vec<PathBuf> = inside.map(|file| path.join(file)).collect();
        if files.is_empty() {
            vec![path.to_owned()]
        } else {
            files
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Catalogue {
    model: Vec<Entry>,
}

/// All models that are known by name, the default one first.
#[must_use]
pub fn catalogue() -> &'static [Entry] {
    #[expect(
        clippy::expect_used,
        reason = "the text is part of the program and a test parses it"
    )]
    static ENTRIES: LazyLock<Vec<Entry>> = LazyLock::new(|| {
        toml::from_str::<Catalogue>(include_str!("../catalogue.toml"))
            .expect("catalogue.toml is valid")
            .model
    });
    &ENTRIES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::cache::is_safe_name;

    #[test]
    fn every_entry_is_pinned_and_its_names_are_plain() {
        assert_eq!(catalogue()[0].name, "smollm2-135m-instruct");
        for entry in catalogue() {
            assert!(
                is_safe_name(&entry.name) && is_safe_name(&entry.file),
                "{entry:?}"
            );
            assert!(
                !entry.name.ends_with(".gguf") && !entry.name.contains(':'),
                "{entry:?}"
            );
            assert_eq!(entry.sha256.len(), 64);
            assert!(
                entry
                    .sha256
                    .bytes()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            );
            assert!(!entry.parts.is_empty());
            for part in &entry.parts {
                assert!(part.package.contains("=="), "{entry:?} floats");
                assert!(part.bytes > 0 && part.package_bytes > 0);
                let names = part.file.iter().flat_map(|file| file.split('/'));
                assert!(names.into_iter().all(is_safe_name), "{entry:?}");
                let is_folder = entry.parts[0].file.is_some();
                assert_eq!(part.file.is_some(), is_folder, "{entry:?} is both");
            }
            let bytes: u64 = entry.parts.iter().map(|part| part.bytes).sum();
            assert_eq!(bytes, entry.bytes, "{entry:?}");
        }
    }
}
