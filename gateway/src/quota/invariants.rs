//! What must hold at every moment: checked by the property tests, the crash tests and the metrics of a running server.

use std::sync::Arc;

use super::book::Book;
use super::charge::Scope;

/// A promise that was broken. Any is a bug.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// L1: settled and held together exceed what is granted and recorded as excess.
    #[error("L1: allocation {0} is committed beyond its amount")]
    Overspent(Arc<str>),
    /// What an allocation says is held is not what the open charges hold.
    #[error("allocation {allocation} holds {reserved}, its charges {held}")]
    Held {
        /// Its id.
        allocation: Arc<str>,
        /// By its own account.
        reserved: u64,
        /// By that of the charges.
        held: u64,
    },
    /// I10: a meter counts other requests than those that are open.
    #[error("I10: {scope:?} counts {counted} requests, and {open} are open")]
    Counted {
        /// Whose meter it is.
        scope: Scope,
        /// By the meter.
        counted: u32,
        /// By the open charges.
        open: usize,
    },
}

/// L1 alone: cheap enough to look at whenever metrics are read.
///
/// # Errors
/// The first allocation that breaks it.
pub fn l1(book: &Book) -> Result<(), Violation> {
    let broken = book.allocations().find(|found| !found.holds_l1());
    let broken = broken.map(|found| Violation::Overspent(Arc::clone(&found.grant().id)));
    broken.map_or(Ok(()), Err)
}

/// Everything; its work grows with allocations times open charges.
///
/// # Errors
/// The first promise that is broken.
pub fn all(book: &Book) -> Result<(), Violation> {
    l1(book)?;
    for allocation in book.allocations() {
        let id = &allocation.grant().id;
        let (reserved, held) = (allocation.reserved(), book.held(id));
        if reserved != held {
            let allocation = Arc::clone(id);
            return Err(Violation::Held {
                allocation,
                reserved,
                held,
            });
        }
    }
    for (scope, meter) in book.meters() {
        let (counted, open) = (meter.concurrent(), book.open_in(scope));
        if counted as usize != open || meter.queued() > counted {
            let scope = scope.clone();
            return Err(Violation::Counted {
                scope,
                counted,
                open,
            });
        }
    }
    Ok(())
}
