//! Model files and steps made up on the spot, so that tests and benchmarks need no download. Built for tests only (feature `test-util`).

#[cfg(feature = "candle")]
mod attention_rig;
mod gguf_writer;
mod tiny_llama;

#[cfg(feature = "candle")]
pub use attention_rig::AttentionRig;
pub use gguf_writer::GgufWriter;
pub use tiny_llama::{TinyLlama, TinyType};
