//! What requests ask for: number `n` of a run is the same on every machine, whatever was asked before it. Text, lengths,
//! model, tenant, priority and impatience are drawn from the seed and the request's place.
//!
//! Knows nothing of when requests are due, nor of sockets.

pub mod form;
pub mod mix;
pub mod schema;
pub mod text;

use std::fmt;
use std::sync::Arc;

use http::HeaderValue;

use self::form::Form;
use self::mix::Mix;
use crate::drive::prompt::{Ask, Endpoint, Message, Role};
use crate::limits::MAX_TOKENS;
use crate::rng::{SplitMix64, mix};
use crate::spread::Spread;
use crate::trace::{Entry, Trace};

/// Everything that requests of a run are made from.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Seed of all that is drawn.
    pub seed: u64,
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Asks servers to go on past the end of an answer.
    pub ignore_eos: bool,
    /// Sends a seed with every request, which fixes the text of a simulated model.
    pub send_seed: bool,
    /// Where prompts and lengths come from.
    pub source: Source,
    /// Models; at least one.
    pub models: Mix<Arc<str>>,
    /// Who asks; may be empty.
    pub tenants: Mix<Tenant>,
    /// Priorities that are sent; may be empty.
    pub priorities: Mix<i32>,
    /// Forms that answers must have; may be empty.
    pub forms: Mix<Arc<Form>>,
    /// Clients that go away.
    pub abort: Option<Abort>,
}

/// Where prompts and lengths come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Drawn.
    Synthetic(Synthetic),
    /// Recorded.
    Replay(Arc<Trace>),
}

/// Drawn prompts: different for every request, so that a server's prefix cache holds nothing but what is asked to be
/// shared, and does not flatter it.
#[derive(Debug, Clone)]
pub struct Synthetic {
    /// Words of what a user says in one turn, about one token each.
    pub prompt: Spread,
    /// Most tokens of an answer.
    pub output: Spread,
    /// What sessions share.
    pub prefix: Option<Prefix>,
    /// Turns of a session; more than one need a closed loop.
    pub turns: Spread,
    /// Texts of one request for vectors, each of `prompt` words.
    pub texts: u32,
}

impl Default for Synthetic {
    /// 128 words for at most 64 tokens, nothing shared, one turn.
    fn default() -> Self {
        Self {
            prompt: Spread::Fixed(128.0),
            output: Spread::Fixed(64.0),
            prefix: None,
            turns: Spread::Fixed(1.0),
            texts: 1,
        }
    }
}

/// A system message that sessions share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prefix {
    /// Its words.
    pub tokens: u32,
    /// Share of sessions that have one, from 0 to 1, kept exactly: after `n` sessions `n * share` of them, rounded down.
    pub share: f64,
    /// Different ones; each session has one of them, all equally likely.
    pub count: u32,
}

/// Someone who asks with a key of their own.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// The name in reports.
    pub name: Arc<str>,
    /// `authorization`, instead of the run's own.
    pub authorization: Option<HeaderValue>,
}

/// Clients that close their connection in the middle of an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Abort {
    /// Share of requests, from 0 to 1.
    pub share: f64,
    /// After this many content events.
    pub after: Spread,
}

/// Which request it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Number of the session; in an open loop, of the request.
    pub session: u64,
    /// Number of the turn in the session, from 0.
    pub turn: u32,
}

/// One request, ready to be sent.
#[derive(Debug, Clone)]
pub struct Item {
    /// What it asks for.
    pub ask: Ask,
    /// Who asks.
    pub tenant: Option<Tenant>,
    /// The client goes away after this many content events.
    pub abort_after: Option<u32>,
    /// The answer's text is needed for the next turn.
    pub goes_on: bool,
}

/// Keeps draws of different kinds apart, so that a change of one leaves the others alone.
#[derive(Clone, Copy)]
enum Draw {
    Prompt = 0,
    Output = 1,
    Model = 2,
    Tenant = 3,
    Priority = 4,
    Abort = 5,
    Prefix = 6,
    Turns = 7,
    Block = 8,
    PrefixText = 9,
    Form = 10,
}

