//! Tests of the engine as a whole: over simulated time turn by turn, and over its real thread.

mod guided;
pub(crate) mod model;
mod simulation;
mod threads;
mod turns;
