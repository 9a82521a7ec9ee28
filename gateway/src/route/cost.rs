//! What a request would cost at a candidate, in seconds.
//!
//! `rtt + wait + prefill + expected tokens x tpot + pressure + carbon`, plus what past failures and silence are worth. Terms
//! in one unit can be compared over machines that have nothing in common, and read by people.

use serde::Serialize;

use super::candidate::{Candidate, Moment};
use super::crowd::Drift;
use super::load::Change;
use super::options::Options;

/// Seconds that a KV cache half full is worth; the pressure of a share k is this times k / (1 - k) (SMG's least_load).
const PRESSURE_S: f64 = 0.15;
/// Share of the cache from which it is full.
const FULL: f64 = 0.999;
/// Seconds for which figures are still news. A status stream speaks at least once a second.
const FRESH_S: f64 = 1.5;
/// Seconds that each further second of silence adds, and at most: a silent candidate is taken for busy, never for idle.
const STALE_S_PER_S: f64 = 0.5;
const STALE_S_MAX: f64 = 30.0;
/// Slowest that decoding is expected to become by more company than it was measured in.
const SLOWDOWN_MAX: f64 = 4.0;
/// Share of decoding that grows with the company; the rest (reading the weights) does not.
const COMPANY_SHARE: f64 = 0.5;
/// Least that a request is taken to add to the cost of a candidate.
const ONE_MORE_S_MIN: f64 = 1e-6;
/// What a request brings, as far as one can know.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Prompt tokens that this candidate has to compute.
    pub(super) uncached: f64,
    /// Of the whole prompt.
    pub(super) prompt: f64,
    /// Expected tokens of one choice.
    pub(super) output: f64,
    /// Choices.
    pub(super) sequences: f64,
    /// Expected tokens of all choices, and KV tokens of those and the prompt.
    pub(super) tokens: f64,
    pub(super) kv_tokens: f64,
    /// Tokens of an average answer of this model.
    pub(super) usual_output: f64,
    /// Tokens of an average prompt of this model that are not cached.
    pub(super) usual_prompt: f64,
    /// Seconds of a token of this model, over all candidates.
    pub(super) usual_tpot: f64,
    /// Seconds of this prompt, over all candidates of this model.
    pub(super) usual_prefill: f64,
}

/// The terms of a cost, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Terms {
    /// Round trip.
    pub rtt: f64,
    /// Until the prompt's turn comes.
    pub wait: f64,
    /// Computing the prompt.
    pub prefill: f64,
    /// Producing the answer.
    pub decode: f64,
    /// Of the KV cache.
    pub pressure: f64,
    /// Carbon as seconds.
    pub carbon: f64,
    /// Past failures.
    pub failures: f64,
    /// Silence.
    pub stale: f64,
    /// Part of its usual attraction that it has, up to 1; the cost is divided by it.
    pub ramp: f64,
}

impl Terms {
    /// The cost.
    #[must_use]
    #[inline]
    pub fn cost(&self) -> f64 {
        let own = self.first_content() + self.decode;
        let beside = self.pressure + self.carbon + self.failures + self.stale;
        let cost = own + beside;
        if self.ramp >= 1.0 {
            cost
        } else {
            cost / self.ramp.max(1e-3)
        }
    }

    /// Until the first content.
    #[must_use]
    pub fn first_content(&self) -> f64 {
        self.rtt + self.wait + self.prefill
    }
}

