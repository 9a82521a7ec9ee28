//! A simulator of a federation: it drives the gateway's own `route` over simulated sites in virtual time, so that an
//! operator can ask "what if" before buying or allocating, and a change of routing can be seen before it is served.
//!
//! Reading order: [`plan`] says what is simulated, [`scenario`] reads it, [`node`] is a machine that batches, `site` many of
//! them behind a router, `entry` a gateway of the federation, `world` the event loop, [`report`] what came of it.
//!
//! What it leaves out: time that gateways and tokenizers take, bandwidth, hedging, several models on a node, speculation.
//! Blocks of a prefix cache that several sequences share are counted for each of them. Routers know what a real one would:
//! lengths of answers only when they are over, figures of others only when their reports have come.

pub mod against;
mod cache;
pub mod calibrate;
mod entry;
pub mod geo;
pub mod load;
pub mod node;
pub mod page;
pub mod plan;
mod quota;
pub mod report;
pub mod scenario;
mod site;
mod tally;
mod world;

#[cfg(test)]
mod tests;

pub use self::tally::Herding;
pub use self::world::Broken;

use std::ops::ControlFlow;

use self::plan::Plan;
use self::report::{PolicyReport, Report};
use crate::clock::Nanos;

/// How far a policy has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Its name.
    pub policy: &'static str,
    /// Requests that came so far.
    pub arrived: u64,
    /// Virtual time.
    pub at: Nanos,
}

/// Someone who looks on while a simulation goes on, and may end it. Nothing that they do changes what is simulated.
pub trait Onlooker {
    /// A policy has come so far; told every few thousand events. `Break` ends the simulation: the report then holds the
    /// policies that are done.
    fn look(&mut self, progress: Progress) -> ControlFlow<()>;

    /// A policy is done.
    fn done(&mut self, report: &PolicyReport);
}

/// Nobody.
impl Onlooker for () {
    fn look(&mut self, _: Progress) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn done(&mut self, _: &PolicyReport) {}
}

/// Simulates `plan` under each of its policies.
///
/// # Errors
/// [`Broken`] where the books do not add up: a bug.
pub fn simulate(plan: &Plan, onlooker: &mut dyn Onlooker) -> Result<Report, Broken> {
    let mut policies = Vec::new();
    for policy in &plan.policies {
        let Some((tally, sites)) = world::run(plan, *policy, onlooker)? else {
            break;
        };
        let report = PolicyReport::of(policy.name(), tally, &sites);
        onlooker.done(&report);
        policies.push(report);
    }
    Ok(Report::of(plan, policies))
}
