//! Model files made up on the spot, so that tests need no download. Built for tests only (feature `test-util`).

mod gguf_writer;
mod tiny_llama;

pub use gguf_writer::GgufWriter;
pub use tiny_llama::{TinyLlama, TinyType};
