//! Who is let through next where requests wait for room: a bounded line, without a socket, a task or a clock.
//!
//! Requests that somebody waits for come before those that may wait, but for those that have waited long. Within a class
//! the flow that was let through least goes first, by virtual token counters (Sheng et al., "Fairness in Serving Large
//! Language Models", OSDI 2024): each flow is charged what its request is expected to take. One that returns starts at the
//! least counter of those that wait, so that nobody saves up a claim by staying away. Where the line is full, a request
//! that may wait gives way to one that may not, and the flow with the longest part of it to one with a short part.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::limits::QUEUE_AGES;

/// Whether somebody waits for a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Somebody does.
    #[default]
    Interactive,
    /// It may wait.
    Batch,
}

/// What is known of a request that joins a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Whether somebody waits for it.
    pub class: Class,
    /// Whose it is, opaque.
    pub flow: u64,
    /// Tokens that it is expected to take, those of its answer weighing twice.
    pub cost: u64,
}

/// A request's place in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Waiter {
    flow: u64,
    class: Class,
    /// Grows with each that joins.
    number: u64,
}

/// The line is full of those with as good a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("as many requests wait already as may")]
pub struct Full;

/// The requests that wait for one model.
#[derive(Debug)]
pub struct Line {
    flows: HashMap<u64, Flow>,
    waiting: usize,
    max: usize,
    number: u64,
}

#[derive(Debug, Default)]
struct Flow {
    /// Tokens of those that were let through.
    served: u64,
    /// By class, in the order they came.
    lines: [VecDeque<Waiting>; 2],
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    since: Duration,
    cost: u64,
    /// Others go first until then.
    aside_until: Duration,
}

impl Line {
    /// A line of at most `max` requests.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            flows: HashMap::new(),
            waiting: 0,
            max,
            number: 0,
        }
    }

    /// Requests that wait.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.waiting
    }

    /// Whether nobody waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// A request joins. Says its place, and who had to leave for it.
    ///
    /// # Errors
    /// [`Full`] where nobody has to.
    pub fn join(&mut self, claim: Claim, now: Duration) -> Result<(Waiter, Option<Waiter>), Full> {
        let mut gone = None;
        if self.waiting >= self.max {
            let weaker = self.weaker(&claim).ok_or(Full)?;
            self.leave(weaker);
            gone = Some(weaker);
        }
        let least = self.least();
        self.number += 1;
        let waiter = Waiter {
            flow: claim.flow,
            class: claim.class,
            number: self.number,
        };
        let flow = self.flows.entry(claim.flow).or_default();
        if flow.waiting() == 0 {
            flow.served = flow.served.max(least);
        }
        flow.line(claim.class).push_back(Waiting {
            number: self.number,
            since: now,
            cost: claim.cost,
            aside_until: Duration::ZERO,
        });
        self.waiting += 1;
        Ok((waiter, gone))
    }

    /// Whose turn it is; `None` where nobody waits who was not put aside.
    #[must_use]
    pub fn first(&self, now: Duration) -> Option<Waiter> {
        let classes = [Class::Interactive, Class::Batch];
        let heads = self.flows.iter().flat_map(|(id, flow)| {
            classes.into_iter().filter_map(move |class| {
                let head = flow.head(class, now)?;
                let old = now >= head.since + QUEUE_AGES;
                let ranks_as = if old { Class::Interactive } else { class };
                let waiter = Waiter {
                    flow: *id,
                    class,
                    number: head.number,
                };
                Some(((ranks_as, flow.served, head.number), waiter))
            })
        });
        heads
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, waiter)| waiter)
    }

    /// It is let through, and its flow charged for it.
    pub fn enter(&mut self, waiter: Waiter) {
        let Some(left) = self.remove(waiter) else {
            return;
        };
        if let Some(flow) = self.flows.get_mut(&waiter.flow) {
            flow.served = flow.served.saturating_add(left.cost);
        }
        self.tidy();
    }

    /// It waits no longer.
    pub fn leave(&mut self, waiter: Waiter) {
        if self.remove(waiter).is_some() {
            self.tidy();
        }
    }

    /// Others go first for a while: there was room, but not for this one.
    pub fn aside(&mut self, waiter: Waiter, until: Duration) {
        let flow = self.flows.get_mut(&waiter.flow);
        let line = flow.map(|flow| flow.line(waiter.class));
        let waiting = line.and_then(|line| line.iter_mut().find(|w| w.number == waiter.number));
        if let Some(waiting) = waiting {
            waiting.aside_until = until;
        }
    }

    fn remove(&mut self, waiter: Waiter) -> Option<Waiting> {
        let line = self.flows.get_mut(&waiter.flow)?.line(waiter.class);
        let place = line.binary_search_by_key(&waiter.number, |waiting| waiting.number);
        let removed = line.remove(place.ok()?)?;
        self.waiting -= 1;
        Some(removed)
    }

    /// Who leaves for a newcomer: the youngest of the longest part of the line whose claim is weaker.
    fn weaker(&self, claim: &Claim) -> Option<Waiter> {
        let longest = |class: Class| {
            let flows = self.flows.iter();
            let lengths = flows.map(|(id, flow)| (flow.lines[class as usize].len(), *id));
            // By length and then by id, so that the same line gives the same answer.
            lengths.max()
        };
        let own = self.flows.get(&claim.flow);
        let own = own.map_or(0, |flow| flow.lines[claim.class as usize].len());
        let batch = longest(Class::Batch).filter(|(length, _)| *length > 0);
        let yields = match claim.class {
            Class::Interactive if batch.is_some() => batch.map(|(_, id)| (id, Class::Batch)),
            class => longest(class)
                .filter(|(length, _)| *length > own + 1)
                .map(|(_, id)| (id, class)),
        };
        let (id, class) = yields?;
        let youngest = self.flows.get(&id)?.lines[class as usize].back()?;
        Some(Waiter {
            flow: id,
            class,
            number: youngest.number,
        })
    }

    /// The least counter of the flows that wait.
    fn least(&self) -> u64 {
        let there = self.flows.values().filter(|flow| flow.waiting() > 0);
        there.map(|flow| flow.served).min().unwrap_or(0)
    }

    /// Forgets flows that are away and would be lifted anyway when they return.
    fn tidy(&mut self) {
        if self.waiting == 0 {
            return self.flows.clear();
        }
        let least = self.least();
        self.flows
            .retain(|_, flow| flow.waiting() > 0 || flow.served > least);
    }
}

