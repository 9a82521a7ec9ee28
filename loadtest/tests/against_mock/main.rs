//! The driver and the program against a server of known behaviour, over real loopback sockets.

mod driver;
mod harness;
mod mock;
mod program;
mod speed;
