//! The decisions of the last minutes, by request id, for operators who ask why.
//!
//! Bounded by number and age. A client may choose its id, so a second request of the same id replaces the first.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::decision::{Attempt, Decision};
use crate::limits::{DECISIONS_KEPT, DECISIONS_MAX, DECISIONS_PER_REQUEST_MAX};

/// The records of a server.
#[derive(Debug, Default)]
pub struct Decisions {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Requests in the order they came: when, number, id.
    order: VecDeque<(Duration, u64, Arc<str>)>,
    by_id: HashMap<Arc<str>, Request>,
    number: u64,
}

#[derive(Debug)]
struct Request {
    number: u64,
    decisions: Vec<Arc<Decision>>,
    serving: Option<Arc<Decision>>,
}

impl Decisions {
    /// Keeps a decision of request `id`.
    pub fn note(&self, id: &Arc<str>, decision: Arc<Decision>) {
        let mut kept = self.kept();
        kept.forget(decision.at);
        let known = kept.by_id.get_mut(id);
        let begins = matches!(decision.attempt, Attempt::Count | Attempt::First);
        match known.filter(|_| !begins) {
            Some(request) if request.decisions.len() < DECISIONS_PER_REQUEST_MAX => {
                request.decisions.push(decision);
            }
            Some(_) => {}
            None => kept.begin(id, decision),
        }
    }

    /// Notes by which of its decisions request `id` is being served.
    pub fn serves(&self, id: &str, decision: &Arc<Decision>) {
        if let Some(request) = self.kept().by_id.get_mut(id) {
            request.serving = Some(Arc::clone(decision));
        }
    }

    /// The decision by which request `id` is being served, or was.
    #[must_use]
    pub fn serving(&self, id: &str) -> Option<Arc<Decision>> {
        self.kept().by_id.get(id)?.serving.clone()
    }

    /// The decisions of request `id`, first to last.
    #[must_use]
    pub fn get(&self, id: &str, now: Duration) -> Option<Vec<Arc<Decision>>> {
        let mut kept = self.kept();
        kept.forget(now);
        kept.by_id.get(id).map(|request| request.decisions.clone())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn begin(&mut self, id: &Arc<str>, decision: Arc<Decision>) {
        self.number += 1;
        let entry = (decision.at, self.number, Arc::clone(id));
        self.order.push_back(entry);
        let request = Request {
            number: self.number,
            decisions: vec![decision],
            serving: None,
        };
        self.by_id.insert(Arc::clone(id), request);
    }

    /// Drops what is too old, and the oldest where there are too many.
    fn forget(&mut self, now: Duration) {
        let mut drop_one = self.order.len() >= DECISIONS_MAX;
        while let Some((at, _, _)) = self.order.front() {
            if !drop_one && now.saturating_sub(*at) < DECISIONS_KEPT {
                return;
            }
            drop_one = false;
            let Some((_, number, id)) = self.order.pop_front() else {
                return;
            };
            // A later request of the same id stays.
            if self.by_id.get(&id).is_some_and(|r| r.number == number) {
                self.by_id.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::decision::Filtered;
    use hansa_config::schema::Policy;

    fn decision(at_s: u64, attempt: Attempt) -> Arc<Decision> {
        Arc::new(Decision {
            in_doubt: false,
            at: Duration::from_secs(at_s),
            attempt,
            policy: Policy::Cost,
            purpose: None,
            pick: None,
            best: Vec::new(),
            eligible: 0,
            filtered: Filtered::default(),
        })
    }

    #[test]
    fn a_request_has_all_its_decisions_for_a_time() {
        let decisions = Decisions::default();
        let id: Arc<str> = "r".into();
        decisions.note(&id, decision(0, Attempt::First));
        decisions.note(&id, decision(1, Attempt::Retry));
        let at = |s| decisions.get("r", Duration::from_secs(s)).map(|d| d.len());
        assert_eq!(at(2), Some(2));
        decisions.note(&id, decision(10, Attempt::First));
        assert_eq!(at(11), Some(1));
        let kept = DECISIONS_KEPT.as_secs();
        assert_eq!(at(9 + kept), Some(1));
        assert_eq!(at(10 + kept), None);
    }

    #[test]
    fn their_number_is_bounded() {
        let decisions = Decisions::default();
        for number in 0..DECISIONS_MAX + 10 {
            decisions.note(&number.to_string().into(), decision(0, Attempt::First));
        }
        let kept = decisions.kept();
        assert_eq!(
            (kept.order.len(), kept.by_id.len()),
            (DECISIONS_MAX, DECISIONS_MAX)
        );
        assert!(!kept.by_id.contains_key("9") && kept.by_id.contains_key("10"));
    }

    #[test]
    fn a_request_that_is_tried_for_ever_is_not_kept_for_ever() {
        let decisions = Decisions::default();
        let id: Arc<str> = "r".into();
        decisions.note(&id, decision(0, Attempt::First));
        (0..100).for_each(|_| decisions.note(&id, decision(0, Attempt::Retry)));
        let kept = decisions.get("r", Duration::ZERO).map(|d| d.len());
        assert_eq!(kept, Some(DECISIONS_PER_REQUEST_MAX));
    }
}
