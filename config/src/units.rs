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

/// Seconds since the epoch at a date's midnight in UTC, or at a time with its zone; `None` for a time without one, or
/// without a date.
pub(crate) fn unix_s(moment: &toml::value::Datetime) -> Option<i64> {
    let date = moment.date?;
    let days = days_from_civil(date.year.into(), date.month.into(), date.day.into());
    let Some(time) = moment.time else {
        return Some(days * 86_400);
    };
    let east_minutes = match moment.offset? {
        toml::value::Offset::Z => 0,
        toml::value::Offset::Custom { minutes } => i64::from(minutes),
    };
    let (hour, minute) = (i64::from(time.hour), i64::from(time.minute));
    let second = time.second.map_or(0, i64::from);
    Some(days * 86_400 + hour * 3_600 + (minute - east_minutes) * 60 + second)
}

/// Days since 1970-01-01 in the Gregorian calendar, counted in years that begin in March, so that the leap day is the
/// last one (H. Hinnant, "chrono-compatible low-level date algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
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

    #[test]
    fn dates_are_moments_in_utc() {
        for (text, seconds) in [
            ("1970-01-01", Some(0)),
            ("2000-02-29", Some(951_782_400)),
            ("2026-11-22", Some(1_795_305_600)),
            ("2026-11-22T01:00:00+02:00", Some(1_795_302_000)),
            ("2026-11-22T00:00:01Z", Some(1_795_305_601)),
            ("2026-11-22T00:00:01", None),
            ("12:00:00", None),
        ] {
            let moment = text.parse().expect(text);
            assert_eq!(unix_s(&moment), seconds, "{text}");
        }
    }

    proptest! {
        #[test]
        fn shown_sizes_read_back(bytes: u64) {
            prop_assert_eq!(parse_size(&show_size(bytes)), Some(bytes));
        }
    }
}
