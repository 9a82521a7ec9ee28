//! Kernels that stand in for plain Candle operations where those are slow, one folder for each kind of device.
//!
//! Together with mapped files this is the only place with `unsafe`, each use with its safety argument.

pub mod cpu;
