//! How long before the end of a job the next one must be submitted, learnt from those before it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::limits::LEADS_KEPT;

/// What is added to what was measured: the next one may take longer.
const MORE_PERCENT: u32 = 20;

/// The latest of some times.
#[derive(Debug, Default)]
pub(super) struct Recent(VecDeque<Duration>);

impl Recent {
    /// Notes one.
    pub(super) fn note(&mut self, time: Duration) {
        if self.0.len() >= LEADS_KEPT {
            self.0.pop_front();
        }
        self.0.push_back(time);
    }

    /// The longest of them and a little more; `None` before there is one.
    pub(super) fn longest(&self) -> Option<Duration> {
        let longest = self.0.iter().max()?;
        Some(*longest + *longest * MORE_PERCENT / 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_of_the_latest_counts() {
        let mut recent = Recent::default();
        assert_eq!(recent.longest(), None);
        recent.note(Duration::from_secs(100));
        recent.note(Duration::from_secs(10));
        assert_eq!(recent.longest(), Some(Duration::from_secs(120)));
        (0..LEADS_KEPT).for_each(|_| recent.note(Duration::from_secs(10)));
        assert_eq!(recent.longest(), Some(Duration::from_secs(12)));
    }
}
