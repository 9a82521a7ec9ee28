//! One candidate as the router sees it: facts, figures, what was learnt, what is in flight.

use std::time::Duration;

use super::estimate::{Mean, PrefillLine};
use super::facts::{CandidateId, Facts, Figures};
use super::health::{Health, Penalty};
use super::load::Credits;
use super::sheet::Row;
use crate::limits::CANDIDATE_LINE_MIN;

/// Company in which tokens are taken to be measured until they were.
const COMPANY: f64 = 8.0;
/// Seconds without a request to a candidate after which what was learnt of it is out of date.
pub(super) const OUTDATED_AFTER_S: f64 = 30.0;

/// Joules of a kilowatt-hour.
const JOULES_PER_KWH: f64 = 3.6e6;

/// One model at one upstream. What decisions read of it is on its sheet (`sheet.rs`).
#[derive(Debug)]
pub(super) struct Candidate {
    /// Seconds of an output token, and the sequences beside which it was measured.
    pub(super) tpot: Mean,
    pub(super) tpot_company: Mean,
    /// Seconds of the clock when anything was learnt of it last.
    learnt_at_s: f64,
    pub(super) penalty: Penalty,
    pub(super) health: Health,
    pub(super) credits: Credits,
    pub(super) prefill: PrefillLine,
    pub(super) figures: Figures,
    pub(super) facts: Facts,
    pub(super) id: CandidateId,
    pub(super) row: Row,
    /// Place of its upstream's budget.
    pub(super) budget: usize,
    /// When the figures came.
    pub(super) observed_at: Duration,
    /// Taken out; its place may be given to another.
    pub(super) gone: bool,
}

/// A moment, as times are kept and as they are reckoned with: every decision asks each candidate for its age.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) at: Duration,
    pub(super) seconds: f64,
}

impl From<Duration> for Moment {
    fn from(at: Duration) -> Self {
        let seconds = at.as_secs_f64();
        Self { at, seconds }
    }
}

impl Candidate {
    pub(super) fn new(
        (id, row): (CandidateId, Row),
        facts: Facts,
        budget: usize,
        now: Duration,
    ) -> Self {
        Self {
            id,
            row,
            facts,
            budget,
            figures: Figures::default(),
            observed_at: now,
            credits: Credits::default(),
            prefill: PrefillLine::default(),
            tpot: Mean::tpot(),
            tpot_company: Mean::new(COMPANY),
            learnt_at_s: now.as_secs_f64(),
            health: Health::default(),
            penalty: Penalty::default(),
            gone: false,
        }
    }

    /// Grams of carbon of a token, 0 where energy or grid are not known.
    pub(super) fn token_grams(&self) -> f64 {
        let (told, config) = (&self.figures, &self.facts);
        let joules = told.joules_per_token.or(config.joules_per_token);
        let grams = told.grams_per_kwh.or(config.grams_per_kwh);
        joules.unwrap_or(0.0) / JOULES_PER_KWH * grams.unwrap_or(0.0)
    }

    /// Takes figures in, unless they are no news. What they must hold is no longer added to them.
    pub(super) fn observe(&mut self, figures: Figures, now: Duration) {
        if figures.sequence <= self.figures.sequence && self.figures.sequence > 0 {
            // Its readiness can end without a report, as when the connection is lost.
            (self.figures.ready, self.figures.silent) = (figures.ready, figures.silent);
            (self.figures.unheard, self.figures.detour) = (figures.unheard, figures.detour);
            return;
        }
        self.prefill.suppose(&figures);
        if figures.decode_tokens_per_s > 0.0 && figures.running > 0 {
            let running = f64::from(figures.running);
            self.tpot.suppose(running / figures.decode_tokens_per_s);
            self.tpot_company.suppose(running);
        }
        self.observed_at = now;
        self.figures = figures;
        let true_at = now.saturating_sub(self.figures.age);
        self.credits.seen(true_at, self.rtt());
    }

    pub(super) fn rtt(&self) -> Duration {
        self.figures.rtt.unwrap_or(self.facts.rtt)
    }

    /// Sequences that the figures show.
    pub(super) fn shown(&self) -> f64 {
        f64::from(self.figures.running) + f64::from(self.figures.waiting)
    }

    /// Sequences there, as far as we know.
    pub(super) fn company(&self) -> f64 {
        (self.shown() + self.credits.unseen().sequences as f64).max(0.0)
    }

    /// Whether it has nothing to do, and what was learnt of it was learnt in company that is gone. That says nothing of it any more,
    /// and while it looks slower than those with a line nobody is sent there to learn better: in minutes of high load one
    /// after the other would idle while requests wait elsewhere.
    fn idles_again(&self) -> bool {
        self.tpot_company.get() > COMPANY && self.company() == 0.0
    }

    /// Whether it had no request of ours for so long that whatever slowed it down may be over: a line that was broken, a
    /// stall. While one runs there it does not, so that one at a time finds out.
    pub(super) fn is_unproven(&self, now_s: f64) -> bool {
        now_s - self.learnt_at_s > OUTDATED_AFTER_S && self.credits.in_flight() == 0
    }

    /// Seconds of the clock when anything was learnt of it last, from which its age is known: what was learnt of one that idles
    /// again is as old as can be, and of one that serves as new.
    pub(super) fn counts_since_s(&self) -> f64 {
        match self.credits.in_flight() {
            _ if self.idles_again() => f64::NEG_INFINITY,
            0 => self.learnt_at_s,
            _ => f64::INFINITY,
        }
    }

    /// Seconds of the clock until which failures count.
    pub(super) fn troubled_until_s(&self) -> f64 {
        match self.health.is_trusted() {
            true => self.penalty.over_at_s(),
            false => f64::INFINITY,
        }
    }

    /// Takes in the seconds of a prompt of so many tokens, in place of all before where it `proves` how the candidate is now and
    /// does much better than they promised.
    pub(super) fn learn_prefill(&mut self, tokens: f64, seconds: f64, proves: bool, now: Duration) {
        if proves && 2.0 * seconds < self.prefill.seconds(tokens) {
            self.prefill = PrefillLine::default();
            self.prefill.suppose(&self.figures);
        }
        self.prefill.learn(tokens, seconds);
        self.learnt_at_s = now.as_secs_f64();
    }

    /// The same with the seconds of an output token, beside so many sequences.
    pub(super) fn learn_tpot(&mut self, seconds: f64, company: f64, proves: bool, now: Duration) {
        if proves && 2.0 * seconds < self.tpot.get() {
            self.tpot = Mean::tpot();
        }
        self.tpot.learn(seconds);
        self.tpot_company.learn(company);
        self.learnt_at_s = now.as_secs_f64();
    }

    /// Whether as many wait there as run: more would only wait there rather than here, where they can be put in order.
    pub(super) fn is_full(&self) -> bool {
        let (figures, unseen) = (&self.figures, self.credits.unseen().sequences);
        let line = i64::from(figures.waiting) + unseen;
        figures.waiting > 0 && line >= i64::from(figures.running.max(CANDIDATE_LINE_MIN))
    }
}
