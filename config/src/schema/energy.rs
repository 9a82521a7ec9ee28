//! `[energy]`: what the work of this process takes.

use std::path::PathBuf;

/// `[energy]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Energy {
    /// Of a token that is produced, on the device.
    pub millijoules_per_token: Option<u64>,
    /// Of all accelerators together while they work.
    pub watts: Option<u64>,
    /// Whether to read what the processor measures of itself.
    pub rapl: bool,
    /// Whether to read what NVIDIA cards measure of themselves.
    pub nvml: bool,
    /// Ids of the cards that count; empty for all.
    pub cards: Vec<String>,
    /// Energy of the building for that of the machines.
    pub pue_percent: u64,
    /// Carbon of the grid's electricity.
    pub grams_per_kwh: Option<u64>,
    /// The file that says so for the moment.
    pub grid_file: Option<PathBuf>,
    /// Time for which its last good number counts.
    pub grid_keep_s: u64,
}

impl Default for Energy {
    fn default() -> Self {
        Self {
            millijoules_per_token: None,
            watts: None,
            rapl: false,
            nvml: false,
            cards: Vec::new(),
            pue_percent: 100,
            grams_per_kwh: None,
            grid_file: None,
            grid_keep_s: 6 * 3_600,
        }
    }
}
