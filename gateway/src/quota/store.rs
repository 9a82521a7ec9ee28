//! Where a ledger is kept: in memory for a server without a file, embedded in the process for one with it.

pub mod embedded;
pub mod memory;
