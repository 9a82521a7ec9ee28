//! The ruler: drives any OpenAI-compatible server over HTTP and measures what its users feel. It shares no code with the
//! gateway that it measures, so that no mistake of one can hide in the other.
//!
//! Reading order: [`drive`] makes load and takes stamps, [`drive::verdict`] says what is good, [`drive::record`] defines
//! the metrics, [`stats`] folds them, [`self_check`] doubts the client, [`report`] tells people and machines.

pub mod cli;
pub mod clock;
pub mod command;
pub mod drive;
pub mod limits;
pub mod os;
pub mod report;
pub mod rng;
pub mod self_check;
pub mod stats;
pub mod watch;
