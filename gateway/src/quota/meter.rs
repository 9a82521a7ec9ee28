//! What one scope spends at the moment: its rates, and how many of its requests run and wait.

mod shared;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::amount::Tokens;
use super::lease::slice::Slice;
use super::lease::term::StoreAway;
use super::rate::{Rate, Refused};

/// Bounds of one scope; `None` is no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Requests in a minute.
    pub requests_per_minute: Option<u64>,
    /// Tokens of prompts in a minute.
    pub input_tokens_per_minute: Option<u64>,
    /// Tokens of completions in a minute.
    pub output_tokens_per_minute: Option<u64>,
    /// Tokens of both in a minute.
    pub tokens_per_minute: Option<u64>,
    /// Requests at once.
    pub concurrent_max: Option<u32>,
    /// Requests that wait for their first content.
    pub queued_max: Option<u32>,
    /// What happens while the store that gateways share is away; as for its organisation, or `safe`, where left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_away: Option<StoreAway>,
}

impl Limits {
    /// Whether nothing is bounded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One of a scope's bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Requests in a minute.
    Requests,
    /// Tokens of prompts in a minute.
    InputTokens,
    /// Tokens of completions in a minute.
    OutputTokens,
    /// Tokens of both in a minute.
    Tokens,
    /// Requests at once.
    Concurrent,
    /// Requests that wait.
    Queued,
}

impl Bound {
    /// The bounds that are rates, in the order of [`Meter`].
    const RATES: [Self; 4] = [
        Self::Requests,
        Self::InputTokens,
        Self::OutputTokens,
        Self::Tokens,
    ];

    /// Units that a request of so many tokens takes.
    const fn units(self, tokens: Tokens) -> u64 {
        match self {
            Self::InputTokens => tokens.prompt,
            Self::OutputTokens => tokens.completion,
            Self::Tokens => tokens.total(),
            Self::Requests | Self::Concurrent | Self::Queued => 1,
        }
    }

    /// In words, for messages.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Requests => "requests per minute",
            Self::InputTokens => "prompt tokens per minute",
            Self::OutputTokens => "completion tokens per minute",
            Self::Tokens => "tokens per minute",
            Self::Concurrent => "requests at once",
            Self::Queued => "waiting requests",
        }
    }
}

/// Which bound is in the way, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short {
    /// The bound.
    pub bound: Bound,
    /// Its figure.
    pub limit: u64,
    /// Time after which it has room if nobody else takes it; `None` where it never has room for that much.
    pub wait: Option<Duration>,
}

/// A scope's bounds and what is spent of them. There may be one for every key: what it does not need takes no room.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    rates: [Option<Box<Rate>>; 4],
    concurrent: Counter,
    queued: Counter,
    /// Where gateways share the bound of requests at once: how many this one may run.
    slots: Option<Box<Slice>>,
    store_away: Option<StoreAway>,
    /// What was let in without a lease.
    beyond: Option<Box<Rate>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counter {
    now: u32,
    max: Option<u32>,
}

impl Counter {
    const fn is_full(&self) -> bool {
        matches!(self.max, Some(max) if self.now >= max)
    }
}

/// How long to wait for another request of the same scope to end: nobody knows, so a short and even time.
const WAIT_FOR_OTHERS: Duration = Duration::from_secs(1);

impl Meter {
    /// Puts other bounds in force; what is spent stays spent.
    pub fn set(&mut self, limits: &Limits, now: Duration) {
        let per_minute = [
            limits.requests_per_minute,
            limits.input_tokens_per_minute,
            limits.output_tokens_per_minute,
            limits.tokens_per_minute,
        ];
        for (rate, per_minute) in self.rates.iter_mut().zip(per_minute) {
            match (rate.as_mut(), per_minute) {
                (Some(rate), Some(per_minute)) => rate.change(per_minute, now),
                _ => *rate = per_minute.map(|per_minute| Box::new(Rate::new(per_minute))),
            }
        }
        self.store_away = limits.store_away;
        self.concurrent.max = limits.concurrent_max;
        self.queued.max = limits.queued_max;
    }

    /// Whether a request of so many tokens may begin.
    ///
    /// # Errors
    /// The bound that is longest in the way.
    pub fn check(&self, tokens: Tokens, now: Duration) -> Result<(), Short> {
        let counters = [
            (Bound::Concurrent, self.concurrent),
            (Bound::Queued, self.queued),
        ];
        let full = counters
            .into_iter()
            .filter(|(bound, counter)| counter.is_full() || self.lacks_slot(*bound));
        let full = full.map(|(bound, counter)| Short {
            bound,
            limit: counter.max.unwrap_or_default().into(),
            // A bound of nothing admits nothing, however long one waits.
            wait: (counter.max != Some(0)).then_some(WAIT_FOR_OTHERS),
        });
        let short = self.rates().filter_map(|(bound, rate)| {
            let wait = match rate.check(bound.units(tokens), now) {
                Ok(()) => return None,
                Err(Refused::Wait(wait)) => Some(wait),
                Err(Refused::TooLarge) => None,
            };
            let limit = rate.per_minute();
            Some(Short { bound, limit, wait })
        });
        let longest = full
            .chain(short)
            .max_by_key(|short| short.wait.unwrap_or(Duration::MAX));
        longest.map_or(Ok(()), Err)
    }

