//! Root-mean-square norm.

use candle_core::{Result, Tensor};

use crate::causal_lm::LoadError;
use crate::kernels::cpu;
use crate::weights::tensors::Tensors;

/// `y = x / sqrt(mean(x^2) + eps) * weight`, row by row (Zhang and Sennrich 2019, <https://arxiv.org/abs/1910.07467>).
#[derive(Debug)]
pub(crate) struct RmsNorm {
    weight: Tensor,
    eps: f32,
}

impl RmsNorm {
    pub(crate) fn load(
        tensors: &Tensors<'_>,
        name: &str,
        width: usize,
        eps: f32,
    ) -> std::result::Result<Self, LoadError> {
        Ok(Self {
            weight: tensors.vector(name, width)?,
            eps,
        })
    }

    /// The same norm with its result multiplied.
    pub(crate) fn scaled(mut self, by: f32) -> Result<Self> {
        if by != 1.0 {
            self.weight = (self.weight * f64::from(by))?;
        }
        Ok(self)
    }

    /// `[T, width]` to the same.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if x.device().is_cpu() {
            return x.apply_op2_no_bwd(&self.weight, &cpu::RmsNorm { eps: self.eps });
        }
        candle_nn::ops::rms_norm(x, &self.weight, self.eps)
    }
}
