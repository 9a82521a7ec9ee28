//! Sequences of Hansa: scheduler, KV blocks, sampling, step loop.
//!
//! The engine knows sequences of token ids and who may share what with whom by two opaque numbers, `flow` and `pool`. It
//! must not know HTTP, a tenant, a config file or a clock of its own: time comes in through [`api::Clock`].
//!
//! In reading order: a [`handle::EngineHandle`] validates a submission and passes it through the `doorbell` to the one
//! thread of `step_loop`. There `core` takes turns: the `scheduler` says which sequences go into the step (`flows`, `pace`), which KV
//! blocks are theirs (`block_manager`, `prefix_cache`) and which next tokens are guessed (`speculate`, `draft`), `batch` lays their tokens end to end, the [`runner::Runner`] computes them and
//! draws the next ones (`sampler`), a `request` turns tokens into text (`choice`, `stop`), and `events` carry it out to a
//! reader that may be slow or gone.

#![forbid(unsafe_code)]

pub mod api;
pub mod handle;
pub mod options;

mod admissions;
mod doorbell;
mod shared;
mod validate;

mod core;
pub mod device;
pub mod embed;
mod loading;
#[cfg(feature = "candle")]
mod memory;
#[cfg(feature = "candle")]
mod pools;
mod step_loop;
mod time_share;
mod watchdog;

mod batch;
mod block_manager;
mod draft;
mod flows;
mod pace;
mod prefix_cache;
mod scheduler;
mod sequence;
mod speculate;

#[cfg(feature = "candle")]
mod candle_runner;
pub mod grammar;
mod history;
pub mod numerics;
mod random;
pub mod runner;
pub mod sampler;
#[cfg(any(test, feature = "candle"))]
mod self_test;
pub mod sim_runner;

mod choice;
mod events;
mod link;
mod request;
mod stop;

mod invariants;
pub mod limits;
mod stats;

#[cfg(test)]
mod tests;

pub use device::Device;
pub use handle::{EngineHandle, EventStream};
#[cfg(feature = "candle")]
pub use options::{CandleOptions, DeviceOptions};
pub use options::{EngineOptions, RunnerOptions, SimOptions};
