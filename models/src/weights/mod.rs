//! Weights as files hold them: what reads a model file, and how its tensors become Candle's.

#[cfg(feature = "candle")]
pub mod folder;
pub mod gguf;
#[cfg(feature = "candle")]
mod heads;
mod overlap;
#[cfg(feature = "candle")]
pub(crate) mod tensors;
