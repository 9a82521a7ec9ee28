//! The ruler: drives any OpenAI-compatible server over HTTP and measures what its users feel. It shares no code with the
//! gateway that it measures, so that no mistake of one can hide in the other; only the simulator, [`sim`], drives the
//! gateway's own routing.
//!
//! Reading order: [`workload`] says what is asked, [`drive`] makes load and takes stamps, [`drive::verdict`] says what is good, [`drive::record`] defines
//! the metrics, [`stats`] folds them, [`self_check`] doubts the client, [`report`] tells people and machines, [`faults`] breaks things meanwhile.

pub mod cli;
pub mod clock;
pub mod command;
pub mod compare;
pub mod drive;
pub mod extras;
pub mod faults;
pub mod groups;
pub mod limits;
pub mod os;
pub mod plan;
pub mod probes;
pub mod problems;
pub mod raw;
pub mod report;
pub mod rng;
pub mod scenario;
pub mod scrape;
pub mod search;
pub mod self_check;
pub mod sim;
pub mod slo;
pub mod spread;
pub mod stall;
pub mod stats;
pub mod timeline;
pub mod trace;
pub mod units;
pub mod watch;
pub mod workload;
