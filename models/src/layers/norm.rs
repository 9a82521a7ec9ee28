//! Root-mean-square norm.

use candle_core::{Result, Tensor};

use crate::causal_lm::LoadError;
use crate::kernels::cpu;
use crate::weights::tensors::GgufTensors;

/// `y = x / sqrt(mean(x^2) + eps) * weight`, row by row (Zhang and Sennrich 2019, <https://arxiv.org/abs/1910.07467>).
#[derive(Debug)]
pub(crate) struct RmsNorm {
    weight: Tensor,
    eps: f32,
}

impl RmsNorm {
    pub(crate) fn load(
        tensors: &GgufTensors<'_>,
        name: &str,
        width: usize,
        eps: f32,
    ) -> std::result::Result<Self, LoadError> {
        Ok(Self {
            weight: tensors.vector(name, width)?,
            eps,
        })
    }

    /// `[T, width]` to the same.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if x.device().is_cpu() {
            return x.apply_op2_no_bwd(&self.weight, &cpu::RmsNorm { eps: self.eps });
        }
        candle_nn::ops::rms_norm(x, &self.weight, self.eps)
    }
}
