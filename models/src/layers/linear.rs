//! Products with weight matrices, quantised as the file holds them.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{D, Result, Tensor};

use super::norm::RmsNorm;
use crate::causal_lm::LoadError;
use crate::kernels::cpu::{
    Activation, BlockKind, CpuLinear, CpuMatrix, DenseKind, DenseMatrix, PackedMatrix,
};
use crate::weights::gguf::TensorType;
use crate::weights::tensors::{Matrix, Tensors};

/// `y = x W^T`: `[T, in]` to `[T, out]`.
#[derive(Debug)]
pub(crate) enum Linear {
    /// Kernels of ours: norm, product and residual are one operation.
    Cpu(CpuLinear),
    /// Results lie side by side.
    Parts(Vec<Weight>),
}

/// A weight matrix `[out, in]` in the form that it is multiplied in.
#[derive(Debug, Clone)]
pub(crate) enum Weight {
    /// Laid out for the processor's vector unit.
    Cpu(CpuMatrix),
    /// Candle's quantised product: every type on other devices, and on a CPU those that our kernels do not know.
    Quantised(Arc<QTensor>),
    /// Dense product of the device's library.
    Dense(Tensor),
}

impl Linear {
    /// One matrix, or several `(name, rows)` that share their input: one product where their types are the same, one
    /// each where they differ (`Q4_K_M` files keep some in Q6_K). The result is `[T, sum of rows]`.
    pub(crate) fn load(
        tensors: &Tensors<'_>,
        parts: &[(&str, usize)],
        columns: usize,
    ) -> std::result::Result<Self, LoadError> {
        let mut types = Vec::with_capacity(parts.len());
        for (name, _) in parts {
            types.push(tensors.tensor_type(name)?);
        }
        let uniform = types.windows(2).all(|pair| pair[0] == pair[1]);
        let in_one = if uniform { parts.len() } else { 1 };
        let parts = parts
            .chunks(in_one.max(1))
            .map(|group| Weight::load(tensors, group, columns))
            .collect::<std::result::Result<_, _>>()?;
        Ok(Self::new(parts))
    }

    /// The embedding table as output projection: the same memory.
    pub(crate) fn tied(table: &Weight) -> Self {
        Self::new(vec![table.clone()])
    }

    fn new(parts: Vec<Weight>) -> Self {
        let known: Vec<_> = parts.iter().filter_map(Weight::cpu).collect();
        if known.len() == parts.len()
            && let Some(linear) = CpuLinear::new(known)
        {
            return Self::Cpu(linear);
        }
        Self::Parts(parts)
    }

    /// Whether a row's product does not depend on the other rows.
    pub(crate) fn is_batch_invariant(&self) -> bool {
        matches!(self, Self::Cpu(_))
    }

    /// `[T, in]` to `[T, out]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Cpu(linear) => linear.forward(x, None),
            Self::Parts(parts) => match parts.as_slice() {
                [single] => single.forward(x),
                several => {
                    let results = several
                        .iter()
                        .map(|weight| weight.forward(x))
                        .collect::<Result<Vec<_>>>()?;
                    Tensor::cat(&results, D::Minus1)
                }
            },
        }
    }

    /// The product with the normed rows of `x`.
    pub(crate) fn forward_normed(&self, norm: &RmsNorm, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Cpu(linear) => linear.forward(x, Some(norm.host())),
            Self::Parts(_) => self.forward(&norm.forward(x)?),
        }
    }

    /// `target` plus the product with `x`. The target's memory is reused where it can be: it must have no other owner who
    /// still reads it.
    pub(crate) fn add_to(&self, target: Tensor, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Cpu(linear) => linear.add_to(&target, x).map(|()| target),
            Self::Parts(_) => target + self.forward(x)?,
        }
    }

    /// For a matrix of gates above as many rows of `up`: `activation(gate) * up` of the normed rows of `x`.
    pub(crate) fn gated(
        &self,
        norm: &RmsNorm,
        x: &Tensor,
        activation: Activation,
    ) -> Result<Tensor> {
        if let Self::Cpu(linear) = self
            && let Some(gated) = linear.gated(x, Some(norm.host()), activation)
        {
            return gated;
        }
        let parts = self.forward_normed(norm, x)?.chunk(2, D::Minus1)?;
        let gate = match activation {
            Activation::Silu => parts[0].silu()?,
            Activation::GeluTanh => parts[0].gelu()?,
        };
        gate * &parts[1]
    }
}

