//! One product over made-up numbers, with what is fused around it, for benchmarks of the kernels alone.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Result, Tensor};

use crate::kernels::cpu::{
    Activation, BlockKind, CpuLinear, CpuMatrix, DenseKind, DenseMatrix, PackedMatrix, RmsNorm,
};

/// What is multiplied, and what is done in the same pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProductForm {
    /// Weights as F16.
    F16,
    /// Weights as BF16.
    Bf16,
    /// Weights as F32.
    F32,
    /// Weights as Q4_1, of rows that are normed before.
    Normed,
    /// Weights as Q4_1, of rows that are normed before; one half of the outputs gates the other.
    Gated,
}

/// Rows `[m, k]` and weights `[n, k]`, ready to be multiplied again and again.
#[derive(Debug)]
pub struct ProductRig {
    form: ProductForm,
    linear: CpuLinear,
    norm: RmsNorm,
    x: Tensor,
}

impl ProductRig {
    /// Random numbers in the shape `(m, n, k)`.
    ///
    /// # Errors
    /// Where there is no memory, or the form cannot have the shape.
    pub fn new(form: ProductForm, (m, n, k): (usize, usize, usize)) -> Result<Self> {
        let weights = Tensor::randn(0f32, 1f32, (n, k), &Device::Cpu)?;
        let matrix = match form {
            ProductForm::Normed | ProductForm::Gated => {
                let raw = QTensor::quantize(&weights, GgmlDType::Q4_1)?;
                let packed = PackedMatrix::pack(BlockKind::Q4_1, &raw.data()?, n, k);
                packed.map(|packed| CpuMatrix::Packed(Arc::new(packed)))
            }
            ProductForm::F16 | ProductForm::Bf16 | ProductForm::F32 => {
                let (kind, raw) = plain(form, &weights.flatten_all()?.to_vec1()?);
                let dense = DenseMatrix::pack(kind, &raw, n, k);
                dense.map(|dense| CpuMatrix::Dense(Arc::new(dense)))
            }
        };
        let linear = matrix.and_then(|matrix| CpuLinear::new(vec![matrix]));
        let Some(linear) = linear else {
            candle_core::bail!("no weights of {n} x {k} in this form")
        };
        let norm = RmsNorm {
            weight: vec![1.0; k],
            eps: 1e-5,
        };
        let x = Tensor::randn(0f32, 1f32, (m, k), &Device::Cpu)?;
        Ok(Self {
            form,
            linear,
            norm,
            x,
        })
    }

    /// Multiplies once.
    ///
    /// # Errors
    /// As the kernel.
    pub fn run(&self) -> Result<Tensor> {
        match self.form {
            ProductForm::Normed => self.linear.forward(&self.x, Some(&self.norm)),
            ProductForm::Gated => {
                let gated = self
                    .linear
                    .gated(&self.x, Some(&self.norm), Activation::Silu);
                gated.unwrap_or_else(|| candle_core::bail!("the halves share a tile"))
            }
            ProductForm::F16 | ProductForm::Bf16 | ProductForm::F32 => {
                self.linear.forward(&self.x, None)
            }
        }
    }
}

/// Numbers as a file holds them.
fn plain(form: ProductForm, numbers: &[f32]) -> (DenseKind, Vec<u8>) {
    let numbers = numbers.iter();
    match form {
        ProductForm::F16 => {
            let halves = numbers.flat_map(|x| half::f16::from_f32(*x).to_le_bytes());
            (DenseKind::F16, halves.collect())
        }
        ProductForm::Bf16 => {
            let halves = numbers.flat_map(|x| half::bf16::from_f32(*x).to_le_bytes());
            (DenseKind::Bf16, halves.collect())
        }
        _ => {
            let words = numbers.flat_map(|x| x.to_le_bytes());
            (DenseKind::F32, words.collect())
        }
    }
}
