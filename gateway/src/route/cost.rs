//! What a request would cost at a candidate, in seconds.
//!
//! `rtt + wait + prefill + expected tokens x tpot + pressure + carbon`, plus what past failures and silence are worth. Terms
//! in one unit can be compared over machines that have nothing in common, and read by people.

use serde::Serialize;

use super::candidate::{Moment, OUTDATED_AFTER_S};
use super::crowd::Drift;
use super::estimate::prompt_s;
use super::number::{larger, smaller};
use super::options::Options;
use super::sheet::Sheet;

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

/// What a request brings to whichever candidate, as far as one can know.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Tokens of the whole prompt.
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
}

/// The part of a prompt that a candidate has not cached.
#[derive(Debug, Clone, Copy)]
pub(super) struct Uncached {
    pub(super) tokens: f64,
    /// Seconds that it usually takes, over all candidates of the model.
    pub(super) usual_s: f64,
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

impl Sheet {
    /// The terms of `load` here and now, where nothing has failed.
    #[inline]
    pub(super) fn terms(
        &self,
        load: &Load,
        uncached: Uncached,
        options: &Options,
        now: Moment,
    ) -> Terms {
        let outdated = now.seconds - self.learnt_at_s > OUTDATED_AFTER_S;
        let (token, prefill) = match self.known && !outdated {
            true => (self.token_s, self.prompt_s(uncached.tokens)),
            false => self.doubted(load, uncached, outdated),
        };
        let tpot = token * self.slowdown(load);
        Terms {
            rtt: self.rtt_s,
            // The longer of two lines: prompts before ours, and sequences that must end before there is room for more.
            wait: larger(
                self.prompts_s,
                self.waiting * self.one_ends_after(load, tpot),
            ),
            prefill,
            decode: load.output * tpot,
            pressure: self.pressure(load),
            carbon: load.tokens * self.token_grams * options.carbon_s_per_gram,
            failures: 0.0,
            stale: self.stale(now),
            ramp: 1.0,
        }
    }

    /// Seconds of an output token and of the prompt where not both are known or what was learnt is out of date: what is usual,
    /// where that is better. Who was never tried must not look worse than all others for ever.
    #[inline(never)]
    fn doubted(&self, load: &Load, uncached: Uncached, outdated: bool) -> (f64, f64) {
        let mut token = self.usual_token_s(load);
        let mut prefill = self.prompt_s(uncached.tokens);
        if !self.prefill_known {
            prefill = smaller(prefill, uncached.usual_s);
        }
        if outdated {
            // What the candidate itself tells is not out of date.
            let told = match self.told_tokens_per_s {
                told if told > 0.0 => uncached.tokens / told,
                _ => 0.0,
            };
            token = smaller(token, load.usual_tpot);
            prefill = smaller(prefill, larger(uncached.usual_s, told));
        }
        (token, prefill)
    }

    #[inline(never)]
    fn usual_token_s(&self, load: &Load) -> f64 {
        match self.token_known {
            true => self.token_s,
            false => smaller(self.token_s, load.usual_tpot),
        }
    }

    fn prompt_s(&self, tokens: f64) -> f64 {
        prompt_s(self.prompt_s, self.kilotoken_s, tokens)
    }

    /// What tells how many requests it should get beside those of others, where a request like this costs `terms` there.
    #[inline]
    pub(super) fn drift(&self, load: &Load, terms: &Terms, now: Moment) -> Drift {
        let one_more_s = larger(self.one_more(load, terms), ONE_MORE_S_MIN);
        Drift {
            age_s: self.age_s(now),
            one_more_s,
            per_s: 1.0 / one_more_s,
            all: self.shown,
            ours: self.ours,
            share: 0.0,
        }
    }

    /// Seconds that one more of the usual requests adds to the cost.
    fn one_more(&self, load: &Load, terms: &Terms) -> f64 {
        let tpot = match self.known {
            true => self.token_s,
            false => self.usual_token_s(load),
        };
        let prompt = load.usual_prompt * self.line_token_s;
        let wait = larger(prompt, self.one_ends_after(load, tpot));
        let decode = load.output * tpot * COMPANY_SHARE * self.companion;
        // The slope of k / (1 - k).
        let steepness = 1.0 + terms.pressure * (1.0 / PRESSURE_S);
        let tokens = load.usual_prompt + load.usual_output;
        let pressure = PRESSURE_S * steepness * steepness * tokens * self.kv_token;
        wait + decode + pressure
    }

    /// Seconds until one of the sequences there ends and one in line begins; 0 where there is no line.
    fn one_ends_after(&self, load: &Load, tpot: f64) -> f64 {
        load.usual_output * tpot * self.runner
    }

    /// How much slower a token is than it was when it was measured.
    fn slowdown(&self, load: &Load) -> f64 {
        let company = self.company + load.sequences;
        let grows = COMPANY_SHARE * company * self.companion;
        smaller(larger(1.0 - COMPANY_SHARE + grows, 1.0), SLOWDOWN_MAX)
    }

    fn pressure(&self, load: &Load) -> f64 {
        // Where the cache is not known, its part is 0.
        let share = smaller((self.kv_used + load.kv_tokens) * self.kv_token, FULL);
        PRESSURE_S * share / (1.0 - share)
    }

    fn stale(&self, now: Moment) -> f64 {
        match self.age_s(now) - FRESH_S {
            silent if silent > 0.0 => smaller(silent * STALE_S_PER_S, STALE_S_MAX),
            _ => 0.0,
        }
    }
}
