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

use self::plan::Plan;
use self::report::{PolicyReport, Report};

/// Simulates `plan` under each of its policies. `told` hears of each that is done.
///
/// # Errors
/// [`Broken`] where the books do not add up: a bug.
pub fn simulate(plan: &Plan, mut told: impl FnMut(&PolicyReport)) -> Result<Report, Broken> {
    let mut policies = Vec::new();
    for policy in &plan.policies {
        let (tally, sites) = world::run(plan, *policy)?;
        let report = PolicyReport::of(policy.name(), tally, &sites);
        told(&report);
        policies.push(report);
    }
    Ok(Report::of(plan, policies))
}
