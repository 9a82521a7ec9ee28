//! What travels with a request of where it may go: within what its tenant allows, as its client wants.

use std::sync::Arc;

use crate::fairness::Class;
use crate::route::residency::Rules;

/// Where a request may go, and what its client wants of the way there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wishes {
    /// Where it may go.
    pub rules: Rules,
    /// Requests of one name are best served by the same upstream.
    pub session: Option<Arc<str>>,
    /// Whether a stream may be continued elsewhere.
    pub resume: bool,
    /// Whether somebody waits for the answer.
    pub class: Class,
}

impl Default for Wishes {
    /// Anywhere that asks for nothing, and continued where possible.
    fn default() -> Self {
        Self {
            rules: Rules::default(),
            session: None,
            resume: true,
            class: Class::Interactive,
        }
    }
}
