//! The map for what operators and we ourselves name: tenants, models, allocations, charges.
//!
//! A request is looked up some fifty times, and std's hasher, which withstands whoever chooses keys to collide, would be a
//! sixteenth of its time. What clients name freely stays with that.

use std::collections::HashMap;

/// A map by a fast hash with a seed of its own for each process.
pub(crate) type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;