impl Candidate {
    /// The terms of `load` here and now.
    #[inline]
    pub(super) fn terms(&self, load: &Load, options: &Options, now: Moment, ramp: f64) -> Terms {
        let unseen = self.credits.unseen();
        let mut token = self.tpot.or_usual(load.usual_tpot);
        let mut prefill = self.prefill.or_usual(load.uncached, load.usual_prefill);
        if self.is_outdated(now) {
            token = token.min(load.usual_tpot);
            prefill = prefill.min(load.usual_prefill.max(self.told_prefill(load)));
        }
        let tpot = token * self.slowdown(load);
        Terms {
            rtt: self.per.rtt_s,
            wait: self.wait(load, &unseen, tpot),
            prefill,
            decode: load.output * tpot,
            pressure: self.pressure(load, &unseen),
            carbon: load.tokens * self.per.token_grams * options.carbon_s_per_gram,
            failures: self.penalty.seconds(now.at),
            stale: self.stale(now),
            ramp,
        }
    }

    /// Seconds of the prompt as the candidate itself tells, 0 where it does not.
    fn told_prefill(&self, load: &Load) -> f64 {
        match self.figures.prefill_tokens_per_s {
            told if told > 0.0 => load.uncached / told,
            _ => 0.0,
        }
    }

    /// What tells how many requests it should get beside those of others, where a request like this costs `terms` there.
    #[inline]
    pub(super) fn drift(&self, load: &Load, terms: &Terms, now: Moment) -> Drift {
        let one_more_s = self.one_more(load, terms).max(ONE_MORE_S_MIN);
        Drift {
            age_s: self.age_s(now),
            one_more_s,
            per_s: 1.0 / one_more_s,
            all: self.per.sequences,
            ours: f64::from(self.credits.sequences()),
            share: 0.0,
        }
    }

    /// Seconds that one more of the usual requests adds to the cost.
    fn one_more(&self, load: &Load, terms: &Terms) -> f64 {
        let prompt = load.usual_prompt * self.per.prompt_token_s;
        let tpot = self.tpot.or_usual(load.usual_tpot);
        let wait = match self.figures.waiting {
            0 => prompt,
            _ => prompt.max(self.one_ends_after(load, tpot)),
        };
        let decode = load.output * tpot * COMPANY_SHARE * self.per.companion;
        // The slope of k / (1 - k).
        let steepness = 1.0 + terms.pressure * (1.0 / PRESSURE_S);
        let tokens = load.usual_prompt + load.usual_output;
        let pressure = PRESSURE_S * steepness * steepness * tokens * self.per.kv_token;
        wait + decode + pressure
    }

    /// The longer of two lines: prompts before ours, and sequences that must end before there is room for more.
    fn wait(&self, load: &Load, unseen: &Change, tpot: f64) -> f64 {
        let figures = &self.figures;
        let queued = figures
            .queued_tokens
            .saturating_add_signed(unseen.prefill_tokens);
        let prompts = queued as f64 * self.per.prompt_token_s;
        if figures.waiting == 0 {
            return prompts;
        }
        let waiting = f64::from(figures.waiting) + unseen.sequences as f64;
        prompts.max(waiting.max(0.0) * self.one_ends_after(load, tpot))
    }

    /// Seconds until one of the sequences there ends.
    fn one_ends_after(&self, load: &Load, tpot: f64) -> f64 {
        load.usual_output * tpot * self.per.runner
    }

    /// How much slower a token is than it was when it was measured.
    fn slowdown(&self, load: &Load) -> f64 {
        let company = self.company() + load.sequences;
        let grows = COMPANY_SHARE * company * self.per.companion;
        (1.0 - COMPANY_SHARE + grows).clamp(1.0, SLOWDOWN_MAX)
    }

    fn pressure(&self, load: &Load, unseen: &Change) -> f64 {
        let per = &self.per;
        // Where the cache is not known, its part is 0.
        let used = (per.kv_used + unseen.kv_tokens as f64).max(0.0);
        let tokens = used + load.kv_tokens;
        let share = (tokens * per.kv_token).min(FULL);
        PRESSURE_S * share / (1.0 - share)
    }

    fn stale(&self, now: Moment) -> f64 {
        let silent = self.age_s(now) - FRESH_S;
        (silent * STALE_S_PER_S).clamp(0.0, STALE_S_MAX)
    }
}
