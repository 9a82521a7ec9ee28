//! Faults on purpose, so that one can see what they cost: a plan of what goes wrong when, sites that are mocks, and a
//! proxy that stands before real ones and does to their connections what networks and dying machines do.
//!
//! Reading order: [`fault`] says what can go wrong, [`plan`] when and where, [`proxy`] does it to bytes, [`mock`] answers like a server of
//! known speed, [`bed`] runs all of it beside a measurement, [`failover`] says what its users felt, [`abuse`] is the other side: clients
//! that behave badly.
//!
//! Knows nothing of what stands behind a proxy or what measures a mock.

pub mod abuse;
pub mod bed;
pub mod failover;
pub mod fault;
pub mod mock;
pub mod plan;
pub mod proxy;

pub use fault::Fault;
pub use mock::{Mock, MockOptions};
pub use proxy::{Proxy, ProxyOptions};
