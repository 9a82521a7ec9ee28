//! Kernels for processors: quantised matrix products over repacked weights, paged attention, and what lies between.

mod activations;
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod elementwise;
mod flash;
mod ggml;
mod linear_op;
mod matmul;
mod packed;
mod pool;
mod portable;
mod simd;
#[cfg(test)]
mod tests;

pub use activations::QuantizedRows;
pub use ggml::BlockKind;
pub use linear_op::PackedLinear;
pub use matmul::{Isa, matmul};
pub use packed::PackedMatrix;

pub(crate) use attention::PagedStep;
pub(crate) use elementwise::{Activation, RmsNorm};
pub(crate) use simd::LANES as ATTENTION_LANES;
