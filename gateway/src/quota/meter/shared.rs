//! A meter whose bounds several gateways share: what of it is on lease here, and what the store is told.

use std::time::Duration;

use super::{Bound, Limits, Meter};
use crate::quota::amount::Tokens;
use crate::quota::charge::Scope;
use crate::quota::lease::slice::{Slice, Turn};
use crate::quota::lease::term::StoreAway;
use crate::quota::lease::{Answer, Holding, Kind, Line, Size, Subject};
use crate::quota::rate::{Rate, Refused};

impl Meter {
    /// Shares its bounds with other gateways, but for that of waiting requests.
    pub fn share(&mut self) {
        self.rates
            .iter_mut()
            .flatten()
            .for_each(|rate| rate.share());
        let slots = self.concurrent.max.map(|_| self.slots.take());
        self.slots = slots.map(Option::unwrap_or_default);
    }

    /// What its tenant gets while the store is away.
    #[must_use]
    pub const fn store_away(&self) -> Option<StoreAway> {
        self.store_away
    }

    /// Lets a request of so many tokens in without a lease, by a rate of its own.
    ///
    /// # Errors
    /// [`Refused`], and nothing is taken.
    pub fn go_beyond(
        &mut self,
        per_minute: u64,
        tokens: u64,
        now: Duration,
    ) -> Result<(), Refused> {
        let beyond = self
            .beyond
            .get_or_insert_with(|| Box::new(Rate::new(per_minute)));
        if beyond.per_minute() != per_minute {
            beyond.change(per_minute, now);
        }
        beyond.check(tokens, now)?;
        beyond.take(tokens, now);
        Ok(())
    }

    /// Notes what a request of so many tokens waits for; whether that is anything.
    pub fn want(&mut self, tokens: Tokens, now: Duration) -> bool {
        let mut short = false;
        for (bound, rate) in Bound::RATES.into_iter().zip(&mut self.rates) {
            let (Some(rate), units) = (rate, bound.units(tokens)) else {
                continue;
            };
            if units > rate.per_minute() {
                continue;
            }
            let slice = rate.slice_mut();
            if let Some(slice) = slice.filter(|slice| slice.is_short(units, 0, now)) {
                slice.want(units);
                short = true;
            }
        }
        let running = u64::from(self.concurrent.now);
        let slots = self.slots.as_mut();
        if let Some(slots) = slots.filter(|slots| slots.is_short(1, running, now)) {
            slots.want(1);
            short = true;
        }
        short
    }

    /// Whether a request of so many tokens would have to wait for a round.
    #[must_use]
    pub fn lacks(&self, tokens: Tokens, now: Duration) -> bool {
        let running = u64::from(self.concurrent.now);
        let slots = self.slots.as_ref();
        let mut rates = self.rates();
        rates.any(|(bound, rate)| {
            let units = bound.units(tokens);
            let slice = rate.slice().filter(|_| units <= rate.per_minute());
            slice.is_some_and(|slice| slice.is_short(units, 0, now))
        }) || slots.is_some_and(|slots| slots.is_short(1, running, now))
    }

    /// Whoever waited got nothing: for a while nobody needs to ask.
    pub fn dry(&mut self, tokens: Tokens, now: Duration) {
        for (bound, rate) in Bound::RATES.into_iter().zip(&mut self.rates) {
            let slice = rate.as_mut().and_then(|rate| rate.slice_mut());
            if let Some(slice) = slice.filter(|slice| slice.free(0) < bound.units(tokens)) {
                slice.dry(now);
            }
        }
        let running = u64::from(self.concurrent.now);
        let slots = self.slots.as_mut();
        if let Some(slots) = slots.filter(|slots| slots.free(running) == 0) {
            slots.dry(now);
        }
    }

    /// Whether a round should come soon.
    #[must_use]
    pub fn runs_low(&self) -> bool {
        let running = u64::from(self.concurrent.now);
        let mut slices = self.rates().filter_map(|(_, rate)| rate.slice());
        slices.any(|slice| slice.runs_low(0))
            || self
                .slots
                .as_ref()
                .is_some_and(|slots| slots.runs_low(running))
    }

