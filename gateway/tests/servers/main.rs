//! Whole servers with the simulated engine, over loopback in one process: one alone, one with keys and quotas, and servers in
//! front of servers - what a client sees through a hop, what peers tell each other, and what a broken or hostile upstream can do.
#![cfg(feature = "engine")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod accounts;
mod agent;
mod build;
mod circle;
mod discovery;
mod energy;
mod exact;
mod failover;
mod harness;
mod heals;
mod hops;
mod hostile;
mod killed;
mod left;
mod lies;
mod members;
mod oidc;
mod peers;
mod postgres;
mod process;
mod processes;
#[expect(
    unreachable_pub,
    dead_code,
    reason = "shared with the tests of whole processes"
)]
#[path = "../../../tests/src/python.rs"]
mod python;
mod quota;
mod roles;
mod steering;
mod store;
mod store_tls;
mod tls;
mod vectors;
mod walltime;
mod whole;
mod wire;
