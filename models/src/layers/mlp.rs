//! The gated feed-forward block.

use candle_core::{Result, Tensor};

use super::linear::Linear;
use super::norm::RmsNorm;
use crate::kernels::cpu::Activation;

/// `down(activation(gate(x)) * up(x))`: SwiGLU and its kin (Shazeer 2020, <https://arxiv.org/abs/2002.05202>).
#[derive(Debug)]
pub(crate) struct Mlp {
    /// Gate and up in one product, the gate first: `[T, 2 * hidden]`.
    pub(crate) gate_up: Linear,
    pub(crate) down: Linear,
    pub(crate) activation: Activation,
}

impl Mlp {
    /// `x` plus the block's result for its normed rows.
    pub(crate) fn add_to(&self, x: Tensor, norm: &RmsNorm) -> Result<Tensor> {
        let hidden = self.gate_up.gated(norm, &x, self.activation)?;
        self.down.add_to(x, &hidden)
    }
}