    /// What to tell the store in a round.
    pub fn lines(&mut self, scope: &Scope, turn: &Turn) -> Vec<Line> {
        let (slots_size, running) = (self.slots_size(), u64::from(self.concurrent.now));
        let mut lines = Vec::new();
        for (bound, slice, size) in self.slices() {
            let Some(subject) = Subject::of(scope, bound) else {
                continue;
            };
            lines.extend(slice.line(&subject, size, 0, turn));
        }
        let slots = self
            .slots
            .as_mut()
            .zip(Subject::of(scope, Bound::Concurrent));
        lines.extend(
            slots.and_then(|(slots, subject)| slots.line(&subject, slots_size, running, turn)),
        );
        lines
    }

    /// Its bounds.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let [requests, input, output, both] = self.rates.each_ref();
        let per_minute = |rate: &Option<Box<Rate>>| rate.as_ref().map(|rate| rate.per_minute());
        Limits {
            requests_per_minute: per_minute(requests),
            input_tokens_per_minute: per_minute(input),
            output_tokens_per_minute: per_minute(output),
            tokens_per_minute: per_minute(both),
            concurrent_max: self.concurrent.max,
            queued_max: self.queued.max,
            store_away: self.store_away,
        }
    }

    /// Gives back all that is on lease: its bounds are others from now on.
    pub fn give_up(&mut self, scope: &Scope) -> Vec<Line> {
        let mut lines = Vec::new();
        for (bound, slice, size) in self.slices() {
            if let Some(subject) = Subject::of(scope, bound) {
                lines.extend(std::mem::take(slice).give_up(&subject, size));
            }
        }
        let size = self.slots_size();
        let slots = self.slots.take().zip(Subject::of(scope, Bound::Concurrent));
        lines.extend(slots.and_then(|(slots, subject)| slots.give_up(&subject, size)));
        lines
    }

    /// What it holds, for a lease that begins anew.
    pub fn enlist(&mut self, scope: &Scope) -> Vec<Holding> {
        self.slices().for_each(|(_, slice, _)| slice.enlist(0));
        let (size, amount) = (self.slots_size(), u64::from(self.concurrent.now));
        let slots = self
            .slots
            .as_mut()
            .zip(Subject::of(scope, Bound::Concurrent));
        let slots = slots.map(|(slots, subject)| {
            slots.enlist(amount);
            Holding {
                subject,
                size,
                amount,
            }
        });
        slots.into_iter().collect()
    }

    /// Takes in what the store said to a line that asked for `need`.
    pub fn answer(&mut self, answer: &Answer, now: Duration, need: u64) {
        for (bound, rate) in Bound::RATES.into_iter().zip(&mut self.rates) {
            if let Some(rate) = rate
                .as_mut()
                .filter(|_| Kind::of(bound) == Some(answer.subject.kind))
            {
                rate.answer(answer, now, need);
            }
        }
        if let Some(slots) = &mut self.slots
            && answer.subject.kind == Kind::Concurrent
        {
            slots.answer(answer, now, need);
        }
    }

    /// Whether nothing is left to tell the store.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let mut slices = self.rates().filter_map(|(_, rate)| rate.slice());
        self.concurrent.now == 0
            && slices.all(Slice::is_idle)
            && self.slots.as_deref().is_none_or(Slice::is_idle)
    }

    /// Whether a bound of requests at once has no slot on lease.
    pub(super) fn lacks_slot(&self, bound: Bound) -> bool {
        let running = u64::from(self.concurrent.now);
        let slots = self.slots.as_ref();
        bound == Bound::Concurrent && slots.is_some_and(|slots| slots.free(running) == 0)
    }

    pub(super) fn take_slot(&mut self) {
        if let Some(slots) = &mut self.slots {
            slots.take(1);
        }
    }

    fn slices(&mut self) -> impl Iterator<Item = (Bound, &mut Slice, Size)> {
        let rates = Bound::RATES.into_iter().zip(&mut self.rates);
        rates.filter_map(|(bound, rate)| {
            let rate = rate.as_mut()?;
            let per_minute = rate.per_minute();
            Some((bound, rate.slice_mut()?, Size::Flow { per_minute }))
        })
    }

    fn slots_size(&self) -> Size {
        let max = self.concurrent.max.unwrap_or_default().into();
        Size::Slots { max }
    }
}
