//! The simulator as a whole: against formulas, against itself, and against the bars of routing.

mod federation;
mod queues;

use std::ops::ControlFlow;
use std::path::Path;

use super::plan::Plan;
use super::report::{PolicyReport, Report};
use super::{Onlooker, Progress, scenario, simulate};

/// A plan from the text of a scenario.
fn plan(text: &str) -> Plan {
    match scenario::parse(Path::new("test.toml"), text) {
        Ok(plan) => plan,
        Err(problems) => panic!("{problems}"),
    }
}

fn run(plan: &Plan) -> Report {
    simulate(plan, &mut ()).unwrap()
}

fn only(plan: &Plan) -> PolicyReport {
    let mut report = run(plan);
    report.policies.remove(0)
}

/// Counts words, and ends the simulation at the first word of a policy.
struct Impatient {
    bears_with: &'static str,
    words: u32,
    done: Vec<&'static str>,
}

impl Onlooker for Impatient {
    fn look(&mut self, progress: Progress) -> ControlFlow<()> {
        self.words += 1;
        match progress.policy == self.bears_with {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    }

    fn done(&mut self, report: &PolicyReport) {
        self.done.push(report.policy);
    }
}

#[test]
fn a_simulation_that_is_ended_reports_the_policies_that_are_done() {
    let plan = plan(
        "[run]\nduration = \"20m\"\npolicies = [\"cost\", \"round_robin\"]\n\
         [load]\nkind = \"poisson\"\nutilisation = 0.5\n\
         [[machine]]\nname = \"m\"\nstep_us = 10000\nprefill_token_us = 50\n\
         [[site]]\nname = \"a\"\nmachine = \"m\"\nlat = 60\nlon = 20\n",
    );
    let whole = run(&plan);
    let mut impatient = Impatient {
        bears_with: "cost",
        words: 0,
        done: Vec::new(),
    };
    let ended = simulate(&plan, &mut impatient).unwrap();
    assert!(impatient.words > 1, "{}", impatient.words);
    assert_eq!(impatient.done, ["cost"]);
    assert!(ended.interrupted && !whole.interrupted);
    assert!(ended.text().contains("stopped early"));
    let first = |report: &Report| serde_json::to_value(&report.policies[0]).unwrap();
    assert_eq!(ended.policies.len(), 1);
    assert_eq!(first(&ended), first(&whole), "looking on changes nothing");
}
