//! Shares out the energy of each moment over the work of that moment.

/// A prompt's token as a part of one that is produced: it is computed beside hundreds of others, in about a tenth of the
/// time.
pub(super) const PREFILL_SHARE: f64 = 0.1;

/// Part of what is remembered that a second of work leaves: a figure follows a change within some minutes, and does not
/// follow every prompt.
const KEPT: f64 = 0.98;

/// Tokens of all models since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Work {
    pub(super) prefill_tokens: u64,
    pub(super) decode_tokens: u64,
}

impl Work {
    /// As tokens produced.
    fn tokens(self) -> f64 {
        self.decode_tokens as f64 + PREFILL_SHARE * self.prefill_tokens as f64
    }
}

/// What a token takes, as far as it was seen.
#[derive(Debug, Default)]
pub(super) struct Share {
    last: Option<Work>,
    joules: f64,
    tokens: f64,
}

impl Share {
    /// Takes in that `joules` were used until the work was `work`. Time without work is nobody's.
    pub(super) fn observe(&mut self, work: Work, joules: Option<f64>) {
        let before = self.last.replace(work).unwrap_or(work);
        let tokens = work.tokens() - before.tokens();
        let Some(joules) = joules.filter(|joules| tokens > 0.0 && *joules >= 0.0) else {
            return;
        };
        self.joules = self.joules * KEPT + joules;
        self.tokens = self.tokens * KEPT + tokens;
    }

    /// Joules of a token; `None` before any was seen to take some.
    pub(super) fn joules_per_token(&self) -> Option<f64> {
        (self.tokens > 0.0).then(|| self.joules / self.tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_moments_with_work_count() {
        let mut share = Share::default();
        let work = |decode_tokens| Work {
            prefill_tokens: 0,
            decode_tokens,
        };
        share.observe(work(100), Some(5.0));
        assert_eq!(
            share.joules_per_token(),
            None,
            "what came before is not known"
        );
        share.observe(work(200), Some(50.0));
        assert_eq!(share.joules_per_token(), Some(0.5));
        for _ in 0..100 {
            share.observe(work(200), Some(50.0));
            share.observe(work(200), None);
        }
        assert_eq!(share.joules_per_token(), Some(0.5));
        // A start anew, or nonsense, changes nothing.
        share.observe(work(0), Some(50.0));
        share.observe(work(1), Some(f64::NAN));
        assert_eq!(share.joules_per_token(), Some(0.5));
    }

    #[test]
    fn a_prompt_counts_for_its_part() {
        let mut share = Share::default();
        share.observe(Work::default(), None);
        let work = Work {
            prefill_tokens: 1_000,
            decode_tokens: 100,
        };
        share.observe(work, Some(100.0));
        assert_eq!(share.joules_per_token(), Some(0.5));
    }
}
