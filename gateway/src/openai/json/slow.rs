//! Splits JSON by serde_json: whatever stands in it, and with words for what is wrong with it.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Fields, Text};

/// The fields of the object `text`, so many at most.
///
/// # Errors
/// Of data where there are more, of syntax otherwise.
pub(super) fn fields(text: &str, max: usize) -> Result<Fields<'_>, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let fields = FieldsAtMost(max).deserialize(&mut reader)?;
    reader.end()?;
    Ok(fields)
}

/// The elements of the array `text`, so many at most.
///
/// # Errors
/// As [`fields`].
pub(super) fn array(text: &str, max: usize) -> Result<Vec<&str>, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let each = || PhantomData::<&RawValue>;
    let elements = Several { max, each }.deserialize(&mut reader)?;
    Ok(elements.into_iter().map(RawValue::get).collect())
}

/// The fields of every object in the array `text`, found in one pass; `None` where it is anything else, or has more than `max`
/// elements or one of them more than `fields_max` fields.
pub(super) fn objects(text: &str, max: usize, fields_max: usize) -> Option<Vec<Fields<'_>>> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let each = || FieldsAtMost(fields_max);
    Several { max, each }.deserialize(&mut reader).ok()
}

struct FieldsAtMost(usize);

impl<'de> DeserializeSeed<'de> for FieldsAtMost {
    type Value = Fields<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FieldsAtMost {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::with_capacity(16);
        while let Some((Text(name), raw)) = map.next_entry::<_, &RawValue>()? {
            if fields.len() == self.0 {
                return Err(A::Error::custom("too many fields"));
            }
            fields.push((name, raw.get()));
        }
        Ok(fields)
    }
}

/// The elements of an array, so many at most, each read by what `each` makes.
struct Several<F> {
    max: usize,
    each: F,
}

impl<'de, F, S> DeserializeSeed<'de> for Several<F>
where
    F: Fn() -> S,
    S: DeserializeSeed<'de>,
{
    type Value = Vec<S::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, F, S> Visitor<'de> for Several<F>
where
    F: Fn() -> S,
    S: DeserializeSeed<'de>,
{
    type Value = Vec<S::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = array.next_element_seed((self.each)())? {
            if elements.len() == self.max {
                return Err(A::Error::custom("too many elements"));
            }
            elements.push(element);
        }
        Ok(elements)
    }
}
