//! Fair shares between flows: who has been served least goes first.
//!
//! Virtual token counters (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024): each flow has a counter
//! of the tokens it was served, input weighing 1 and output 2. A flow that returns starts at the least counter of those
//! that are there, so that nobody saves up a claim by staying away, and one that left with more keeps its own, so that
//! nobody loses a debt by leaving for a moment. It must not know sequences or time.

use std::collections::HashMap;

use crate::limits::FLOW_OUTPUT_WEIGHT;

/// The counters of all flows with sequences, and of those that left with a debt.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    flows: HashMap<u64, Flow>,
}

#[derive(Debug, Default)]
struct Flow {
    served: u64,
    /// Its sequences in the engine.
    sequences: u32,
}

impl Flows {
    /// A sequence of `flow` came.
    pub(crate) fn enter(&mut self, flow: u64) {
        let least = self.least();
        let entry = self.flows.entry(flow).or_default();
        if entry.sequences == 0 {
            entry.served = entry.served.max(least);
        }
        entry.sequences += 1;
    }

    /// A sequence of `flow` is gone.
    pub(crate) fn leave(&mut self, flow: u64) {
        let Some(entry) = self.flows.get_mut(&flow) else {
            return;
        };
        entry.sequences -= 1;
        if entry.sequences == 0 {
            self.tidy();
        }
    }

    /// What `flow` was served, in weighted tokens.
    pub(crate) fn served(&self, flow: u64) -> u64 {
        self.flows.get(&flow).map_or(0, |entry| entry.served)
    }

    /// Charges `flow` for prompt tokens.
    pub(crate) fn charge_input(&mut self, flow: u64, tokens: u32) {
        self.charge(flow, u64::from(tokens));
    }

    /// Charges `flow` for produced tokens.
    pub(crate) fn charge_output(&mut self, flow: u64, tokens: u32) {
        self.charge(flow, FLOW_OUTPUT_WEIGHT * u64::from(tokens));
    }

    fn charge(&mut self, flow: u64, weighted: u64) {
        if let Some(entry) = self.flows.get_mut(&flow) {
            entry.served = entry.served.saturating_add(weighted);
        }
    }

    /// The least counter of the flows that are there.
    fn least(&self) -> u64 {
        let there = self.flows.values().filter(|flow| flow.sequences > 0);
        there.map(|flow| flow.served).min().unwrap_or(0)
    }

    /// Forgets flows that are away and would be lifted anyway when they return.
    fn tidy(&mut self) {
        let somebody = self.flows.values().any(|flow| flow.sequences > 0);
        let least = self.least();
        self.flows
            .retain(|_, flow| flow.sequences > 0 || (somebody && flow.served > least));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_that_returns_neither_saved_up_nor_got_rid_of_a_debt() {
        let mut flows = Flows::default();
        flows.enter(1);
        flows.enter(2);
        flows.charge_input(1, 100);
        flows.charge_output(2, 20);
        assert_eq!((flows.served(1), flows.served(2)), (100, 40));
        // A newcomer starts where the least served one is.
        flows.enter(3);
        assert_eq!(flows.served(3), 40);
        // Leaving for a moment changes nothing for the one who was served most.
        flows.leave(1);
        flows.enter(1);
        assert_eq!(flows.served(1), 100);
        // Staying away is no claim.
        flows.leave(2);
        flows.charge_input(3, 500);
        flows.enter(2);
        assert_eq!(flows.served(2), 100);
    }

    #[test]
    fn nothing_is_kept_of_flows_when_all_are_gone() {
        let mut flows = Flows::default();
        for flow in 0..100 {
            flows.enter(flow);
            flows.charge_input(flow, flow as u32);
        }
        (0..100).for_each(|flow| flows.leave(flow));
        assert!(flows.flows.is_empty());
    }
}
