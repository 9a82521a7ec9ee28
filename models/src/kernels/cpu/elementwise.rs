//! Row-wise operations between the products: norm and gate, each one pass over its input.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape};

use super::pool::for_rows;
use super::simd::{Simd, exp, simd_dispatch};

/// Lanes of a sum: a fixed number, so that a row's sum never depends on the processor's register width.
const LANES: usize = 16;

/// The root-mean-square norm of each row, times a weight.
pub(crate) struct RmsNorm {
    pub(crate) eps: f32,
}

/// `silu(gate) * up` for rows that hold the gate and behind it as many numbers of `up`.
pub(crate) struct SwiGlu;

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "cpu-rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = f32_slice(x, x_layout)?;
        let weight = f32_slice(weight, weight_layout)?;
        let width = weight.len();
        if width == 0 || !x.len().is_multiple_of(width) {
            candle_core::bail!("rms-norm: rows are not {width} wide");
        }
        let mut out = vec![0.0; x.len()];
        for_rows(&mut out, width, |first, out| {
            rms_norm(&x[first * width..][..out.len()], weight, self.eps, out);
        });
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}

impl CustomOp1 for SwiGlu {
    fn name(&self) -> &'static str {
        "cpu-swiglu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, both) = layout.shape().dims2()?;
        let x = f32_slice(x, layout)?;
        let width = both / 2;
        let mut out = vec![0.0; rows * width];
        for_rows(&mut out, width, |first, out| {
            swiglu(&x[first * both..][..2 * out.len()], width, out);
        });
        Ok((CpuStorage::F32(out), Shape::from((rows, width))))
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

simd_dispatch! {
    /// Rows of `x` are `2 * width` numbers, rows of `out` are `width`.
    fn swiglu = swiglu_body(x: &[f32], width: usize, out: &mut [f32])
}

#[inline(always)]
fn swiglu_body<S: Simd>(x: &[f32], width: usize, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
        let (gate, up) = x.split_at(width);
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate / (1.0 + exp::<S>(-gate)) * up;
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{D, Device, Tensor};

    use super::*;

    #[test]
    fn agree_with_candle() -> Result<()> {
        let x = Tensor::randn(0f32, 3f32, (37, 300), &Device::Cpu)?;
        let weight = Tensor::randn(1f32, 0.2f32, 300, &Device::Cpu)?;
        let ours = x.apply_op2_no_bwd(&weight, &RmsNorm { eps: 1e-5 })?;
        let theirs = candle_nn::ops::rms_norm(&x, &weight, 1e-5)?;
        assert!(distance(&ours, &theirs)? < 1e-5);
        let ours = x.apply_op1_no_bwd(&SwiGlu)?;
        let parts = x.chunk(2, D::Minus1)?;
        let theirs = (parts[0].silu()? * &parts[1])?;
        assert!(distance(&ours, &theirs)? < 1e-5);
        Ok(())
    }

    fn distance(a: &Tensor, b: &Tensor) -> Result<f32> {
        (a - b)?.abs()?.max_all()?.to_scalar()
    }
}
