//! What a request's rules and means say of one candidate after the other.
//!
//! Those that they cannot tell apart, as the nodes of one site, mostly stand side by side and are judged once (I4: at every
//! try anew).

use super::Ask;
use super::candidate::Candidate;
use super::means::Means;
use super::options::Options;
use super::residency::Barred;
use super::sheet::Sheet;

/// What is known of the candidate last met, and of all that are like it.
pub(super) struct Judge<'a> {
    ask: &'a Ask<'a>,
    options: &'a Options,
    /// Why the rules bar it, if they do.
    pub(super) barred: Option<Barred>,
    pub(super) at_home: bool,
    means: Option<Means>,
}

impl<'a> Judge<'a> {
    pub(super) const fn new(ask: &'a Ask<'a>, options: &'a Options) -> Self {
        Self {
            ask,
            options,
            barred: None,
            at_home: false,
            means: None,
        }
    }

    /// Turns to the next candidate of the model.
    #[inline]
    pub(super) fn meet(&mut self, candidate: &Candidate, sheet: &Sheet) {
        if !sheet.alike {
            self.barred = self.ask.rules.bar(&candidate.facts);
            self.at_home = self.options.is_home(&candidate.facts.site);
            self.means = None;
        }
    }

    /// What the request may spend there. It is found out where nothing else speaks against the candidate: that takes long.
    #[inline]
    pub(super) fn means(&mut self, candidate: &Candidate) -> Means {
        *self
            .means
            .get_or_insert_with(|| (self.ask.allocation)(&candidate.facts))
    }
}