    /// Lets a request in.
    pub fn begin(&mut self, tokens: Tokens, now: Duration) {
        for (bound, rate) in Bound::RATES.into_iter().zip(&mut self.rates) {
            if let Some(rate) = rate {
                rate.take(bound.units(tokens), now);
            }
        }
        self.concurrent.now += 1;
        self.queued.now += 1;
        self.take_slot();
    }

    /// A request got its first content.
    pub const fn started(&mut self) {
        self.queued.now = self.queued.now.saturating_sub(1);
    }

    /// A request that took `reserved` at `taken` is over and used `used`. The request itself stays counted.
    pub fn end(&mut self, reserved: Tokens, used: Tokens, taken: Duration, now: Duration) {
        let rates = Bound::RATES.into_iter().zip(&mut self.rates).skip(1);
        for (bound, rate) in rates {
            let Some(rate) = rate else { continue };
            let (held, units) = (bound.units(reserved), bound.units(used));
            match held.checked_sub(units) {
                Some(back) => rate.give_back(back, taken, now),
                None => rate.take(units - held, now),
            }
        }
        self.concurrent.now = self.concurrent.now.saturating_sub(1);
    }

    /// A request goes on elsewhere; what it took of the rates stays taken.
    pub const fn leave(&mut self, started: bool) {
        self.concurrent.now = self.concurrent.now.saturating_sub(1);
        if !started {
            self.started();
        }
    }

    /// The rates that are bounded.
    pub fn rates(&self) -> impl Iterator<Item = (Bound, &Rate)> {
        let rates = Bound::RATES.into_iter().zip(&self.rates);
        rates.filter_map(|(bound, rate)| Some((bound, rate.as_deref()?)))
    }

    /// Requests that run, waiting ones included.
    #[must_use]
    pub const fn concurrent(&self) -> u32 {
        self.concurrent.now
    }

    /// Of these, the ones that wait for their first content.
    #[must_use]
    pub const fn queued(&self) -> u32 {
        self.queued.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    fn tokens(prompt: u64, completion: u64) -> Tokens {
        Tokens {
            prompt,
            cached: 0,
            completion,
        }
    }

    fn meter(limits: Limits) -> Meter {
        let mut meter = Meter::default();
        meter.set(&limits, NOW);
        meter
    }

    #[test]
    fn each_bound_refuses_by_its_own_measure() {
        let of = |bound: Bound| {
            let some = Some(10);
            let mut limits = Limits::default();
            match bound {
                Bound::Requests => limits.requests_per_minute = Some(1),
                Bound::InputTokens => limits.input_tokens_per_minute = some,
                Bound::OutputTokens => limits.output_tokens_per_minute = some,
                Bound::Tokens => limits.tokens_per_minute = some,
                Bound::Concurrent => limits.concurrent_max = Some(1),
                Bound::Queued => limits.queued_max = Some(1),
            }
            limits
        };
        for (bound, prompt, completion) in [
            (Bound::Requests, 1, 1),
            (Bound::InputTokens, 10, 99),
            (Bound::OutputTokens, 99, 10),
            (Bound::Tokens, 6, 4),
            (Bound::Concurrent, 99, 99),
            (Bound::Queued, 99, 99),
        ] {
            let mut meter = meter(of(bound));
            let ask = tokens(prompt, completion);
            assert_eq!(meter.check(ask, NOW), Ok(()), "{bound:?}");
            meter.begin(ask, NOW);
            let short = meter.check(ask, NOW).unwrap_err();
            assert_eq!(short.bound, bound);
            assert!(short.wait.is_some(), "{bound:?} will have room again");
        }
    }

    #[test]
    fn tokens_that_were_not_used_come_back_and_the_request_does_not() {
        let mut meter = meter(Limits {
            requests_per_minute: Some(2),
            tokens_per_minute: Some(100),
            concurrent_max: Some(1),
            queued_max: Some(1),
            ..Limits::default()
        });
        meter.begin(tokens(50, 50), NOW);
        meter.started();
        assert_eq!((meter.concurrent(), meter.queued()), (1, 0));
        meter.end(tokens(50, 50), tokens(50, 10), NOW, NOW);
        assert_eq!(meter.concurrent(), 0);
        let left: Vec<_> = meter.rates().map(|(_, rate)| rate.remaining(NOW)).collect();
        assert_eq!(left, [1, 40]);
    }

    #[test]
    fn more_than_was_reserved_is_owed() {
        let mut meter = meter(Limits {
            tokens_per_minute: Some(100),
            ..Limits::default()
        });
        meter.begin(tokens(10, 10), NOW);
        meter.end(tokens(10, 10), tokens(10, 140), NOW, NOW);
        let short = meter.check(tokens(1, 0), NOW).unwrap_err();
        assert!(short.wait.unwrap() > Duration::from_secs(30), "{short:?}");
    }
}
