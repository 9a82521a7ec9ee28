//! Sequences of Hansa: scheduler, KV blocks, sampling, step loop.
//!
//! The engine knows sequences of token ids and who may share what with whom by two opaque numbers, `flow` and `pool`. It
//! must not know HTTP, a tenant, a config file or a clock of its own: time comes in through [`Clock`].

#![forbid(unsafe_code)]

pub mod api;
pub mod handle;
pub mod options;

pub mod limits;

pub use handle::{EngineHandle, EventStream};
#[cfg(feature = "candle")]
pub use options::{CandleOptions, DeviceOptions};
pub use options::{EngineOptions, RunnerOptions, SimOptions};
