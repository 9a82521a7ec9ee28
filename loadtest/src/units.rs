//! Numbers with units as people write them. Knows nothing of what they are for.

use std::time::Duration;

use crate::limits::MAX_DURATION;

/// Reads `500ms`, `30s`, `5m` or `1h`, more than zero and at most a day; a bare number is refused, since tools disagree
/// on its unit.
///
/// # Errors
/// What was expected, in words.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.');
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let scale = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return Err("expected a number and a unit: 500ms, 30s, 5m, 1h".to_owned()),
    };
    let seconds = number
        .parse::<f64>()
        .map_err(|_| format!("{number:?} is no number"))?
        * scale;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() && duration <= MAX_DURATION => Ok(duration),
        _ => Err("expected more than 0 and at most 24h".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        let ms = |text| duration(text).map(|duration| duration.as_millis());
        assert_eq!(ms("500ms"), Ok(500));
        assert_eq!(ms("1.5s"), Ok(1_500));
        assert_eq!(ms("1500us"), Ok(1));
        assert_eq!((ms("2m"), ms("1h")), (Ok(120_000), Ok(3_600_000)));
        for bad in [
            "", "30", "s", "-1s", "0s", "25h", "1.2.3s", "1 s", "infs", "NaNs",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
