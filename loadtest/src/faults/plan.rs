//! A fault plan: what goes wrong when, where, for how long, and the servers that it happens to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::fault::Fault;
use super::mock::MockOptions;
use crate::clock::{Nanos, nanos};

/// The servers of a bed and what goes wrong with them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FaultPlan {
    /// Mock sites.
    pub mocks: Vec<MockPlan>,
    /// Proxies before servers that exist.
    pub proxies: Vec<ProxyPlan>,
    /// Faults, in any order.
    pub faults: Vec<Planned>,
}

/// A mock site to start.
#[derive(Debug, Clone, PartialEq)]
pub struct MockPlan {
    /// Its name, by which faults find it.
    pub name: Arc<str>,
    /// Where clients connect; port 0 takes any.
    pub listen: SocketAddr,
    /// How it answers.
    pub options: MockOptions,
}

/// A proxy to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyPlan {
    /// Its name, by which faults find it.
    pub name: Arc<str>,
    /// Where clients connect; port 0 takes any.
    pub listen: SocketAddr,
    /// Host and port of the server behind it.
    pub to: String,
}

/// A fault with its time and place.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// What goes wrong.
    pub fault: Fault,
    /// With whom; with all, where none is named.
    pub target: Option<Arc<str>>,
    /// When, from the start of the run.
    pub at: Duration,
    /// For how long; until the end, where it is not said.
    pub lasts: Option<Duration>,
}

/// What happens at one moment of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// When, from the start.
    pub at: Nanos,
    /// Index of the fault in its plan.
    pub fault: usize,
    /// It begins, or else it is healed.
    pub begins: bool,
}

impl FaultPlan {
    /// Whether there is nothing to start and nothing to break.
    pub fn is_empty(&self) -> bool {
        self.mocks.is_empty() && self.proxies.is_empty() && self.faults.is_empty()
    }

    /// All that happens, in order. What is healed at a moment is healed before something else begins at it.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (fault, planned) in self.faults.iter().enumerate() {
            let begin = nanos(planned.at);
            let step = |at, begins| Step { at, fault, begins };
            steps.push(step(begin, true));
            steps.extend(
                planned
                    .lasts
                    .map(|lasts| step(begin.saturating_add(nanos(lasts)), false)),
            );
        }
        steps.sort_by_key(|step| (step.at, step.begins, step.fault));
        steps
    }

    /// Names of all targets.
    pub fn targets(&self) -> impl Iterator<Item = &Arc<str>> {
        let mocks = self.mocks.iter().map(|mock| &mock.name);
        mocks.chain(self.proxies.iter().map(|proxy| &proxy.name))
    }
}

impl Planned {
    /// Whether it happens to `name`.
    pub fn befalls(&self, name: &str) -> bool {
        self.target.as_deref().is_none_or(|target| target == name)
    }

    /// The fault, its place and its time in words.
    pub fn words(&self) -> String {
        let place = self.target.as_deref().unwrap_or("all");
        let at = self.at.as_secs_f64();
        match self.lasts {
            Some(lasts) => format!(
                "{} at {place}, {at} s to {} s",
                self.fault,
                at + lasts.as_secs_f64()
            ),
            None => format!("{} at {place}, from {at} s on", self.fault),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::fault::FaultKind;

    #[test]
    fn a_plan_becomes_steps_in_order_and_heals_before_it_breaks() {
        let planned = |at, lasts: Option<u64>, kind| Planned {
            fault: Fault::of(kind),
            target: None,
            at: Duration::from_secs(at),
            lasts: lasts.map(Duration::from_secs),
        };
        let plan = FaultPlan {
            faults: vec![
                planned(5, Some(2), FaultKind::Partition),
                planned(1, Some(4), FaultKind::Drain),
                planned(7, None, FaultKind::Kill),
            ],
            ..FaultPlan::default()
        };
        let steps: Vec<(u64, usize, bool)> = plan
            .steps()
            .iter()
            .map(|step| (step.at / 1_000_000_000, step.fault, step.begins))
            .collect();
        let expected = [
            (1, 1, true),
            (5, 1, false),
            (5, 0, true),
            (7, 0, false),
            (7, 2, true),
        ];
        assert_eq!(steps, expected);
        assert_eq!(plan.faults[0].words(), "partition at all, 5 s to 7 s");
    }
}
