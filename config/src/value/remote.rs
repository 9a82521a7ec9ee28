//! Values of `[[node]]`, `[[site]]` and `[peer]`: URLs, names of models, places of files and secrets.

use std::path::PathBuf;

use toml::de::DeValue;

use super::{id, string, wrong_type};
use crate::limits;
use crate::problems::{Fault, quote};
use crate::schema::ModelName;
use crate::secret::SecretSource;

/// `true` or `false`.
pub(super) fn flag(value: &DeValue<'_>) -> Result<bool, Fault> {
    let help = "write true or false, without quotes";
    value
        .as_bool()
        .ok_or_else(|| wrong_type(value, "true or false", help))
}

/// An array of at most `max` values, each read by `one`.
pub(super) fn list<T>(
    value: &DeValue<'_>,
    max: usize,
    one: impl Fn(&DeValue<'_>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    let Some(items) = value.as_array() else {
        let help = "write names in quotes between brackets, as in [\"one\", \"two\"]";
        return Err(wrong_type(value, "an array", help));
    };
    if items.len() > max {
        let help = format!("at most {max} are allowed");
        return Err(Fault::new("has too many entries", help));
    }
    items.iter().map(|item| one(item.get_ref())).collect()
}

/// `"NAME"`, or `"NAME = THEIRS"`; names hold no spaces.
pub(super) fn model_name(value: &DeValue<'_>) -> Result<ModelName, Fault> {
    let help = "a model's name, or \"NAME = THEIRS\" where it has another name there";
    let text = string(value, "a name in quotes", help)?;
    let (ours, theirs) = text.split_once(" = ").unwrap_or((text, text));
    let name = |name: &str| id(&DeValue::String(name.trim().to_owned().into()));
    Ok(ModelName {
        ours: name(ours)?,
        theirs: name(theirs)?,
    })
}

/// A line of text.
pub(super) fn line(value: &DeValue<'_>) -> Result<String, Fault> {
    let help = format!(
        "one line of 1 to {} bytes in quotes",
        limits::JOB_LINE_BYTES_MAX
    );
    let text = string(value, "a line in quotes", &help)?;
    let unusable = text.trim().is_empty()
        || text.len() > limits::JOB_LINE_BYTES_MAX
        || text.chars().any(char::is_control);
    match unusable {
        true => Err(Fault::new(format!("{} is no line", quote(text)), help)),
        false => Ok(text.to_owned()),
    }
}

/// A path.
pub(super) fn path(value: &DeValue<'_>) -> Result<PathBuf, Fault> {
    let help = "the path of a file, as in \"/etc/hansa/ca.pem\"";
    let text = string(value, "a path in quotes", help)?;
    let unusable = text.trim().is_empty()
        || text.len() > limits::SOURCE_BYTES_MAX
        || text.chars().any(char::is_control);
    match unusable {
        true => Err(Fault::new(format!("{} is no path", quote(text)), help)),
        false => Ok(text.into()),
    }
}

/// Where a secret lies. What stands here by mistake may be the secret itself, so it is not repeated.
pub(super) fn secret(value: &DeValue<'_>) -> Result<SecretSource, Fault> {
    let help = "the path of a file that holds the secret, or env:NAME";
    let text = string(value, "a path or env:NAME in quotes", help)?;
    SecretSource::parse(text)
        .filter(|_| text.len() <= limits::SOURCE_BYTES_MAX)
        .ok_or_else(|| Fault::new("is neither a path nor env:NAME", help))
}

/// A URL without user, query or fragment; without its last slash.
pub(super) fn url(value: &DeValue<'_>) -> Result<String, Fault> {
    let help = "http:// or https://, a host, perhaps a port and a path, as in \"http://10.0.0.7:8080\"; keys belong \
                into key_file";
    let text = string(value, "a URL in quotes", help)?;
    // A URL with a password in it must not be repeated.
    match is_url(text) {
        true => Ok(text.trim_end_matches('/').to_owned()),
        false => Err(Fault::new("is no URL of a server", help)),
    }
}

fn is_url(text: &str) -> bool {
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"));
    let Some(rest) = rest else {
        return false;
    };
    let (authority, _) = rest.split_once('/').unwrap_or((rest, ""));
    let plain = rest.bytes().all(|byte| byte.is_ascii_graphic());
    let bare = !rest.contains(['@', '?', '#', '\\', '"', '<', '>']);
    text.len() <= limits::URL_BYTES_MAX && plain && bare && is_authority(authority)
}

/// A name or address, and perhaps a port.
fn is_authority(authority: &str) -> bool {
    let after_host = match authority.strip_prefix('[') {
        Some(inside) => inside.split_once(']').and_then(|(address, rest)| {
            let sound = address.parse::<std::net::Ipv6Addr>().is_ok();
            sound.then_some(rest)
        }),
        None => {
            let end = authority.find(':').unwrap_or(authority.len());
            (end > 0).then(|| &authority[end..])
        }
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    after_host.is_some_and(|rest| rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_server_and_nothing_else() {
        for good in [
            "http://127.0.0.1:8080",
            "https://vllm.example/base/",
            "http://[::1]:80",
            "http://node-7",
        ] {
            assert!(is_url(good), "{good}");
        }
        for bad in [
            "127.0.0.1:8080",
            "ftp://a",
            "http://",
            "http://:80",
            "http://a:0",
            "http://a:99999",
            "http://user:pass@a",
            "http://a?x=1",
            "http://a/b#c",
            "http://a b",
            "http://[::1",
            "http://é",
        ] {
            assert!(!is_url(bad), "{bad}");
        }
    }
}
