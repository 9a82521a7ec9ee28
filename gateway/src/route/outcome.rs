//! What became of a request, and what the router learns from it.

use std::time::Duration;

use super::Router;
use super::facts::CandidateId;
use super::load::Work;
use super::policy::Eligible;

/// A request that was sent. Whoever holds it must hand it to [`Router::ended`], or the candidate looks busy for ever.
#[derive(Debug)]
pub struct Ticket {
    candidate: CandidateId,
    at: Duration,
    /// Prompt tokens that it was expected to compute.
    uncached: f64,
    /// Seconds that were expected before its prompt's turn.
    promised_s: f64,
    /// Seconds expected until the first content.
    expected_s: f64,
    /// What it brought, and the sequences at the candidate when it was sent, its own among them.
    work: Work,
    company: f64,
    /// Whether it was sent though its candidate may not be well.
    in_doubt: bool,
    /// Whether it shows how a candidate is that was not asked for long.
    proves: bool,
    /// When its first content came.
    first: Option<Duration>,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum End {
    /// It went well.
    Done(Served),
    /// The candidate has too much to do; it may have said for how long.
    Overloaded(Option<Duration>),
    /// The candidate failed.
    Failed,
    /// Its client left, or asked for what cannot be: nothing is learnt of the candidate.
    Left,
}

/// What a request that went well took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Served {
    /// Bytes and tokens of its prompt.
    pub prompt_bytes: u64,
    /// Tokens of its prompt.
    pub prompt_tokens: u32,
    /// Tokens of one choice on average.
    pub output_tokens: f64,
    /// Seconds of a token after the first; `None` where its reader was the slow one.
    pub tpot_s: Option<f64>,
}

impl Ticket {
    pub(super) fn new(
        pick: &Eligible,
        now: Duration,
        (work, company): (Work, f64),
        proves: bool,
    ) -> Self {
        Self {
            candidate: pick.id,
            at: now,
            uncached: pick.prompt - pick.cached,
            promised_s: pick.terms.rtt + pick.terms.wait,
            expected_s: pick.terms.first_content(),
            work,
            company,
            in_doubt: pick.in_doubt,
            proves,
            first: None,
        }
    }

    /// Who serves it.
    #[must_use]
    pub const fn candidate(&self) -> CandidateId {
        self.candidate
    }

    /// Seconds after which its first content was expected.
    #[must_use]
    pub const fn expected_s(&self) -> f64 {
        self.expected_s
    }
}

impl Router {
    /// The first content came. `seen` are hashes that the candidate has served by now: of the prompt and the session.
    pub fn first_content(&mut self, ticket: &mut Ticket, seen: &[u64], now: Duration) {
        if ticket.first.is_some() {
            return;
        }
        self.answered(ticket, seen, now);
        let took = now.saturating_sub(ticket.at).as_secs_f64();
        let prefill = took - ticket.promised_s;
        let model = self.change(ticket.candidate, |candidate| {
            candidate.learn_prefill(ticket.uncached, prefill, ticket.proves, now);
            candidate.row.model
        });
        if let Some(model) = model.and_then(|model| self.models.get_mut(model)) {
            model.prefill.learn(ticket.uncached, prefill);
        }
    }

    /// The answer came in one piece: as [`Router::first_content`], but for the time, which says nothing of when it began.
    pub fn answered(&mut self, ticket: &mut Ticket, seen: &[u64], now: Duration) {
        if ticket.first.replace(now).is_some() {
            return;
        }
        self.prefixes.note(seen, ticket.candidate);
        self.change(ticket.candidate, |candidate| {
            candidate.health.succeeded(ticket.at, now);
            candidate.credits.began(ticket.work, now);
        });
    }

    /// The request is over.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a request ends once, so its ticket is taken"
    )]
    pub fn ended(&mut self, ticket: Ticket, end: End, now: Duration) {
        let (id, company) = (ticket.candidate, ticket.company);
        // It looks at all candidates, and few requests fail.
        let may_eject = end == End::Failed && self.may_eject(id);
        let ejection = self.options.ejection;
        let began = ticket.first.is_some();
        let model = self.change(id, |candidate| {
            candidate.credits.ended(ticket.work, began, now);
            match end {
                End::Done(Served { tpot_s, .. }) => {
                    if let Some(tpot) = tpot_s {
                        candidate.learn_tpot(tpot, company, ticket.proves, now);
                    }
                }
                End::Overloaded(retry_after) => {
                    candidate.penalty.charge(now, retry_after);
                    // It lives, but must not be taken for recovered.
                    candidate.health.abandoned(now);
                }
                // That it may not be well was known.
                End::Failed if ticket.in_doubt => {
                    candidate.penalty.charge(now, None);
                    candidate.health.abandoned(now);
                }
                End::Failed => {
                    candidate.penalty.charge(now, None);
                    candidate.health.failed(now, &ejection, may_eject);
                }
                End::Left => candidate.health.abandoned(now),
            }
            candidate.row.model
        });
        if let (Some(model), End::Done(served)) = (model, end) {
            self.learn(model, &served);
        }
    }

    /// What the answer says of its model.
    fn learn(&mut self, model: usize, served: &Served) {
        let Some(model) = self.models.get_mut(model) else {
            return;
        };
        model.output.learn(served.output_tokens);
        if let Some(tpot) = served.tpot_s {
            model.tpot.learn(tpot);
        }
        if served.prompt_tokens > 0 {
            let bytes = served.prompt_bytes as f64 / f64::from(served.prompt_tokens);
            model.bytes_per_token.learn(bytes);
        }
    }

    /// Whether one more of the model's candidates may be out. The last one never is.
    fn may_eject(&self, id: CandidateId) -> bool {
        let candidate = self.candidates.get(id.index());
        let Some(model) = candidate.and_then(|known| self.models.get(known.row.model)) else {
            return false;
        };
        let ejected = |id: &&CandidateId| {
            let candidate = self.candidates.get(id.index());
            candidate.is_some_and(|candidate| candidate.health.is_ejected())
        };
        let out = model.candidates.iter().filter(ejected).count();
        let percent = self.options.ejection.percent_max as usize;
        (out + 1) * 100 <= model.candidates.len() * percent
    }
}
