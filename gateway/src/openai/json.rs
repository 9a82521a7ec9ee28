//! A request's JSON, read strictly and without building a tree.
//!
//! The body is split into raw pieces, one level at a time, and each piece is read where its field is known. So every
//! error names the exact field (`messages[0].content`), memory stays in proportion to the body whatever it nests, and
//! depth needs no bound: the splitter does not recurse, and nothing is read deeper than our own types. Most is split by
//! `scan.rs`; what that does not take, `slow.rs` reads, and says what is wrong with it. It must not know which fields
//! there are.

mod scan;
mod slow;

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::error::ApiError;
use super::fault::ParamFault;
use crate::limits;
use crate::upstream::Text;

/// Reads a whole body, which must be one object.
pub(super) fn parse(body: &[u8]) -> Result<Object<'_, 'static>, ApiError> {
    let text = object_text(body)?;
    object(fields(text, limits::JSON_FIELDS_MAX))
}

/// The same, and in the same pass the fields of each object in the body's array `list`, of at most `max`; without these where
/// the array is anything else: [`Node::array`] and [`Node::object`] say what is wrong with it.
pub(super) fn parse_with<'a>(
    body: &'a [u8],
    list: &str,
    max: usize,
) -> Result<(Object<'a, 'static>, Option<Vec<Fields<'a>>>), ApiError> {
    let text = object_text(body)?;
    let fields_max = limits::JSON_FIELDS_MAX;
    let list = scan::List {
        name: list,
        max,
        fields_max,
    };
    match scan::object_with(text, fields_max, list) {
        Some((fields, listed)) => Ok((object(Ok(fields))?, listed)),
        None => Ok((object(slow::fields(text, fields_max))?, None)),
    }
}

/// A body's text, which begins an object.
fn object_text(body: &[u8]) -> Result<&str, ApiError> {
    let text = simdutf8::basic::from_utf8(body).map_err(|_| ApiError::not_utf8())?;
    match text.trim_ascii_start().bytes().next() {
        None => Err(ApiError::empty_body()),
        Some(b'{') => Ok(text),
        // Is it at least JSON? What is not should be told where.
        Some(_) => {
            let syntax = serde_json::from_str::<IgnoredAny>(text).err();
            Err(syntax.map_or_else(ApiError::not_an_object, |error| malformed(&error)))
        }
    }
}

/// A body of these fields.
fn object(fields: Result<Fields<'_>, serde_json::Error>) -> Result<Object<'_, 'static>, ApiError> {
    match fields {
        Ok(fields) => Object::new(fields, Path::Root),
        Err(error) if error.is_data() => {
            let max = limits::JSON_FIELDS_MAX;
            Err(ApiError::param("body", ParamFault::TooMany { max }))
        }
        Err(error) => Err(malformed(&error)),
    }
}

/// Errors of syntax are fixed words with line and column; those of data, which quote the text, never come here.
fn malformed(error: &serde_json::Error) -> ApiError {
    ApiError::json(error.to_string())
}

/// The fields of an object in their order; no name stands there twice.
#[derive(Debug)]
pub(super) struct Object<'a, 'p> {
    fields: Fields<'a>,
    at: Path<'p>,
}

impl<'a, 'p> Object<'a, 'p> {
    pub(super) fn new(fields: Fields<'a>, at: Path<'p>) -> Result<Self, ApiError> {
        // The body may be forwarded as it came, and two readers may disagree on which of two values counts.
        for (index, (name, _)) in fields.iter().enumerate() {
            if fields[..index].iter().any(|(earlier, _)| earlier == name) {
                return Err(ApiError::param(at.field(name), ParamFault::Duplicate));
            }
        }
        Ok(Self { fields, at })
    }

    /// The field `name`; one that is null counts as absent.
    pub(super) fn get(&self, name: &str) -> Option<Node<'a, '_>> {
        self.nodes()
            .find(|(field, _)| *field == name)
            .map(|(_, node)| node)
    }

    /// The field `name`, which must be there.
    pub(super) fn require(&self, name: &'static str) -> Result<Node<'a, '_>, ApiError> {
        self.get(name)
            .ok_or_else(|| self.fault(name, ParamFault::Missing))
    }

    /// Every field that is not null.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (&str, Node<'a, '_>)> {
        let present = self.fields.iter().filter(|(_, raw)| *raw != "null");
        present.map(|(name, raw)| (&**name, Node::new(raw, self.at.field(name))))
    }

    /// Every field with its value, as they were written.
    pub(super) fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(name, raw)| (&**name, *raw))
    }

    /// An error at the field `name`.
    pub(super) fn fault(&self, name: &str, fault: ParamFault) -> ApiError {
        ApiError::param(self.at.field(name), fault)
    }
}

