//! The harness: real `hansa` processes on free ports, an HTTP client, and a Python with the SDK under test.
//!
//! A test asks for what it needs and gets it made: the binary is built before it is spawned, the virtual environment
//! lies under `target/`, the model in the user's own cache. Nothing has to be prepared by hand. A [`federation`] of sites is
//! such processes with fault proxies between them, [`load`] is what its users do and
//! [`felt`] what they feel.
#![forbid(unsafe_code)]

mod build;
pub mod client;
pub mod federation;
pub mod felt;
pub mod load;
mod python;
mod server;
pub mod source_tree;

pub use build::{hansa_binary, loadtest_binary, repository_root, target_dir};
pub use client::{Client, Reply, Stream};
pub use python::{python_with, run_script};
pub use server::Server;
