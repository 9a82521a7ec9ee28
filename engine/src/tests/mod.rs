//! Tests of the engine as a whole: over simulated time turn by turn, and over its real thread.

mod around;
pub(crate) mod cpu;
mod devices;
#[cfg(feature = "candle")]
mod exact;
mod faults;
mod guesses;
mod guided;
mod hostile;
mod known;
pub(crate) mod model;
mod order;
mod sharing;
mod simulation;
mod soak;
pub(crate) mod threads;
mod turns;
mod weighing;
