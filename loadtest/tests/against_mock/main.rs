//! The driver and the program against a server of known behaviour, over real loopback sockets.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test program: helpers may fail a test, and measurements are printed"
)]

mod driver;
mod harness;
mod mock;
mod program;
mod speed;
