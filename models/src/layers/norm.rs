//! Root-mean-square norm.

use candle_core::{Result, Tensor};

use crate::causal_lm::LoadError;
use crate::kernels::cpu;
use crate::weights::tensors::Tensors;

/// `y = x / sqrt(mean(x^2) + eps) * weight`, row by row (Zhang and Sennrich 2019, <https://arxiv.org/abs/1910.07467>).
#[derive(Debug)]
pub(crate) struct RmsNorm {
    weight: Tensor,
    host: cpu::RmsNorm,
}

impl RmsNorm {
    pub(crate) fn load(
        tensors: &Tensors<'_>,
        name: &str,
        width: usize,
        eps: f32,
    ) -> std::result::Result<Self, LoadError> {
        let weight = tensors.vector(name, width)?;
        let host = cpu::RmsNorm {
            weight: weight.to_vec1()?,
            eps,
        };
        Ok(Self { weight, host })
    }

    /// The same norm with its result multiplied.
    pub(crate) fn scaled(mut self, by: f32) -> Result<Self> {
        if by != 1.0 {
            self.weight = (self.weight * f64::from(by))?;
            self.host.weight.iter_mut().for_each(|weight| *weight *= by);
        }
        Ok(self)
    }

    /// `[T, width]` to the same.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        candle_nn::ops::rms_norm(&x.contiguous()?, &self.weight, self.host.eps)
    }

    /// The norm in the processor's memory, for kernels that norm on the way.
    pub(crate) fn host(&self) -> &cpu::RmsNorm {
        &self.host
    }
}
