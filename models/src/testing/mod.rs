//! Model files and steps made up on the spot, so that tests and benchmarks need no download. Built for tests only (feature `test-util`).

#[cfg(feature = "candle")]
mod attention_rig;
mod gguf_writer;
#[cfg(feature = "candle")]
mod product_rig;
mod tiny_llama;

#[cfg(feature = "candle")]
pub use attention_rig::AttentionRig;
pub use gguf_writer::GgufWriter;
#[cfg(feature = "candle")]
pub use product_rig::{ProductForm, ProductRig};
pub use tiny_llama::{TinyLlama, TinyType};
