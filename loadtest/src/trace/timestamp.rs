//! Date and time as traces write them, `2023-11-16 18:17:03.9799600`, with any number of decimals and perhaps an offset.

/// Nanoseconds since the Unix epoch; None for anything else than a date and a time.
pub(super) fn nanos(text: &str) -> Option<i128> {
    let text = text.trim();
    let (date, time) = text.split_once([' ', 'T'])?;
    let mut date = date.splitn(3, '-').map(whole);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || !(1..=9_999).contains(&year) {
        return None;
    }
    let (time, offset_minutes) = offset(time)?;
    let (clock, decimals) = time.split_once('.').unwrap_or((time, "0"));
    let mut clock = clock.splitn(3, ':').map(whole);
    let (hours, minutes, seconds) = (clock.next()??, clock.next()??, clock.next()??);
    if hours > 23 || minutes > 59 || seconds > 60 {
        return None;
    }
    let minutes = (days(year, month, day) * 24 + hours) * 60 + minutes - offset_minutes;
    Some(i128::from(minutes * 60 + seconds) * 1_000_000_000 + fraction(decimals)?)
}

/// Splits `+02:00`, `-02:00` or `Z` from the end.
fn offset(time: &str) -> Option<(&str, i64)> {
    if let Some(time) = time.strip_suffix('Z') {
        return Some((time, 0));
    }
    let Some(at) = time.rfind(['+', '-']) else {
        return Some((time, 0));
    };
    let (hours, minutes) = time[at + 1..].split_once(':')?;
    let minutes = whole(hours)? * 60 + whole(minutes)?;
    let sign = if time[at..].starts_with('-') { -1 } else { 1 };
    Some((&time[..at], sign * minutes))
}

fn whole(text: &str) -> Option<i64> {
    let digits =
        !text.is_empty() && text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

/// Nanoseconds of decimals of a second; those beyond the ninth are dropped.
fn fraction(decimals: &str) -> Option<i128> {
    if decimals.is_empty() || !decimals.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nine: String = decimals
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    nine.parse().ok()
}

/// Days since 1970-01-01 in the Gregorian calendar, counted in eras of 400 years that begin in March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let seconds = |text| nanos(text).map(|nanos| nanos / 1_000_000_000);
        assert_eq!(seconds("1970-01-01 00:00:00"), Some(0));
        assert_eq!(seconds("2000-02-29 12:00:00"), Some(951_825_600));
        assert_eq!(seconds("2023-11-16 18:17:03.9799600"), Some(1_700_158_623));
        assert_eq!(
            seconds("2024-05-10T00:00:00.009930+00:00"),
            Some(1_715_299_200)
        );
        assert_eq!(seconds("2024-05-10 02:00:00+02:00"), Some(1_715_299_200));
        assert_eq!(seconds("2024-05-10 00:00:00Z"), Some(1_715_299_200));
    }

    #[test]
    fn decimals_of_any_number_count() {
        let difference =
            nanos("2023-11-16 18:17:03.9799600").unwrap() - nanos("2023-11-16 18:17:03").unwrap();
        assert_eq!(difference, 979_960_000);
        assert_eq!(nanos("1970-01-01 00:00:00.1234567891"), Some(123_456_789));
    }

    #[test]
    fn anything_else_is_no_date() {
        for bad in [
            "",
            "1",
            "2023-11-16",
            "2023-13-01 00:00:00",
            "2023-11-16 25:00:00",
            "2023-11-16 18:17",
            "2023-11-16 18:17:03.",
            "2023-11-16 18:17:03.x",
            "a-b-c d:e:f",
            "2023-11-16 1+8:17:03",
        ] {
            assert_eq!(nanos(bad), None, "{bad}");
        }
    }
}
