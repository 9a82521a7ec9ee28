//! One candidate as the router sees it: facts, figures, what was learnt, what is in flight; and why it may not serve.

use std::time::Duration;

use super::Ask;
use super::decision::Reason;
use super::estimate::{Mean, PrefillLine};
use super::facts::{CandidateId, Facts, Figures};
use super::health::{Health, Penalty};
use super::load::Credits;
use super::residency::{Barred, Judge};
use crate::limits::{CANDIDATE_LINE_MIN, HOPS_MAX};

/// Company in which tokens are taken to be measured until they were.
const COMPANY: f64 = 8.0;
/// Seconds without a request to a candidate after which what was learnt of it is out of date.
const OUTDATED_AFTER_S: f64 = 30.0;
/// Time before the end of a candidate's walltime by which answers should be over.
const WALLTIME_MARGIN_S: f64 = 2.0;

/// Joules of a kilowatt-hour.
const JOULES_PER_KWH: f64 = 3.6e6;

/// One model at one upstream. What every decision reads of every candidate stands side by side, in few lines of a cache.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Candidate {
    pub(super) per: Per,
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

/// What every decision would divide by for every candidate, as factors, and times as seconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Per {
    /// Seconds of a prompt token of the whole candidate: one prompt is computed by one node, however many a site has; a
    /// line is worked off by all of them.
    pub(super) prompt_token_s: f64,
    /// Part of the company in which tokens were measured, and of the sequences that run.
    pub(super) companion: f64,
    pub(super) runner: f64,
    /// Part of the KV cache; 0 where it is not known.
    pub(super) kv_token: f64,
    /// KV tokens in use.
    pub(super) kv_used: f64,
    /// Sequences that the figures show.
    pub(super) sequences: f64,
    /// Seconds of a round trip, and of the clock when the figures were true.
    pub(super) rtt_s: f64,
    pub(super) true_at_s: f64,
    /// Grams of carbon of a token, 0 where energy or grid are not known.
    pub(super) token_grams: f64,
}

impl Candidate {
    pub(super) fn new(id: CandidateId, facts: Facts, budget: usize, now: Duration) -> Self {
        let mut candidate = Self {
            id,
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
            per: Per::default(),
            gone: false,
        };
        candidate.refresh();
        candidate
    }

    /// Works out again what follows from figures and estimates alone.
    pub(super) fn refresh(&mut self) {
        let figures = &self.figures;
        let own = self.prefill.tokens_per_s();
        self.per = Per {
            prompt_token_s: 1.0 / figures.prefill_tokens_per_s.max(own),
            companion: 1.0 / self.tpot_company.get().max(1.0),
            runner: 1.0 / f64::from(figures.running.max(1)),
            kv_token: match figures.kv_tokens_total {
                0 => 0.0,
                total => 1.0 / total as f64,
            },
            kv_used: figures
                .kv_tokens_total
                .saturating_sub(figures.kv_tokens_free) as f64,
            sequences: f64::from(figures.running) + f64::from(figures.waiting),
            token_grams: self.token_grams(),
            rtt_s: self.rtt().as_secs_f64(),
            true_at_s: self.observed_at.as_secs_f64() - figures.age.as_secs_f64(),
        };
    }

    fn token_grams(&self) -> f64 {
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
        self.refresh();
    }

    /// Seconds since the figures were true.
    pub(super) fn age_s(&self, now: Moment) -> f64 {
        (now.seconds - self.per.true_at_s).max(0.0)
    }

    pub(super) fn rtt(&self) -> Duration {
        self.figures.rtt.unwrap_or(self.facts.rtt)
    }

    /// Sequences there, as far as we know.
    pub(super) fn company(&self) -> f64 {
        (self.per.sequences + self.credits.unseen().sequences as f64).max(0.0)
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

    /// Whether what was learnt of it may no longer count against it.
    #[inline]
    pub(super) fn is_outdated(&self, now: Moment) -> bool {
        self.is_unproven(now.seconds) || self.idles_again()
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

    /// Why it may not serve what is asked, if it may not, by rules that no score can outweigh. `in_doubt` one of whom nothing
    /// is heard may.
    #[inline]
    pub(super) fn barred<'a>(
        &'a self,
        ask: &Ask<'_>,
        judge: &mut Judge<'a>,
        in_doubt: bool,
    ) -> Option<Reason> {
        if let Some(barred) = judge.bar(&self.facts) {
            return Some(match barred {
                Barred::Residency => Reason::Residency,
                Barred::Experimental => Reason::Experimental,
                Barred::Purpose => Reason::Purpose,
            });
        }
        if self.figures.experimental && !ask.rules.experimental {
            return Some(Reason::Experimental);
        }
        if self.facts.hop && ask.hops >= HOPS_MAX {
            return Some(Reason::Hops);
        }
        if !ask.tried.is_empty() && ask.tried.contains(&self.facts.upstream) {
            return Some(Reason::Tried);
        }
        if ask.numerics.is_some() && ask.numerics != self.figures.digest() {
            return Some(Reason::Numerics);
        }
        let takes = self.figures.ready || (in_doubt && self.figures.unheard);
        (!takes).then_some(Reason::NotReady)
    }

    /// Whether it has an end that an answer of so many seconds would go on past.
    pub(super) fn ends_before(&self, seconds: f64, now: Moment) -> bool {
        self.figures.walltime_left.is_some_and(|told| {
            let left = told.as_secs_f64() - self.age_s(now);
            seconds + WALLTIME_MARGIN_S > left.max(0.0)
        })
    }
}
