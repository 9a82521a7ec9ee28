//! Metrics that every request touches, found by their labels without making them anew.
//!
//! To name a metric costs more than to count with it: its labels are copied, hashed and looked up. Labels come from closed
//! sets, so what was named once is kept.

use std::fmt;
use std::sync::{PoisonError, RwLock};

use crate::map::Map;

/// Metrics of one kind by what tells them apart.
pub(super) struct Known<K, M>(RwLock<ByName<K, M>>);

/// Few kinds, so that looking through them beats hashing once more.
type ByName<K, M> = Map<Box<str>, Vec<(K, M)>>;

impl<K: Copy + Eq, M: Clone> Known<K, M> {
    /// The one of `name` and `kind`, which `make` names where it is new.
    pub(super) fn get(&self, name: &str, kind: K, make: impl FnOnce() -> M) -> M {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let found = known.get(name).and_then(|kinds| of(kinds, kind));
        drop(known);
        found.unwrap_or_else(|| self.add(name, kind, make()))
    }

    fn add(&self, name: &str, kind: K, made: M) -> M {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let kinds = known.entry(name.into()).or_default();
        // Another may have been faster; both count in the same place.
        if of(kinds, kind).is_none() {
            kinds.push((kind, made.clone()));
        }
        made
    }
}

fn of<K: Copy + Eq, M: Clone>(kinds: &[(K, M)], kind: K) -> Option<M> {
    let found = kinds.iter().find(|(known, _)| *known == kind);
    found.map(|(_, metric)| metric.clone())
}

impl<K, M> Default for Known<K, M> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<K, M> fmt::Debug for Known<K, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").finish_non_exhaustive()
    }
}
