//! What the grid's electricity emits at the moment, out of a file that somebody else keeps up to date.
//!
//! A file that is away or holds nonsense is no news: the last good number counts on for a while, then what the config
//! says, or nothing. Each turn is said once.

use std::time::Duration;

/// Most grams of a kilowatt-hour that are believed.
const GRAMS_MAX: f64 = 5_000.0;

/// The last that was read.
#[derive(Debug, Default)]
pub(super) struct Grid {
    good: Option<(f64, Duration)>,
    /// How it stood when that was said.
    said: Option<Standing>,
}

/// How far the number can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The file says so.
    Fresh,
    /// The file said so, and does not any more.
    Old,
    /// It has said nothing for too long.
    Unknown,
}

impl Grid {
    /// Takes in what the file says at `now`, which counts for `keep`: the number that holds, and how it stands where that
    /// has changed.
    pub(super) fn read(
        &mut self,
        text: Option<&str>,
        keep: Duration,
        now: Duration,
    ) -> (Option<f64>, Option<Standing>) {
        let told = text.and_then(parse);
        if let Some(told) = told {
            self.good = Some((told, now));
        }
        let good = self.good.filter(|(_, at)| now.saturating_sub(*at) < keep);
        let standing = match (told, good) {
            (Some(_), _) => Standing::Fresh,
            (None, Some(_)) => Standing::Old,
            (None, None) => Standing::Unknown,
        };
        let turned = self.said.replace(standing) != Some(standing);
        (good.map(|(grams, _)| grams), turned.then_some(standing))
    }
}

/// The number in the first line.
fn parse(text: &str) -> Option<f64> {
    let grams: f64 = text.lines().next()?.trim().parse().ok()?;
    (0.0..=GRAMS_MAX).contains(&grams).then_some(grams)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(100);

    #[test]
    fn a_file_that_vanishes_or_holds_nonsense_is_no_news_until_it_is_too_old() {
        let mut grid = Grid::default();
        let mut read = |text, seconds| grid.read(text, KEEP, Duration::from_secs(seconds));
        assert_eq!(read(None, 0), (None, Some(Standing::Unknown)));
        assert_eq!(read(None, 1), (None, None));
        assert_eq!(
            read(Some("79.5\nof 14:00"), 2),
            (Some(79.5), Some(Standing::Fresh))
        );
        for nonsense in [
            None,
            Some(""),
            Some("NaN"),
            Some("-1"),
            Some("1e9"),
            Some("{}"),
        ] {
            assert_eq!(read(nonsense, 101).0, Some(79.5), "{nonsense:?}");
        }
        // Said once.
        assert_eq!(read(None, 101), (Some(79.5), None));
        assert_eq!(read(None, 102), (None, Some(Standing::Unknown)));
        assert_eq!(read(Some("80"), 103), (Some(80.0), Some(Standing::Fresh)));
        assert_eq!(read(Some("gone"), 104), (Some(80.0), Some(Standing::Old)));
    }
}
