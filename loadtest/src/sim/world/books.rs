//! The books of a simulation: every request that arrived is done, failed or in the system, and what is counted is there.

use super::{Broken, Flight, What, World};
use crate::sim::entry::Entry;
use crate::sim::quota::Account;
use crate::sim::site::Site;

/// Book-keeping.
impl World<'_> {
    pub(super) fn forget(&mut self, slot: u32) -> Option<Flight> {
        let flight = self.flights.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        Some(flight)
    }

    /// Looks at the books of what has just happened.
    pub(super) fn audit(&self, what: What) -> Result<(), Broken> {
        self.conserve()?;
        if let What::Run { site, node, .. } = what
            && let Some(state) = self.sites.get(usize::from(site))
        {
            self.audit_node(state, node.into())?;
        }
        Ok(())
    }

    fn audit_node(&self, site: &Site, number: usize) -> Result<(), Broken> {
        match site.nodes().nth(number) {
            Some(node) if !node.is_consistent() => Err(Broken::Node {
                site: site.plan.name.clone(),
                node: number,
            }),
            _ => Ok(()),
        }
    }

    /// arrived = done + failed + in the system.
    fn conserve(&self) -> Result<(), Broken> {
        let (arrived, done) = (self.tally.arrived, self.tally.done);
        let (failed, left) = (self.tally.failures(), self.in_system());
        if arrived == done + failed + left {
            return Ok(());
        }
        Err(Broken::Conservation {
            arrived,
            done,
            failed,
            left,
        })
    }

    pub(super) fn check_end(&self) -> Result<(), Broken> {
        self.conserve()?;
        if self.in_system() > 0 {
            let what = "the number of requests in the system";
            return Err(Broken::Leak { what });
        }
        for site in &self.sites {
            for number in 0..site.plan.nodes {
                self.audit_node(site, number)?;
            }
        }
        let entries = self.entries.iter().all(Entry::is_idle);
        let sites = self.sites.iter().all(Site::is_idle);
        if !entries || !sites {
            let what = "a router's number of requests in flight";
            return Err(Broken::Leak { what });
        }
        if !self.accounts.iter().all(Account::is_consistent) {
            return Err(Broken::Leak {
                what: "an allocation",
            });
        }
        Ok(())
    }
}
