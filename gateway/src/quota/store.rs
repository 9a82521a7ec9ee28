//! Where a ledger is kept: in memory for a server without a file, embedded in the process for one with it, and in PostgreSQL
//! where several gateways share it.

pub mod embedded;
pub mod memory;
pub mod postgres;