impl Workload {
    /// The request at `place`. `history` is the chat before it: what [`Workload::begin`] gave, and all turns since.
    pub fn item(&self, place: Place, mut history: Vec<Message>) -> Item {
        let (model, tenant) = self.who(place);
        let mut rng = self.rng(Draw::Priority, place.session);
        let priority = self.priorities.draw(&mut rng).copied();
        let entry = self.entry(place);
        let output_tokens = self.append(place, &mut history);
        let ask = Ask {
            endpoint: self.endpoint,
            model,
            messages: history,
            output_tokens,
            seed: self.send_seed.then(|| self.sampling_seed(place)),
            ignore_eos: self.ignore_eos,
            priority: entry.and_then(|entry| entry.priority).or(priority),
            form: self
                .forms
                .draw(&mut self.rng(Draw::Form, place.session))
                .cloned(),
        };
        Item {
            ask,
            tenant,
            abort_after: self.abort_after(place),
            goes_on: self.answers_are_kept() && place.turn + 1 < self.turns(place.session),
        }
    }

    /// The model that is asked for at `place`, and who asks; the same for all turns of a session.
    pub fn who(&self, place: Place) -> (Arc<str>, Option<Tenant>) {
        let recorded = self.entry(place).and_then(|entry| entry.model.clone());
        let mut rng = self.rng(Draw::Model, place.session);
        let model = recorded.or_else(|| self.models.draw(&mut rng).cloned());
        let tenant = self
            .tenants
            .draw(&mut self.rng(Draw::Tenant, place.session));
        (model.unwrap_or_else(|| "".into()), tenant.cloned())
    }

    /// Where request number `index` of an open loop stands.
    pub fn place(&self, index: u64) -> Place {
        match &self.source {
            Source::Synthetic(_) => Place {
                session: index,
                turn: 0,
            },
            Source::Replay(trace) => trace.place(index),
        }
    }

    /// Tenants with their shares of the load, from 0 to 1.
    pub fn tenant_shares(&self) -> Vec<(Arc<str>, f64)> {
        let names = self
            .tenants
            .items()
            .iter()
            .map(|tenant| tenant.name.clone());
        names.zip(self.tenants.shares()).collect()
    }

    /// The same without anything that would fill caches with the run's own prompts, and with patient clients.
    pub fn for_warm_up(&self) -> Self {
        let once = Spread::Fixed(1.0);
        let (prompt, output) = match &self.source {
            Source::Synthetic(synthetic) => (synthetic.prompt, synthetic.output),
            Source::Replay(_) => (Spread::Fixed(128.0), Spread::Fixed(16.0)),
        };
        Self {
            source: Source::Synthetic(Synthetic {
                prompt,
                output,
                prefix: None,
                turns: once,
                texts: 1,
            }),
            abort: None,
            ..self.clone()
        }
    }

    /// Short requests for one token, to feel what a load does to others.
    pub fn for_probes(&self) -> Self {
        let source = Source::Synthetic(Synthetic {
            prompt: Spread::Fixed(8.0),
            output: Spread::Fixed(1.0),
            ..Synthetic::default()
        });
        Self {
            seed: !self.seed,
            source,
            forms: Mix::none(),
            abort: None,
            ..self.clone()
        }
    }

    /// What stands before the first turn of a session: the shared prefix, if it has one.
    pub fn begin(&self, session: u64) -> Vec<Message> {
        let Source::Synthetic(Synthetic {
            prefix: Some(prefix),
            ..
        }) = &self.source
        else {
            return Vec::new();
        };
        // Exactly the sessions at which the rounded-down sum of shares grows.
        let sum = |sessions: u64| (sessions as f64 * prefix.share).floor();
        if sum(session + 1) <= sum(session) {
            return Vec::new();
        }
        let which = self.rng(Draw::Prefix, session).next_u64() % u64::from(prefix.count.max(1));
        let mut text = String::new();
        text::push_words(
            &mut text,
            &mut self.rng(Draw::PrefixText, which),
            prefix.tokens,
        );
        vec![Role::System.says(text)]
    }

    /// Turns of a session; zero for one that does not exist.
    pub fn turns(&self, session: u64) -> u32 {
        match &self.source {
            Source::Synthetic(synthetic) => {
                let mut rng = self.rng(Draw::Turns, session);
                synthetic.turns.sample_whole(&mut rng).max(1)
            }
            Source::Replay(trace) => trace.turns(session),
        }
    }

