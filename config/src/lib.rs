//! What the operator writes: schema, validation, limits, example files.
//!
//! This crate reads one file and nothing else: it must not know a socket, a model file or a clock.
#![forbid(unsafe_code)]

pub mod schema;

pub mod limits;

pub use schema::Config;
