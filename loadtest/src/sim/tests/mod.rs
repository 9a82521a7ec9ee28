//! The simulator as a whole: against formulas, against itself, and against the bars of routing.

mod federation;
mod queues;

use std::path::Path;

use super::plan::Plan;
use super::report::{PolicyReport, Report};
use super::{scenario, simulate};

/// A plan from the text of a scenario.
fn plan(text: &str) -> Plan {
    match scenario::parse(Path::new("test.toml"), text) {
        Ok(plan) => plan,
        Err(problems) => panic!("{problems}"),
    }
}

fn run(plan: &Plan) -> Report {
    simulate(plan, |_| {}).unwrap()
}

fn only(plan: &Plan) -> PolicyReport {
    let mut report = run(plan);
    report.policies.remove(0)
}
