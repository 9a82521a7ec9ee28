//! What a tenant has to spend at a candidate's site, as far as a pick depends on it.

/// Whether something is left of a tenant's allocation at a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// Enough of an allocation that is good there alone: to be spent first.
    Own,
    /// Enough of one that is good anywhere, or none is needed.
    Any,
    /// Not enough.
    Nothing,
}