    /// Sessions there are; None where there is no end of them.
    pub fn sessions(&self) -> Option<u64> {
        match &self.source {
            Source::Synthetic(_) => None,
            Source::Replay(trace) => Some(trace.sessions()),
        }
    }

    /// The `seed` that is sent; 31 bits, which every server takes.
    pub fn sampling_seed(&self, place: Place) -> u64 {
        SplitMix64::for_item(!self.seed, number(place)).next_u64() >> 33
    }

    /// Whether the text of an answer is part of the next turn's prompt. Recorded chats bring their own answers.
    fn answers_are_kept(&self) -> bool {
        matches!(self.source, Source::Synthetic(_))
    }

    fn entry(&self, place: Place) -> Option<&Entry> {
        match &self.source {
            Source::Synthetic(_) => None,
            Source::Replay(trace) => trace.entry(place),
        }
    }

    /// Adds what is said in this turn to the chat, and says how long the answer may be.
    fn append(&self, place: Place, history: &mut Vec<Message>) -> u32 {
        let item = number(place);
        match &self.source {
            Source::Synthetic(synthetic) => {
                let mut lengths = self.rng(Draw::Output, item);
                let output = synthetic.output.sample_whole(&mut lengths);
                let words = synthetic.prompt.sample_whole(&mut lengths);
                let mut rng = self.rng(Draw::Prompt, item);
                let texts = if self.endpoint.streams() {
                    1
                } else {
                    synthetic.texts
                };
                for _ in 0..texts {
                    let text = text::prompt(&mut rng, words.clamp(1, MAX_TOKENS));
                    history.push(Role::User.says(text));
                }
                output.clamp(1, MAX_TOKENS)
            }
            Source::Replay(_) => {
                let Some(entry) = self.entry(place) else {
                    return 1;
                };
                let block = |id| self.rng(Draw::Block, id);
                let own = self.rng(Draw::Prompt, entry.prompt.stream().unwrap_or(item));
                *history = entry.prompt.messages(own, block);
                entry.output_tokens
            }
        }
    }

    fn abort_after(&self, place: Place) -> Option<u32> {
        let abort = self.abort?;
        let mut rng = self.rng(Draw::Abort, number(place));
        let leaves = rng.next_unit() < abort.share;
        leaves.then(|| abort.after.sample_whole(&mut rng).max(1))
    }

    fn rng(&self, draw: Draw, item: u64) -> SplitMix64 {
        match draw {
            // The first kind has the plain seed: prompts are those that the seed always named.
            Draw::Prompt => SplitMix64::for_item(self.seed, item),
            other => SplitMix64::for_item(mix(self.seed.wrapping_add(other as u64)), item),
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Synthetic(synthetic) => {
                let Synthetic { prompt, output, .. } = synthetic;
                write!(
                    f,
                    "prompts of about {prompt} words, answers of at most {output} tokens"
                )?;
                if let Some(prefix) = synthetic.prefix {
                    let Prefix {
                        tokens,
                        share,
                        count,
                    } = prefix;
                    write!(
                        f,
                        ", {}% after one of {count} prefixes of {tokens}",
                        share * 100.0
                    )?;
                }
                if synthetic.turns != Spread::Fixed(1.0) {
                    write!(f, ", sessions of {} turns", synthetic.turns)?;
                }
            }
            Source::Replay(trace) => {
                let (requests, sessions) = (trace.entries().len(), trace.sessions());
                write!(f, "{requests} recorded requests in {sessions} sessions")?;
            }
        }
        for (count, name) in [
            (self.models.items().len(), "models"),
            (self.tenants.items().len(), "tenants"),
            (self.forms.items().len(), "forms"),
        ] {
            if count > 1 {
                write!(f, ", {count} {name}")?;
            }
        }
        match self.abort {
            Some(abort) => write!(f, ", {}% of clients go away", abort.share * 100.0),
            None => Ok(()),
        }
    }
}

/// A number of its own for every request; that of the session for its first turn.
fn number(place: Place) -> u64 {
    place.session ^ (u64::from(place.turn) << 40)
}

#[cfg(test)]
pub(crate) mod tests;
