//! What decisions read of a candidate.
//!
//! A decision looks at every candidate of its model; a request, or a report, changes one. So whatever follows from a candidate
//! alone is worked out when it changes, and put down side by side for the candidates of one model: a decision reads these
//! sheets from end to end, and hardly ever the candidates themselves.

use super::candidate::{Candidate, Moment};
use super::facts::{CandidateId, Facts};
use super::number::larger;
use super::policy::{DETOUR, Flaws, SILENT};

/// Time before the end of a candidate's walltime by which answers should be over.
const WALLTIME_MARGIN_S: f64 = 2.0;

/// Where a candidate's sheet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    /// Place of its model in the router.
    pub(super) model: usize,
    /// Place among the sheets of the model.
    pub(super) row: usize,
}

/// A candidate as it was when it changed last. Figures are kept as they are multiplied or added, so that nobody divides by them;
/// what ends in `at_s` or `until_s` is a moment of the clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sheet {
    pub(super) id: CandidateId,
    /// Whether a request's rules and means cannot tell it from the one before.
    pub(super) alike: bool,
    /// What it tells of itself.
    pub(super) ready: bool,
    pub(super) unheard: bool,
    pub(super) experimental: bool,
    /// Flaws that it has for every request.
    pub(super) flaws: Flaws,
    /// As many wait there as should.
    pub(super) full: bool,
    pub(super) hop: bool,
    /// Whether its own seconds of a token, of a prompt, and of both are known.
    pub(super) token_known: bool,
    pub(super) prefill_known: bool,
    pub(super) known: bool,
    pub(super) weight: u32,
    /// Place of its upstream's budget.
    pub(super) budget: usize,
    /// Until then failures count, and the candidate itself must be asked.
    pub(super) troubled_until_s: f64,
    /// When anything was learnt of it last that still counts.
    pub(super) learnt_at_s: f64,
    pub(super) true_at_s: f64,
    /// What was left of its time when the figures were true, without end where it has none.
    pub(super) left_s: f64,
    pub(super) rtt_s: f64,
    /// Seconds of an output token, beside the company in which it was measured, of which one is such a part.
    pub(super) token_s: f64,
    pub(super) companion: f64,
    /// Seconds of a prompt however short, and of a thousand tokens more.
    pub(super) prompt_s: f64,
    pub(super) kilotoken_s: f64,
    /// Prompt tokens a second as it tells, 0 where it does not.
    pub(super) told_tokens_per_s: f64,
    /// Seconds of a prompt token of the whole candidate: one prompt is computed by one node, however many a site has; a
    /// line is worked off by all of them.
    pub(super) line_token_s: f64,
    /// Seconds of the prompts in line.
    pub(super) prompts_s: f64,
    /// Sequences in line, and the part that one is of those that run; 0 where the figures show nobody in line.
    pub(super) waiting: f64,
    pub(super) runner: f64,
    /// KV tokens in use, and the part that one is of the cache; 0 where that is not known.
    pub(super) kv_used: f64,
    pub(super) kv_token: f64,
    /// Grams of carbon of a token, 0 where energy or grid are not known.
    pub(super) token_grams: f64,
    /// Sequences that the figures show, those there as far as we know, and those of ours.
    pub(super) shown: f64,
    pub(super) company: f64,
    pub(super) ours: f64,
    /// Those there, by its weight.
    pub(super) load: f64,
}

impl Sheet {
    pub(super) fn of(candidate: &Candidate, alike: bool) -> Self {
        let (figures, facts) = (&candidate.figures, &candidate.facts);
        let unseen = candidate.credits.unseen();
        let queued = figures
            .queued_tokens
            .saturating_add_signed(unseen.prefill_tokens);
        let kv_used = figures
            .kv_tokens_total
            .saturating_sub(figures.kv_tokens_free);
        let own = candidate.prefill.tokens_per_s();
        let line_token_s = 1.0 / figures.prefill_tokens_per_s.max(own);
        let (prompt_s, kilotoken_s) = candidate.prefill.line();
        Self {
            id: candidate.id,
            alike,
            ready: figures.ready,
            unheard: figures.unheard,
            flaws: if figures.silent { SILENT } else { 0 }
                | if figures.detour { DETOUR } else { 0 },
            experimental: figures.experimental,
            full: candidate.is_full(),
            hop: facts.hop,
            token_known: candidate.tpot.is_known(),
            prefill_known: candidate.prefill.is_known(),
            known: candidate.tpot.is_known() && candidate.prefill.is_known(),
            weight: facts.weight,
            budget: candidate.budget,
            troubled_until_s: candidate.troubled_until_s(),
            learnt_at_s: candidate.counts_since_s(),
            true_at_s: candidate.observed_at.as_secs_f64() - figures.age.as_secs_f64(),
            left_s: figures
                .walltime_left
                .map_or(f64::INFINITY, |left| left.as_secs_f64()),
            rtt_s: candidate.rtt().as_secs_f64(),
            token_s: candidate.tpot.get(),
            companion: 1.0 / candidate.tpot_company.get().max(1.0),
            prompt_s,
            kilotoken_s,
            told_tokens_per_s: figures.prefill_tokens_per_s,
            line_token_s,
            prompts_s: queued as f64 * line_token_s,
            waiting: (f64::from(figures.waiting) + unseen.sequences as f64).max(0.0),
            runner: match figures.waiting {
                0 => 0.0,
                _ => 1.0 / f64::from(figures.running.max(1)),
            },
            kv_used: (kv_used as f64 + unseen.kv_tokens as f64).max(0.0),
            kv_token: match figures.kv_tokens_total {
                0 => 0.0,
                total => 1.0 / total as f64,
            },
            token_grams: candidate.token_grams(),
            shown: candidate.shown(),
            company: candidate.company(),
            ours: f64::from(candidate.credits.sequences()),
            load: candidate.company() / f64::from(facts.weight.max(1)),
        }
    }

    /// Seconds since the figures were true.
    #[inline]
    pub(super) fn age_s(&self, now: Moment) -> f64 {
        larger(now.seconds - self.true_at_s, 0.0)
    }

    /// Whether it has an end.
    #[inline]
    pub(super) fn ends(&self) -> bool {
        self.left_s < f64::INFINITY
    }

    /// Whether it has an end that an answer of so many seconds would go on past.
    #[inline]
    pub(super) fn ends_before(&self, seconds: f64, now: Moment) -> bool {
        let left_s = larger(self.left_s - self.age_s(now), 0.0);
        self.ends() && seconds + WALLTIME_MARGIN_S > left_s
    }
}

/// Whether a request's rules and means cannot tell candidates apart.
pub(super) fn are_alike(one: &Facts, other: &Facts) -> bool {
    one.country == other.country
        && one.site == other.site
        && one.experimental == other.experimental
        && one.purposes == other.purposes
}
