//! Kernels for processors: quantised matrix products over repacked weights, paged attention, and what lies between.
//!
//! Instructions are chosen at run time, in two places:
//!
//! - [`isa`]: the product of quantised rows and packed weights is written by hand for each instruction set, since integer
//!   dot products differ in shape;
//! - [`simd`]: everything in floats is written once, over vectors of 16 lanes whose few operations differ.
//!
//! A new instruction set is one file in each. In `isa/`: `detected` and `multiply`, a variant and its lines in `isa/mod.rs`.
//! In `simd/`: a type with the operations, and a level in `simd/mod.rs`. The tests run every path that the processor has
//! against exact sums, against plain Rust and against itself in other company.

mod activations;
mod attention;
mod dense;
mod elementwise;
mod ggml;
mod isa;
mod linear_op;
mod matmul;
mod out;
mod packed;
mod pool;
mod simd;
#[cfg(test)]
mod tests;

pub use activations::QuantizedRows;
pub use ggml::BlockKind;
pub use isa::Isa;
pub use matmul::matmul;
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
