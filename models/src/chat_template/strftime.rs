//! `strftime_now`: prints a given moment in UTC, in English, in the directives that chat templates use.

use minijinja::{Error, ErrorKind};

const DAY_S: i64 = 86_400;
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];

/// Formats `time_s`, seconds since the epoch, in UTC.
///
/// # Errors
/// A directive of `strftime(3)` that is not known here: a wrong date in a prompt would go unseen.
pub(super) fn format(format: &str, time_s: i64) -> Result<String, Error> {
    let moment = Moment::at(time_s);
    let mut out = String::with_capacity(2 * format.len());
    let mut chars = format.chars();
    while let Some(char) = chars.next() {
        if char != '%' {
            out.push(char);
            continue;
        }
        let mut directive = chars.next();
        let padded = directive != Some('-');
        if !padded {
            directive = chars.next();
        }
        moment
            .print(directive.unwrap_or('%'), padded, &mut out)
            .ok_or_else(|| unknown(format))?;
    }
    Ok(out)
}

fn unknown(format: &str) -> Error {
    let format: String = format.chars().take(40).collect();
    Error::new(
        ErrorKind::InvalidOperation,
        format!("strftime_now does not know a directive in '{format}'"),
    )
}

/// A moment in UTC, taken apart.
#[derive(Debug, Clone, Copy)]
struct Moment {
    year: i64,
    month: usize,
    day: i64,
    day_of_year: i64,
    /// Counted from Monday, 0.
    weekday: usize,
    hour: i64,
    minute: i64,
    second: i64,
}

impl Moment {
    fn at(time_s: i64) -> Self {
        let days = time_s.div_euclid(DAY_S);
        let second = time_s.rem_euclid(DAY_S);
        let (year, month, day) = civil_from_days(days);
        let new_year = days_from_civil_new_year(year);
        Self {
            year,
            month,
            day,
            day_of_year: days - new_year + 1,
            // The epoch was a Thursday.
            weekday: usize::try_from((days + 3).rem_euclid(7)).unwrap_or(0),
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
        }
    }

    /// Prints one directive; `None` where it is not known.
    fn print(&self, directive: char, padded: bool, out: &mut String) -> Option<()> {
        let month = MONTHS[(self.month - 1) % 12];
        let weekday = WEEKDAYS[self.weekday % 7];
        let hour_12 = (self.hour + 11) % 12 + 1;
        let month_number = i64::try_from(self.month).unwrap_or(0);
        let number = |value: i64, width: usize| {
            let width = if padded { width } else { 0 };
            format!("{value:0width$}")
        };
        let text = match directive {
            'Y' => number(self.year, 4),
            'y' => number(self.year.rem_euclid(100), 2),
            'm' => number(month_number, 2),
            'd' => number(self.day, 2),
            'e' => format!("{:>width$}", self.day, width = if padded { 2 } else { 0 }),
            'j' => number(self.day_of_year, 3),
            'H' => number(self.hour, 2),
            'I' => number(hour_12, 2),
            'M' => number(self.minute, 2),
            'S' => number(self.second, 2),
            'p' => if self.hour < 12 { "AM" } else { "PM" }.to_owned(),
            'B' => month.to_owned(),
            'b' | 'h' => month[..3].to_owned(),
            'A' => weekday.to_owned(),
            'a' => weekday[..3].to_owned(),
            'F' => format!("{:04}-{:02}-{:02}", self.year, self.month, self.day),
            'T' => format!("{:02}:{:02}:{:02}", self.hour, self.minute, self.second),
            'Z' => "UTC".to_owned(),
            'z' => "+0000".to_owned(),
            '%' => "%".to_owned(),
            _ => return None,
        };
        out.push_str(&text);
        Some(())
    }
}

/// Year, month (1 to 12) and day (1 to 31) of a day counted from 1970-01-01 in the proleptic Gregorian calendar.
///
/// Years are counted from March so that the leap day is a year's last, in eras of 400 years; the method is that of
/// Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn civil_from_days(days: i64) -> (i64, usize, i64) {
    let days = days + 719_468; // from 0000-03-01
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + 400 * era + i64::from(month <= 2);
    (year, usize::try_from(month).unwrap_or(1), day)
}

/// The day counted from 1970-01-01 that begins `year`.
fn days_from_civil_new_year(year: i64) -> i64 {
    let before = year - 1;
    365 * (year - 1970) + before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400)
        - 477
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str, time_s: i64) -> String {
        format(text, time_s).unwrap()
    }

    #[test]
    fn prints_what_pythons_strftime_prints() {
        // Each checked with datetime.fromtimestamp(t, timezone.utc).strftime(..)
        assert_eq!(at("%d %b %Y", 1_721_952_000), "26 Jul 2024");
        assert_eq!(at("%Y-%m-%d %H:%M:%S", 0), "1970-01-01 00:00:00");
        assert_eq!(
            at("%A, %B %-d, %Y", 951_782_400),
            "Tuesday, February 29, 2000"
        );
        assert_eq!(at("%j %y %I %p", 1_735_689_599), "366 24 11 PM");
        assert_eq!(at("%F %T", -1), "1969-12-31 23:59:59");
        assert_eq!(at("%e|%-m|%%", 4_102_444_800), " 1|1|%");
        assert_eq!(at("%I %p", 43_200), "12 PM");
    }

    #[test]
    fn refuses_a_directive_it_does_not_know() {
        let error = format("%d %Q", 0).unwrap_err().to_string();
        assert!(error.contains("'%d %Q'"), "{error}");
    }

    #[test]
    fn every_day_of_eight_centuries_follows_the_one_before() {
        let mut previous = civil_from_days(-146_098);
        for days in -146_097..146_097 {
            let (year, month, day) = civil_from_days(days);
            let next_day = (year, month, day) == (previous.0, previous.1, previous.2 + 1);
            let next_month = day == 1 && (year, month) == (previous.0, previous.1 + 1);
            let next_year = (month, day) == (1, 1) && year == previous.0 + 1 && previous.1 == 12;
            assert!(
                next_day || next_month || next_year,
                "{previous:?} {:?}",
                (year, month, day)
            );
            if next_year {
                assert_eq!(days_from_civil_new_year(year), days);
            }
            previous = (year, month, day);
        }
    }
}
