//! Model files made up on the spot, so that tests need no download. Built for tests only (feature `test-util`).

mod gguf_writer;

pub use gguf_writer::GgufWriter;