impl Flow {
    fn line(&mut self, class: Class) -> &mut VecDeque<Waiting> {
        let [interactive, batch] = &mut self.lines;
        match class {
            Class::Interactive => interactive,
            Class::Batch => batch,
        }
    }

    fn waiting(&self) -> usize {
        self.lines.iter().map(VecDeque::len).sum()
    }

    /// The first of a class that was not put aside.
    fn head(&self, class: Class, now: Duration) -> Option<&Waiting> {
        let mut line = self.lines[class as usize].iter();
        line.find(|waiting| waiting.aside_until <= now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn s(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    fn claim(class: Class, flow: u64, cost: u64) -> Claim {
        Claim { class, flow, cost }
    }

    /// Lets everyone through and says the flows in that order.
    fn order(line: &mut Line, now: Duration) -> Vec<u64> {
        let next = || {
            let first = line.first(now)?;
            line.enter(first);
            Some(first.flow)
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn who_waits_comes_first_and_who_may_wait_comes_at_last() {
        let mut line = Line::new(10);
        line.join(claim(Class::Batch, 1, 5), s(0)).unwrap();
        line.join(claim(Class::Interactive, 2, 5), s(1)).unwrap();
        line.join(claim(Class::Interactive, 3, 5), s(40)).unwrap();
        let at = |line: &Line, now| line.first(now).unwrap().flow;
        assert_eq!(at(&line, s(2)), 2);
        // By now the first has waited as long as anyone should, and its flow had nothing yet.
        line.join(claim(Class::Interactive, 2, 5), s(40)).unwrap();
        assert_eq!(order(&mut line, QUEUE_AGES), [1, 2, 3, 2]);
    }

    #[test]
    fn a_flow_with_many_requests_gets_no_more_than_one_with_few() {
        let mut line = Line::new(100);
        for _ in 0..6 {
            line.join(claim(Class::Interactive, 1, 10), s(0)).unwrap();
        }
        for _ in 0..2 {
            line.join(claim(Class::Interactive, 2, 20), s(1)).unwrap();
        }
        // 20 tokens of the second for each 20 of the first.
        assert_eq!(order(&mut line, s(2)), [1, 2, 1, 1, 2, 1, 1, 1]);
        assert!(line.flows.is_empty());
    }

    #[test]
    fn staying_away_saves_nothing_up_and_leaving_sheds_no_debt() {
        let mut line = Line::new(100);
        for _ in 0..4 {
            line.join(claim(Class::Interactive, 1, 10), s(0)).unwrap();
            line.join(claim(Class::Interactive, 2, 10), s(0)).unwrap();
        }
        for _ in 0..6 {
            line.enter(line.first(s(1)).unwrap());
        }
        line.join(claim(Class::Interactive, 3, 10), s(1)).unwrap();
        line.join(claim(Class::Interactive, 3, 10), s(1)).unwrap();
        // The newcomer does not go twice before the others go once.
        let order = order(&mut line, s(2));
        assert_eq!(order.iter().take(3).filter(|flow| **flow == 3).count(), 1);
    }

    #[test]
    fn a_full_line_gives_way_to_a_better_claim_and_to_no_other() {
        let mut line = Line::new(4);
        for _ in 0..3 {
            line.join(claim(Class::Interactive, 1, 1), s(0)).unwrap();
        }
        let (batch, _) = line.join(claim(Class::Batch, 2, 1), s(0)).unwrap();
        assert_eq!(line.join(claim(Class::Batch, 2, 1), s(0)), Err(Full));
        let (_, gone) = line.join(claim(Class::Interactive, 1, 1), s(0)).unwrap();
        assert_eq!(gone, Some(batch));
        // One flow has all four places; another takes two of them and no more.
        for _ in 0..2 {
            let (_, gone) = line.join(claim(Class::Interactive, 3, 1), s(0)).unwrap();
            assert_eq!(gone.unwrap().flow, 1);
        }
        assert_eq!(line.join(claim(Class::Interactive, 3, 1), s(0)), Err(Full));
        assert_eq!(line.join(claim(Class::Interactive, 1, 1), s(0)), Err(Full));
        assert_eq!(line.len(), 4);
    }

    #[test]
    fn one_that_was_put_aside_lets_others_by_and_keeps_its_place() {
        let mut line = Line::new(4);
        let (first, _) = line.join(claim(Class::Interactive, 1, 1), s(0)).unwrap();
        let (second, _) = line.join(claim(Class::Interactive, 1, 1), s(0)).unwrap();
        line.aside(first, s(5));
        assert_eq!(line.first(s(4)), Some(second));
        assert_eq!(line.first(s(5)), Some(first));
        line.aside(second, s(9));
        line.leave(first);
        assert_eq!(line.first(s(8)), None);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Join(Claim),
        Enter,
        Leave(usize),
        Aside(usize),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let class = prop_oneof![Just(Class::Interactive), Just(Class::Batch)];
        let claims = (class, 0..5_u64, 1..100_u64);
        prop_oneof![
            4 => claims.prop_map(|(class, flow, cost)| Step::Join(Claim { class, flow, cost })),
            3 => Just(Step::Enter),
            1 => (0..20_usize).prop_map(Step::Leave),
            1 => (0..20_usize).prop_map(Step::Aside),
            1 => (0..20_u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Everyone who joined is let through, left, gave way or waits; and where all are there, somebody is first.
        #[test]
        fn nobody_is_lost(steps in prop::collection::vec(step(), 1..200)) {
            let (mut line, mut now) = (Line::new(12), s(0));
            let mut there: Vec<Waiter> = Vec::new();
            for step in steps {
                match step {
                    Step::Join(claim) => {
                        if let Ok((waiter, gone)) = line.join(claim, now) {
                            there.retain(|known| Some(*known) != gone);
                            there.push(waiter);
                        }
                    }
                    Step::Enter => {
                        let first = line.first(now);
                        first.into_iter().for_each(|first| line.enter(first));
                        there.retain(|known| Some(*known) != first);
                    }
                    Step::Leave(which) if which < there.len() => {
                        line.leave(there.swap_remove(which));
                    }
                    Step::Aside(which) => {
                        if let Some(waiter) = there.get(which) {
                            line.aside(*waiter, now + s(3));
                        }
                    }
                    Step::Wait(by) => now += s(by),
                    Step::Leave(_) => {}
                }
                prop_assert_eq!(line.len(), there.len());
                prop_assert!(line.len() <= 12);
                let later = line.first(now + s(3));
                prop_assert_eq!(later.is_some(), !there.is_empty());
                prop_assert!(later.is_none_or(|later| there.contains(&later)));
            }
        }

        /// While both wait, neither of two flows is ahead by more than its last request.
        #[test]
        fn two_flows_that_wait_get_alike(costs in prop::collection::vec((1..50_u64, 1..50_u64), 20)) {
            let mut line = Line::new(100);
            for (one, other) in &costs {
                line.join(claim(Class::Batch, 1, *one), s(0)).unwrap();
                line.join(claim(Class::Batch, 2, *other), s(0)).unwrap();
            }
            let mut served = [0_u64; 2];
            let (mut ones, mut others) = (costs.iter().map(|c| c.0), costs.iter().map(|c| c.1));
            for _ in 0..costs.len() {
                let first = line.first(s(1)).unwrap();
                line.enter(first);
                let cost = if first.flow == 1 { ones.next() } else { others.next() };
                served[first.flow as usize - 1] += cost.unwrap();
                prop_assert!(served[0].abs_diff(served[1]) <= 50);
            }
        }
    }
}
