//! Whole numbers with a unit: the range a key allows, and sizes as people write them.
//!
//! Durations stay plain integers in the unit that ends their key's name (`_ms`, `_us`), so only
//! sizes have a text form.

use std::fmt;

/// The whole numbers that a key allows, both ends included, and what they count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Smallest allowed number.
    pub min: u64,
    /// Largest allowed number.
    pub max: u64,
    /// What is counted, in the plural: `"milliseconds"`.
    pub unit: &'static str,
}

impl Range {
    /// The range from `min` to `max` of `unit`.
    pub const fn new(min: u64, max: u64, unit: &'static str) -> Self {
        Self { min, max, unit }
    }

    /// Whether `number` lies inside.
    pub const fn holds(self, number: u64) -> bool {
        self.min <= number && number <= self.max
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {} {}", self.min, self.max, self.unit)
    }
}

/// Binary units only: a config that says `GB` leaves open which of two numbers is meant.
const SIZE_UNITS: [(&str, u64); 5] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// The bytes that a size such as `"256MiB"` stands for; `None` where it is not a whole number and
/// one of `B`, `KiB`, `MiB`, `GiB`, `TiB`, or does not fit.
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = SIZE_UNITS.iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// The shortest exact text of a size: `268435456` gives `"256MiB"`.
pub fn show_size(bytes: u64) -> String {
    let (unit, factor) = SIZE_UNITS
        .into_iter()
        .rev()
        .find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor))
        .unwrap_or(SIZE_UNITS[0]);
    format!("{}{unit}", bytes / factor)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_have_one_meaning_or_none() {
        let cases = [
            ("256MiB", Some(256 << 20)),
            ("1 GiB", Some(1 << 30)),
            ("0B", Some(0)),
            ("16777216TiB", None),
            ("256MB", None),
            ("256", None),
            ("1.5GiB", None),
            ("-1MiB", None),
            ("MiB", None),
            ("", None),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), bytes, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn shown_sizes_read_back(bytes: u64) {
            prop_assert_eq!(parse_size(&show_size(bytes)), Some(bytes));
        }
    }
}
