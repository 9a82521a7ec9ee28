//! Kernels for processors: quantised matrix products over repacked weights.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod ggml;
mod linear_op;
mod matmul;
mod packed;
mod portable;
#[cfg(test)]
mod tests;

pub use activations::QuantizedRows;
pub use ggml::BlockKind;
pub use linear_op::PackedLinear;
pub use matmul::{Isa, matmul};
pub use packed::PackedMatrix;
