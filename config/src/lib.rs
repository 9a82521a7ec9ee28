//! What the operator writes: schema, validation, limits, example files.
//!
//! [`Config::load`] reads one TOML file and returns the config or every problem of the file at
//! once. `keys` is the one table of keys, from which the reader, the JSON schema and the reference
//! file are made.
//!
//! This crate reads one file and nothing else: it must not know a socket, a model file or a clock.
#![forbid(unsafe_code)]

pub mod schema;

mod check;
mod describe;
pub mod generate;
mod keys;
pub mod limits;
mod load;
mod one_model;
pub mod problems;
mod read;
pub mod secret;
pub mod units;
mod value;

pub use one_model::model_from_json;
pub use problems::{Problem, Problems};
pub use schema::Config;
