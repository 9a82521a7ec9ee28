//! The driver and the program against a server of known behaviour, over real loopback sockets.
#![expect(
    clippy::unwrap_used,
    reason = "a test program: helpers may fail a test"
)]

mod beside;
mod driver;
mod faults;
mod forms;
mod harness;
mod mock;
mod program;
mod secured;
mod workloads;
