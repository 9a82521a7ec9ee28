//! Which candidates a request may go to, by rules that no score can outweigh (I4: they are applied at every try).
//!
//! Those that rules and means cannot tell apart, as the nodes of one site, mostly stand side by side and are judged once.

use super::Ask;
use super::candidate::Candidate;
use super::decision::Reason;
use super::means::Means;
use super::options::Options;
use super::residency::Barred;
use super::sheet::Sheet;
use crate::limits::HOPS_MAX;

/// What speaks against the candidates of a model, one after the other.
pub(super) struct Judge<'a> {
    ask: &'a Ask<'a>,
    options: &'a Options,
    candidates: &'a [Candidate],
    /// Whether those may serve of whom nothing is heard.
    in_doubt: bool,
    /// Whether it matters to the request who they are one by one.
    particular: bool,
    /// The first of those that are like the last one.
    met: Option<&'a Candidate>,
    barred: Option<Barred>,
    at_home: bool,
    means: Option<Means>,
}

impl<'a> Judge<'a> {
    pub(super) const fn new(
        ask: &'a Ask<'a>,
        options: &'a Options,
        candidates: &'a [Candidate],
        in_doubt: bool,
    ) -> Self {
        Self {
            ask,
            options,
            candidates,
            in_doubt,
            particular: !ask.tried.is_empty() || ask.numerics.is_some(),
            met: None,
            barred: None,
            at_home: false,
            means: None,
        }
    }

    /// Why the next candidate of the model may not serve, if it may not.
    #[inline]
    pub(super) fn bar(&mut self, sheet: &Sheet) -> Option<Reason> {
        if !sheet.alike {
            self.meet(sheet);
        }
        if let Some(barred) = self.barred {
            return Some(match barred {
                Barred::Residency => Reason::Residency,
                Barred::Experimental => Reason::Experimental,
                Barred::Purpose => Reason::Purpose,
            });
        }
        if sheet.experimental && !self.ask.rules.experimental {
            return Some(Reason::Experimental);
        }
        if sheet.hop && self.ask.hops >= HOPS_MAX {
            return Some(Reason::Hops);
        }
        if let Some(reason) = self.particular.then(|| self.rejected(sheet)).flatten() {
            return Some(reason);
        }
        let takes = sheet.ready || (self.in_doubt && sheet.unheard);
        (!takes).then_some(Reason::NotReady)
    }

    /// What the request may spend at the candidate that was not barred just now. It takes long to find out.
    #[inline]
    pub(super) fn means(&mut self) -> Means {
        let (ask, met) = (self.ask, self.met);
        let find = || {
            met.map_or(Means::Nothing, |candidate| {
                (ask.allocation)(&candidate.facts)
            })
        };
        *self.means.get_or_insert_with(find)
    }

    /// Whether it stands where requests stay while that costs little.
    pub(super) const fn is_at_home(&self) -> bool {
        self.at_home
    }

    /// Turns to those that are like a candidate.
    fn meet(&mut self, sheet: &Sheet) {
        let met = self.candidates.get(sheet.id.index());
        self.met = met;
        self.means = None;
        // Who is not known may be anywhere.
        self.barred = met.map_or(Some(Barred::Residency), |met| {
            self.ask.rules.bar(&met.facts)
        });
        self.at_home = met.is_some_and(|met| self.options.is_home(&met.facts.site));
    }

    /// Why the request does not want this very candidate, if it does not.
    fn rejected(&self, sheet: &Sheet) -> Option<Reason> {
        let candidate = self.candidates.get(sheet.id.index())?;
        if self.ask.tried.contains(&candidate.facts.upstream) {
            return Some(Reason::Tried);
        }
        let wrong = self.ask.numerics.is_some() && self.ask.numerics != candidate.figures.digest();
        wrong.then_some(Reason::Numerics)
    }
}
