//! What lies between the products: norm and gate. Both are part of the product beside them, which works on the same rows.

use candle_core::{CpuStorage, Layout, Result};

use super::simd::{Simd, exp, simd_dispatch};

/// Lanes of a sum: a fixed number, so that a row's sum never depends on the processor's register width.
const LANES: usize = 16;

/// The root-mean-square norm of each row, times a weight.
#[derive(Debug, Clone)]
pub(crate) struct RmsNorm {
    /// As wide as a row.
    pub(crate) weight: Vec<f32>,
    pub(crate) eps: f32,
}

/// What a gate goes through before it is multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// GELU by its tanh approximation (Hendrycks and Gimpel 2016, <https://arxiv.org/abs/1606.08415>).
    GeluTanh,
}

impl RmsNorm {
    /// Norms the rows of `x` to `out`.
    pub(crate) fn apply(&self, x: &[f32], out: &mut [f32]) {
        rms_norm(x, &self.weight, self.eps, out);
    }
}

/// The numbers of a contiguous F32 tensor.
pub(crate) fn f32_slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("the tensor is not contiguous")
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

simd_dispatch! {
    /// `x` and `out` hold the same rows, each as wide as `weight`.
    fn rms_norm = rms_norm_body(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32])
}

#[inline(always)]
fn rms_norm_body<S: Simd>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let scale = 1.0 / (sum_of_squares::<S>(x) / width as f32 + eps).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * weight;
        }
    }
}

#[inline(always)]
fn sum_of_squares<S: Simd>(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = S::mul_add(*x, *x, *lane);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(tail) {
        *lane = S::mul_add(*x, *x, *lane);
    }
    lanes.iter().sum()
}

/// `gates = activation(gates) * ups`.
pub(crate) fn gate(activation: Activation, gates: &mut [f32], ups: &[f32]) {
    match activation {
        Activation::Silu => gate_silu(gates, ups),
        Activation::GeluTanh => gate_gelu_tanh(gates, ups),
    }
}

simd_dispatch! {
    fn gate_silu = gate_silu_body(gates: &mut [f32], ups: &[f32])
}

#[inline(always)]
fn gate_silu_body<S: Simd>(gates: &mut [f32], ups: &[f32]) {
    for (gate, up) in gates.iter_mut().zip(ups) {
        *gate = *gate / (1.0 + exp::<S>(-*gate)) * up;
    }
}

simd_dispatch! {
    fn gate_gelu_tanh = gate_gelu_tanh_body(gates: &mut [f32], ups: &[f32])
}

/// `0.5 (1 + tanh(u)) = sigmoid(2u)`.
#[inline(always)]
fn gate_gelu_tanh_body<S: Simd>(gates: &mut [f32], ups: &[f32]) {
    /// `2 * sqrt(2 / pi)`.
    const DOUBLE_ROOT: f32 = 1.595_769_2;
    for (gate, up) in gates.iter_mut().zip(ups) {
        let cube = *gate * *gate * *gate;
        let u = DOUBLE_ROOT * S::mul_add(0.044_715, cube, *gate);
        *gate = *gate / (1.0 + exp::<S>(-u)) * up;
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    #[test]
    fn agree_with_candle() -> Result<()> {
        let x = Tensor::randn(0f32, 3f32, (37, 300), &Device::Cpu)?;
        let weight = Tensor::randn(1f32, 0.2f32, 300, &Device::Cpu)?;
        let norm = RmsNorm {
            weight: weight.to_vec1()?,
            eps: 1e-5,
        };
        let numbers = numbers(&x)?;
        let mut ours = vec![0.0; numbers.len()];
        norm.apply(&numbers, &mut ours);
        assert!(distance(&ours, &candle_nn::ops::rms_norm(&x, &weight, 1e-5)?)? < 1e-5);

        let up = Tensor::randn(0f32, 1f32, (37, 300), &Device::Cpu)?;
        for (activation, theirs) in [
            (Activation::Silu, x.silu()?),
            (Activation::GeluTanh, x.gelu()?),
        ] {
            let mut ours = numbers.clone();
            gate(activation, &mut ours, &self::numbers(&up)?);
            assert!(distance(&ours, &(theirs * &up)?)? < 1e-5);
        }
        Ok(())
    }

    fn numbers(x: &Tensor) -> Result<Vec<f32>> {
        x.flatten_all()?.to_vec1()
    }

    fn distance(a: &[f32], b: &Tensor) -> Result<f32> {
        let pairs = a.iter().zip(numbers(b)?);
        Ok(pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max))
    }
}
