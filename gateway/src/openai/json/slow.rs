//! Splits JSON by serde_json: whatever stands in it, and with words for what is wrong with it.

use std::fmt;

use serde::de::{Deserializer as _, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Fields, Unescaped};

/// The fields of the object `text`, so many at most.
///
/// # Errors
/// Of data where there are more, of syntax otherwise.
pub(super) fn fields(text: &str, max: usize) -> Result<Fields<'_>, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let fields = reader.deserialize_map(FieldsAtMost(max))?;
    reader.end()?;
    Ok(fields)
}

/// The elements of the array `text`, so many at most.
///
/// # Errors
/// As [`fields`].
pub(super) fn array(text: &str, max: usize) -> Result<Vec<&str>, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let elements = reader.deserialize_seq(ElementsAtMost(max))?;
    Ok(elements.into_iter().map(RawValue::get).collect())
}

/// The fields of an object with their raw values, so many at most.
struct FieldsAtMost(usize);

impl<'de> Visitor<'de> for FieldsAtMost {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::with_capacity(16);
        while let Some((Unescaped(name), raw)) = map.next_entry::<_, &RawValue>()? {
            if fields.len() == self.0 {
                return Err(A::Error::custom("too many fields"));
            }
            fields.push((name, raw.get()));
        }
        Ok(fields)
    }
}

/// The raw elements of an array, so many at most.
struct ElementsAtMost(usize);

impl<'de> Visitor<'de> for ElementsAtMost {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = array.next_element()? {
            if elements.len() == self.0 {
                return Err(A::Error::custom("too many elements"));
            }
            elements.push(element);
        }
        Ok(elements)
    }
}
