//! The gated feed-forward block.

use candle_core::{Result, Tensor};

use super::linear::Linear;
use super::norm::RmsNorm;
pub(crate) use crate::kernels::cpu::Activation;

/// `down(activation(gate(x)) * up(x))`: SwiGLU and its kin (Shazeer 2020, <https://arxiv.org/abs/2002.05202>).
#[derive(Debug)]
pub(crate) struct Mlp {
    /// Gate and up in one product, the gate first: `[T, 2 * hidden]`.
    pub(crate) gate_up: Linear,
    pub(crate) down: Linear,
    pub(crate) activation: Activation,
}

impl Mlp {
    /// `activation(gate(x)) * up(x)` of the normed rows of `x`, which [`Self::down`] brings back to the model's width.
    pub(crate) fn hidden(&self, x: &Tensor, norm: &RmsNorm) -> Result<Tensor> {
        self.gate_up.gated(norm, x, self.activation)
    }
}
