//! Whole servers with the simulated engine, over loopback in one process: one alone, one with keys and quotas, and servers in
//! front of servers - what a client sees through a hop, what peers tell each other, and what a broken or hostile upstream can do.
#![cfg(feature = "engine")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod accounts;
mod discovery;
mod energy;
mod exact;
mod failover;
mod harness;
mod hops;
mod hostile;
mod peers;
mod quota;
mod steering;
mod tls;
mod vectors;
mod wire;