impl Weight {
    /// Matrices of one type under one another, in the best form for the device.
    pub(crate) fn load(
        tensors: &Tensors<'_>,
        parts: &[(&str, usize)],
        columns: usize,
    ) -> std::result::Result<Self, LoadError> {
        let matrix = tensors.stacked(parts, columns)?;
        let device = tensors.device();
        if device.is_cpu()
            && let Some(known) = cpu_matrix(&matrix)
        {
            return Ok(Self::Cpu(known));
        }
        let dtype = ggml_dtype(matrix.tensor_type);
        let storage = QStorage::from_data(matrix.bytes.into(), device, dtype)?;
        let quantised = QTensor::new(storage, (matrix.rows, columns))?;
        if block_kind(matrix.tensor_type).is_none() && !device.is_cpu() {
            return Ok(Self::Dense(quantised.dequantize(device)?));
        }
        Ok(Self::Quantised(Arc::new(quantised)))
    }

    fn cpu(&self) -> Option<CpuMatrix> {
        match self {
            Self::Cpu(matrix) => Some(matrix.clone()),
            Self::Quantised(_) | Self::Dense(_) => None,
        }
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Cpu(matrix) => match CpuLinear::new(vec![matrix.clone()]) {
                Some(linear) => linear.forward(x, None),
                None => candle_core::bail!("a matrix without inputs"),
            },
            Self::Quantised(weight) => x.apply_op1_no_bwd(weight.as_ref()),
            Self::Dense(weight) => x.matmul(&weight.t()?),
        }
    }
}

/// The matrix as our kernels want it, where they know its type.
fn cpu_matrix(matrix: &Matrix) -> Option<CpuMatrix> {
    let (rows, columns) = (matrix.rows, matrix.columns);
    let dense = match matrix.tensor_type {
        TensorType::F16 => DenseKind::F16,
        TensorType::BF16 => DenseKind::Bf16,
        TensorType::F32 => DenseKind::F32,
        other => {
            let packed = PackedMatrix::pack(block_kind(other)?, &matrix.bytes, rows, columns)?;
            return Some(CpuMatrix::Packed(Arc::new(packed)));
        }
    };
    let tiled = DenseMatrix::pack(dense, &matrix.bytes, rows, columns)?;
    Some(CpuMatrix::Dense(Arc::new(tiled)))
}

/// The types whose blocks our kernels repack.
fn block_kind(tensor_type: TensorType) -> Option<BlockKind> {
    Some(match tensor_type {
        TensorType::Q4_0 => BlockKind::Q4_0,
        TensorType::Q4_1 => BlockKind::Q4_1,
        TensorType::Q5_0 => BlockKind::Q5_0,
        TensorType::Q5_1 => BlockKind::Q5_1,
        TensorType::Q8_0 => BlockKind::Q8_0,
        TensorType::Q4_K => BlockKind::Q4K,
        TensorType::Q5_K => BlockKind::Q5K,
        TensorType::Q6_K => BlockKind::Q6K,
        _ => return None,
    })
}

/// Candle's name of a type.
pub(crate) fn ggml_dtype(tensor_type: TensorType) -> GgmlDType {
    match tensor_type {
        TensorType::F32 => GgmlDType::F32,
        TensorType::F16 => GgmlDType::F16,
        TensorType::BF16 => GgmlDType::BF16,
        TensorType::Q4_0 => GgmlDType::Q4_0,
        TensorType::Q4_1 => GgmlDType::Q4_1,
        TensorType::Q5_0 => GgmlDType::Q5_0,
        TensorType::Q5_1 => GgmlDType::Q5_1,
        TensorType::Q8_0 => GgmlDType::Q8_0,
        TensorType::Q2_K => GgmlDType::Q2K,
        TensorType::Q3_K => GgmlDType::Q3K,
        TensorType::Q4_K => GgmlDType::Q4K,
        TensorType::Q5_K => GgmlDType::Q5K,
        TensorType::Q6_K => GgmlDType::Q6K,
    }
}
