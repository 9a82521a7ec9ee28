//! What can be wrong with one field of a request: OpenAI's code for it and the words that say what to do.
//!
//! It must not know HTTP (`error.rs` does) nor which fields there are (`fields.rs` does).

use std::fmt;

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ParamFault {
    /// It is required.
    Missing,
    /// It is of another JSON type.
    Type {
        expected: &'static str,
        got: &'static str,
    },
    /// It is outside of what it may be; the text completes "expected ...".
    Value { expected: String },
    /// A string that holds an escape which is no character.
    Text,
    /// An array without elements.
    EmptyArray,
    /// An array with too many elements, or an object with too many fields.
    TooMany { max: usize },
    /// A string with too many bytes.
    TooLong { max_bytes: usize },
    /// It stands there twice.
    Duplicate,
    /// Nobody knows it.
    Unknown { meant: Option<&'static str> },
    /// OpenAI knows it, we do not yet.
    Unsupported,
    /// OpenAI has replaced it.
    Former { by: &'static str },
    /// OpenAI knows the value, we do not yet; the text completes "supports only ...".
    UnsupportedValue { supported: String },
    /// It contradicts another field.
    Conflict { with: &'static str },
    /// It makes sense only beside another setting; the text completes "is allowed only ...".
    OnlyWith { condition: &'static str },
}

impl ParamFault {
    pub(super) const fn code(&self) -> &'static str {
        match self {
            Self::Missing => "missing_required_parameter",
            Self::Type { .. } => "invalid_type",
            Self::Value { .. } | Self::Text => "invalid_value",
            Self::EmptyArray => "empty_array",
            Self::TooMany { .. } => "array_above_max_length",
            Self::TooLong { .. } => "string_above_max_length",
            Self::Duplicate => "duplicate_parameter",
            Self::Unknown { .. } => "unknown_parameter",
            Self::Unsupported | Self::Former { .. } => "unsupported_parameter",
            Self::UnsupportedValue { .. } => "unsupported_value",
            Self::Conflict { .. } | Self::OnlyWith { .. } => "invalid_parameter_combination",
        }
    }

    /// Writes the fault of the field `param` as a sentence.
    pub(super) fn explain(&self, param: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "Missing required parameter: '{param}'."),
            Self::Type { expected, got } => write!(
                f,
                "Invalid type for '{param}': expected {expected}, but got {got} instead."
            ),
            Self::Value { expected } => {
                write!(f, "Invalid value for '{param}': expected {expected}.")
            }
            Self::Text => write!(
                f,
                "Invalid value for '{param}': the string holds an escape that is not a Unicode character."
            ),
            Self::EmptyArray => write!(
                f,
                "Invalid '{param}': empty array. Expected at least one element."
            ),
            Self::TooMany { max } => {
                write!(
                    f,
                    "Invalid '{param}': too long. Expected at most {max} elements."
                )
            }
            Self::TooLong { max_bytes } => {
                write!(
                    f,
                    "Invalid '{param}': too long. Expected at most {max_bytes} bytes."
                )
            }
            Self::Duplicate => write!(f, "Duplicate parameter: '{param}' is given twice."),
            Self::Unknown { meant: Some(meant) } => {
                write!(f, "Unknown parameter: '{param}'. Did you mean '{meant}'?")
            }
            Self::Unknown { meant: None } => write!(f, "Unknown parameter: '{param}'."),
            Self::Unsupported => write!(
                f,
                "Unsupported parameter: '{param}' is not supported by this server; leave it out."
            ),
            Self::Former { by } => write!(
                f,
                "Unsupported parameter: '{param}' was replaced by '{by}'; use that instead."
            ),
            Self::UnsupportedValue { supported } => write!(
                f,
                "Unsupported value: '{param}' supports only {supported} on this server."
            ),
            Self::Conflict { with } => {
                write!(f, "'{param}' contradicts '{with}'; give only one of them.")
            }
            Self::OnlyWith { condition } => write!(f, "'{param}' is allowed only {condition}."),
        }
    }
}
