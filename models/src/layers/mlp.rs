//! The gated feed-forward block.

use candle_core::{D, Result, Tensor};

use super::linear::Linear;
use crate::kernels::cpu;

/// SwiGLU: `down(silu(gate(x)) * up(x))` (Shazeer 2020, <https://arxiv.org/abs/2002.05202>).
#[derive(Debug)]
pub(crate) struct Mlp {
    /// Gate and up in one product, the gate first: `[T, 2 * hidden]`.
    pub(crate) gate_up: Linear,
    pub(crate) down: Linear,
}

impl Mlp {
    /// `[T, width]` to the same.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let gate_up = self.gate_up.forward(x)?;
        let hidden = if x.device().is_cpu() {
            gate_up.apply_op1_no_bwd(&cpu::SwiGlu)?
        } else {
            let parts = gate_up.chunk(2, D::Minus1)?;
            (parts[0].silu()? * &parts[1])?
        };
        self.down.forward(&hidden)
    }
}
