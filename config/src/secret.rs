//! Secrets: where they lie, and a type that nobody prints by mistake.
//!
//! A config file holds only the place of a secret, a file or a variable of the environment, so that the config itself can
//! be shown, mailed and kept under version control.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use crate::limits::SECRET_BYTES_MAX;

/// Where a secret lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// In a file, without its last line ending.
    File(PathBuf),
    /// In a variable of the environment.
    Env(String),
}

/// A secret. It has no text form but the one that [`Secret::expose`] gives.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("{place}: {error}; name a readable file")]
    Unreadable {
        /// Where it should lie.
        place: SecretSource,
        /// What the system says.
        error: std::io::Error,
    },
    /// The variable is not set.
    #[error("{0} is not set; set it in the server's environment")]
    Unset(SecretSource),
    /// What lies there is none.
    #[error(
        "{0} holds no secret: it must be one line of 1 to {SECRET_BYTES_MAX} visible ASCII characters"
    )]
    Malformed(SecretSource),
}

impl SecretSource {
    /// The place that `text` names: `env:NAME`, or the path of a file.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix("env:") {
            Some(name) => is_variable(name).then(|| Self::Env(name.to_owned())),
            None if text.trim().is_empty() || text.chars().any(char::is_control) => None,
            None => Some(Self::File(text.into())),
        }
    }

    /// Fetches the secret.
    ///
    /// # Errors
    /// [`SecretError`], which names the place and never what lies there.
    pub fn read(&self) -> Result<Secret, SecretError> {
        let text = match self {
            Self::File(path) => read_file(path).map_err(|error| SecretError::Unreadable {
                place: self.clone(),
                error,
            })?,
            Self::Env(name) => std::env::var(name).map_err(|_| SecretError::Unset(self.clone()))?,
        };
        let text = text.trim_end_matches(['\r', '\n']);
        let sound = (1..=SECRET_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        match sound {
            true => Ok(Secret(text.to_owned())),
            false => Err(SecretError::Malformed(self.clone())),
        }
    }
}

fn is_variable(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty() && name.bytes().all(allowed)
}

fn read_file(path: &PathBuf) -> std::io::Result<String> {
    let mut text = String::new();
    // One byte beyond the bound and a line ending tells that it is too long.
    let most = SECRET_BYTES_MAX as u64 + 3;
    File::open(path)?.take(most).read_to_string(&mut text)?;
    Ok(text)
}

impl Secret {
    /// The secret's text, for whoever sends or compares it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Env(name) => write!(f, "env:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_one_visible_line_and_never_shown() {
        let folder = std::env::temp_dir().join(format!("hansa-secret-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("key");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            SecretSource::File(path.clone()).read()
        };
        let secret = read("s3cret\n").unwrap();
        assert_eq!(secret.expose(), "s3cret");
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        for text in [
            "",
            "\n",
            "two\nlines",
            "a b",
            "é",
            &"x".repeat(SECRET_BYTES_MAX + 1),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("holds no secret"), "{error}");
            assert!(text.len() < 3 || !error.contains(text), "{error}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
        let error = SecretSource::File(path).read().unwrap_err();
        assert!(matches!(error, SecretError::Unreadable { .. }), "{error}");
    }

    #[test]
    fn a_place_is_a_path_or_a_variable() {
        let env = |name: &str| Some(SecretSource::Env(name.to_owned()));
        assert_eq!(SecretSource::parse("env:VLLM_KEY"), env("VLLM_KEY"));
        assert_eq!(SecretSource::parse("env:"), None);
        assert_eq!(SecretSource::parse("env:A B"), None);
        assert_eq!(SecretSource::parse(" "), None);
        let file = SecretSource::File("/run/key".into());
        assert_eq!(SecretSource::parse("/run/key"), Some(file));
    }
}
