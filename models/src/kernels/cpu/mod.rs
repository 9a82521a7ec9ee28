//! Kernels for processors: quantised matrix products over repacked weights, paged attention, and what lies between.

mod activations;
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod dense;
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
pub use matmul::{Isa, matmul};
pub use packed::PackedMatrix;

pub(crate) use attention::PagedStep;
pub(crate) use dense::{DenseKind, DenseMatrix};
pub(crate) use elementwise::{Activation, RmsNorm};
pub(crate) use linear_op::{CpuLinear, CpuMatrix};
pub(crate) use simd::LANES as ATTENTION_LANES;

/// What computes on this processor: the instructions of quantised products, and those of everything else.
pub(crate) fn instructions() -> String {
    format!("{}, {:?}", Isa::detect().name(), simd::SimdLevel::detect())
}