/// A value and where it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node<'a, 'p> {
    raw: &'a str,
    at: Path<'p>,
}

impl<'a, 'p> Node<'a, 'p> {
    pub(super) const fn new(raw: &'a str, at: Path<'p>) -> Self {
        Self { raw, at }
    }

    /// A string.
    pub(super) fn string(&self) -> Result<Cow<'a, str>, ApiError> {
        self.must_be(&[Kind::String], "a string")?;
        let raw = self.raw;
        if memchr::memchr(b'\\', raw.as_bytes()).is_none() {
            // Without escapes it is what stands between the quotes: its syntax was checked with the whole body's.
            let text = raw.get(1..raw.len().saturating_sub(1));
            return text
                .map(Cow::Borrowed)
                .ok_or_else(|| self.fault(ParamFault::Text));
        }
        let text: Result<Unescaped<'a>, _> = serde_json::from_str(raw);
        text.map(|Unescaped(text)| text)
            .map_err(|_| self.fault(ParamFault::Text))
    }

    /// A string of `body` that is read later, if at all.
    pub(super) fn text_within(&self, body: &Bytes) -> Result<Text, ApiError> {
        self.must_be(&[Kind::String], "a string")?;
        // Only these escapes can name what is no character: half a surrogate pair.
        let raw = self.raw.as_bytes();
        let escaped = memchr::memchr(b'\\', raw).and_then(|at| raw.get(at..));
        if escaped.is_some_and(|rest| memchr::memmem::find(rest, b"\\u").is_some()) {
            self.string()?;
        }
        Text::within(body, self.raw).ok_or_else(|| self.fault(ParamFault::Text))
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Result<bool, ApiError> {
        self.must_be(&[Kind::Boolean], "a boolean")?;
        Ok(self.raw == "true")
    }

    /// A whole number within `range`.
    pub(super) fn integer(&self, range: RangeInclusive<i128>) -> Result<i128, ApiError> {
        self.must_be(&[Kind::Integer], "an integer")?;
        let (min, max) = range.clone().into_inner();
        // Digits beyond even 128 bits fail to parse, and are out of any range.
        let number = self
            .raw
            .parse()
            .ok()
            .filter(|number| range.contains(number));
        number.ok_or_else(|| self.value_fault(format!("an integer from {min} to {max}")))
    }

    /// A number within `range`; one too large for a float is infinite there, and so out of any range.
    pub(super) fn decimal(&self, range: RangeInclusive<f32>) -> Result<f32, ApiError> {
        self.must_be(&[Kind::Integer, Kind::Decimal], "a number")?;
        let (min, max) = range.clone().into_inner();
        let number = self
            .raw
            .parse()
            .ok()
            .filter(|number| range.contains(number));
        number.ok_or_else(|| self.value_fault(format!("a number from {min} to {max}")))
    }

    /// An array of at least one token id.
    pub(super) fn token_ids(&self) -> Result<Vec<u32>, ApiError> {
        self.must_be(&[Kind::Array], "an array of token ids")?;
        match serde_json::from_str::<Vec<u32>>(self.raw) {
            Ok(ids) if ids.is_empty() => Err(self.fault(ParamFault::EmptyArray)),
            Ok(ids) => Ok(ids),
            Err(_) => Err(self.value_fault("an array of token ids, integers from 0 on".to_owned())),
        }
    }

    /// The raw elements of an array that has at least one and at most `max` of them.
    pub(super) fn array(&self, max: usize) -> Result<Vec<&'a str>, ApiError> {
        self.must_be(&[Kind::Array], "an array")?;
        let elements = match scan::array(self.raw, max) {
            Some(elements) => Ok(elements),
            None => slow::array(self.raw, max),
        };
        match elements {
            Ok(elements) if elements.is_empty() => Err(self.fault(ParamFault::EmptyArray)),
            Ok(elements) => Ok(elements),
            // Its syntax was checked with the whole body's.
            Err(_) => Err(self.fault(ParamFault::TooMany { max })),
        }
    }

    /// An object.
    pub(super) fn object(&self) -> Result<Object<'a, 'p>, ApiError> {
        self.object_of(limits::JSON_FIELDS_MAX)
    }

    /// An object with at most `max` fields, which is also what its reading takes time for.
    pub(super) fn object_of(&self, max: usize) -> Result<Object<'a, 'p>, ApiError> {
        self.must_be(&[Kind::Object], "an object")?;
        match fields(self.raw, max) {
            Ok(fields) => Object::new(fields, self.at),
            Err(error) if error.is_data() => Err(self.fault(ParamFault::TooMany { max })),
            Err(_) => Err(self.fault(ParamFault::Text)),
        }
    }

    /// Whether the value equals one of these JSON texts. Numbers are equal by value: 0 and 0.0 are.
    pub(super) fn is_one_of(&self, texts: &[&str]) -> bool {
        let text = self.raw;
        text.len() <= limits::JSON_NEUTRAL_BYTES_MAX
            && texts.iter().any(|neutral| same_json(text, neutral))
    }

    /// The value as it was written.
    pub(super) fn text(&self) -> &'a str {
        self.raw
    }

    /// The JSON type of the value.
    pub(super) fn kind(&self) -> Kind {
        Kind::of(self.raw)
    }

    /// The JSON type of an array's first element.
    pub(super) fn first_kind(&self) -> Option<Kind> {
        let inside = self.raw.strip_prefix('[')?.trim_ascii_start();
        (!inside.starts_with(']')).then(|| Kind::of(inside))
    }

    /// An error here.
    pub(super) fn fault(&self, fault: ParamFault) -> ApiError {
        ApiError::param(self.at, fault)
    }

    /// An error of the value's type; `expected` completes "expected ...".
    pub(super) fn type_fault(&self, expected: &'static str) -> ApiError {
        let got = self.kind().name();
        self.fault(ParamFault::Type { expected, got })
    }

    /// An error of the value; `expected` completes "expected ...".
    pub(super) fn value_fault(&self, expected: String) -> ApiError {
        self.fault(ParamFault::Value { expected })
    }

    /// Where the value stands.
    pub(super) const fn at(&self) -> Path<'p> {
        self.at
    }

    fn must_be(&self, kinds: &[Kind], expected: &'static str) -> Result<(), ApiError> {
        if kinds.contains(&self.kind()) {
            Ok(())
        } else {
            Err(self.type_fault(expected))
        }
    }
}

