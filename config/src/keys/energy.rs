//! Keys of `[energy]`.

use super::{Key, Slot, key};
use crate::limits;
use crate::schema::Config;

/// Keys of `[energy]`.
pub(crate) const ENERGY: &[Key<Config>] = &[
    key(
        "energy.millijoules_per_token",
        "Energy of a token that models of this process produce, as measured on the device; a token of a prompt counts as a \
         tenth of one. Left out: worked out from energy.watts and from what cards and processor measure.",
        |c: &mut Config| Slot::MaybeU64(&mut c.energy.millijoules_per_token, limits::MILLIJOULES),
    )
    .example("350"),
    key(
        "energy.watts",
        "Watts that the accelerators of this process draw together while they work, or all of the machine where \
         energy.rapl is off. Where energy.nvml finds cards, what they measure counts instead.",
        |c: &mut Config| Slot::MaybeU64(&mut c.energy.watts, limits::WATTS),
    )
    .example("700"),
    key(
        "energy.rapl",
        "Whether what the processor measures of itself (/sys/class/powercap) is added, where this process may read it.",
        |c| Slot::Flag(&mut c.energy.rapl),
    ),
    key(
        "energy.nvml",
        "Whether what NVIDIA cards measure of themselves counts, where the driver's library (libnvidia-ml.so.1) is there: all \
         cards of the machine, or those that energy.cards names.",
        |c| Slot::Flag(&mut c.energy.nvml),
    ),
    key(
        "energy.cards",
        "Ids of the cards that this process works on, as nvidia-smi -L tells them; empty for all.",
        |c: &mut Config| Slot::Lines(&mut c.energy.cards),
    )
    .example("[\"GPU-8f3b1f0c-2a55-4c8e-9d2e-6f6a0b1c2d3e\"]"),
    key(
        "energy.pue_percent",
        "Energy of the whole building for that of its machines, in percent: 120 where a fifth more goes to cooling.",
        |c| Slot::U64(&mut c.energy.pue_percent, limits::PUE_PERCENT),
    ),
    key(
        "energy.grams_per_kwh",
        "Carbon of the grid's electricity, in grams of CO2 for a kilowatt-hour; with energy.grid_file until that was read, \
         and when it has been away for long.",
        |c: &mut Config| Slot::MaybeU64(&mut c.energy.grams_per_kwh, limits::GRAMS_PER_KWH),
    )
    .example("79"),
    key(
        "energy.grid_file",
        "File with that number in its first line, which is watched.",
        |c: &mut Config| Slot::Path(&mut c.energy.grid_file),
    )
    .example("\"/run/hansa/grid\""),
    key(
        "energy.grid_keep_s",
        "Time for which the last good number of the file counts when the file is away or holds none.",
        |c| Slot::U64(&mut c.energy.grid_keep_s, limits::GRID_KEEP_S),
    ),
];
