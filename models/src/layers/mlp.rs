//! The gated feed-forward block.

use candle_core::{D, Result, Tensor};

use super::linear::Linear;
use crate::kernels::cpu;

/// What the gate goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    /// SwiGLU.
    Silu,
    /// GeGLU, with GELU approximated through tanh (Hendrycks and Gimpel 2016, <https://arxiv.org/abs/1606.08415>).
    GeluTanh,
}

/// `down(activation(gate(x)) * up(x))` (Shazeer 2020, <https://arxiv.org/abs/2002.05202>).
#[derive(Debug)]
pub(crate) struct Mlp {
    /// Gate and up in one product, the gate first: `[T, 2 * hidden]`.
    pub(crate) gate_up: Linear,
    pub(crate) down: Linear,
    pub(crate) activation: Activation,
}

impl Mlp {
    /// `[T, width]` to the same.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let gate_up = self.gate_up.forward(x)?;
        let hidden = match self.activation {
            Activation::Silu if x.device().is_cpu() => gate_up.apply_op1_no_bwd(&cpu::SwiGlu)?,
            activation => {
                let parts = gate_up.chunk(2, D::Minus1)?;
                let gate = match activation {
                    Activation::Silu => parts[0].silu()?,
                    // Candle's `gelu` is the approximation; `gelu_erf` is not.
                    Activation::GeluTanh => parts[0].gelu()?,
                };
                (gate * &parts[1])?
            }
        };
        self.down.forward(&hidden)
    }
}