fn same_json(left: &str, right: &str) -> bool {
    let parsed = |text| serde_json::from_str::<Value>(text).ok();
    let (left, right) = (parsed(left), parsed(right));
    let number = |value: &Option<Value>| value.as_ref().and_then(Value::as_f64);
    match (number(&left), number(&right)) {
        (Some(left), Some(right)) => left == right,
        _ => left.is_some() && left == right,
    }
}

/// Types of JSON, with whole numbers apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Boolean,
    Integer,
    Decimal,
    String,
    Array,
    Object,
}

impl Kind {
    /// The type of a valid JSON text, told by its start.
    fn of(text: &str) -> Self {
        match text.as_bytes().first() {
            Some(b'n') | None => Self::Null,
            Some(b't' | b'f') => Self::Boolean,
            Some(b'"') => Self::String,
            Some(b'[') => Self::Array,
            Some(b'{') => Self::Object,
            Some(_) if text.contains(['.', 'e', 'E']) => Self::Decimal,
            Some(_) => Self::Integer,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean => "a boolean",
            Self::Integer => "an integer",
            Self::Decimal => "a decimal number",
            Self::String => "a string",
            Self::Array => "an array",
            Self::Object => "an object",
        }
    }
}

/// Where a value stands; written as `messages[0].content`, and only when an error needs it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Path<'p> {
    Root,
    Field(&'p Self, &'p str),
    Index(&'p Self, usize),
}

impl Path<'_> {
    pub(super) const fn field<'s>(&'s self, name: &'s str) -> Path<'s> {
        Path::Field(self, name)
    }

    pub(super) const fn index(&self, index: usize) -> Path<'_> {
        Path::Index(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Path::Root, name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// A string, borrowed unless it holds escapes.
#[derive(Deserialize)]
struct Unescaped<'a>(#[serde(borrow)] Cow<'a, str>);

/// An object's fields as they come, so many at most.
pub(super) type Fields<'a> = Vec<(Cow<'a, str>, &'a str)>;

/// The fields of the object `text`, so many at most.
fn fields(text: &str, max: usize) -> Result<Fields<'_>, serde_json::Error> {
    match scan::object(text, max) {
        Some(fields) => Ok(fields),
        None => slow::fields(text, max),
    }
}
