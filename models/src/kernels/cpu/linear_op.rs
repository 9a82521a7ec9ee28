//! Products as Candle operations, with what comes before and after them in the same pass.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, InplaceOp2, Layout, Result, Shape, Tensor};

use super::activations::QuantizedRows;
use super::dense::DenseMatrix;
use super::elementwise::{Activation, RmsNorm, f32_slice};
use super::isa::Isa;
use super::matmul::{matmul_gated, matmul_into};
use super::out::{Finish, OutPtr, written};
use super::packed::{PackedMatrix, TILE};

/// The quantised rows of the product in hand. One for the process: products run one at a time anyway, since they share one
/// pool, and a copy for each matrix would add up to more than a small model's weights.
static ROWS: Mutex<QuantizedRows> = Mutex::new(QuantizedRows::new());

/// A weight matrix `[n, k]` in the form that the processor multiplies it in.
#[derive(Debug, Clone)]
pub(crate) enum CpuMatrix {
    /// Blocks of codes and scales.
    Packed(Arc<PackedMatrix>),
    /// Numbers as they are.
    Dense(Arc<DenseMatrix>),
}

impl CpuMatrix {
    fn n(&self) -> usize {
        match self {
            Self::Packed(matrix) => matrix.n(),
            Self::Dense(matrix) => matrix.n(),
        }
    }

    fn k(&self) -> usize {
        match self {
            Self::Packed(matrix) => matrix.k(),
            Self::Dense(matrix) => matrix.k(),
        }
    }

    /// Weight row `row` as f32 to `out`, `[k]`: an embedding lookup.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        match self {
            Self::Packed(matrix) => matrix.dequantize_row(row, out),
            Self::Dense(matrix) => matrix.row(row, out),
        }
    }
}

/// `x * w^T` for matrices `w` that share their input; their outputs lie side by side.
#[derive(Debug, Clone)]
pub(crate) struct CpuLinear {
    /// Each `[n, k]`, all of one `k`.
    weights: Vec<CpuMatrix>,
    k: usize,
    isa: Isa,
}

impl CpuLinear {
    /// An operation over `weights` with the best instructions of this processor. `None` where there is no weight, or their
    /// numbers of inputs differ.
    pub(crate) fn new(weights: Vec<CpuMatrix>) -> Option<Self> {
        let k = weights.first()?.k();
        let isa = Isa::detect();
        weights
            .iter()
            .all(|weight| weight.k() == k)
            .then_some(Self { weights, k, isa })
    }

    /// `[m, k]` to `[m, n]`, both F32 on the processor; `x` is normed before where there is a norm.
    ///
    /// # Errors
    /// Where `x` has another type, shape or device.
    pub(crate) fn forward(&self, x: &Tensor, norm: Option<&RmsNorm>) -> Result<Tensor> {
        x.contiguous()?
            .apply_op1_no_bwd(&Product { linear: self, norm })
    }

    /// Adds the product with `x` to `target`, in place.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub(crate) fn add_to(&self, target: &Tensor, x: &Tensor) -> Result<()> {
        target.inplace_op2(&x.contiguous()?, &AddProduct { linear: self })
    }

    /// For one matrix of gates above as many rows of `up`: `activation(gate) * up`, `[m, n / 2]`. `None` where this is no
    /// such matrix, or its halves share a tile.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub(crate) fn gated(
        &self,
        x: &Tensor,
        norm: Option<&RmsNorm>,
        activation: Activation,
    ) -> Option<Result<Tensor>> {
        let [CpuMatrix::Packed(weight)] = self.weights.as_slice() else {
            return None;
        };
        let whole = weight.n().is_multiple_of(2 * TILE);
        let gated = |x: Tensor| {
            x.apply_op1_no_bwd(&GatedProduct {
                weight,
                isa: self.isa,
                norm,
                activation,
            })
        };
        whole.then(|| x.contiguous().and_then(gated))
    }

    fn n(&self) -> usize {
        self.weights.iter().map(|weight| weight.n()).sum()
    }

    /// All products of `x` to `out`, whose rows are [`Self::n`] numbers.
    fn run(&self, x: &[f32], norm: Option<&RmsNorm>, out: OutPtr, finish: Finish) {
        let mut rows = ROWS.lock().unwrap_or_else(PoisonError::into_inner);
        let mut column = 0;
        let mut filled = None;
        let mut normed = Vec::new();
        for weight in &self.weights {
            #[expect(unsafe_code, reason = "see SAFETY")]
            // SAFETY: the columns of all weights together are those of `out`.
            let out = unsafe { out.columns_from(column) };
            column += weight.n();
            match weight {
                CpuMatrix::Packed(weight) => {
                    // Types differ in the sums that they need beside the codes.
                    if filled != Some(weight.layout.groups) {
                        rows.fill(x, self.k, weight.layout, norm);
                        filled = Some(weight.layout.groups);
                    }
                    matmul_into(self.isa, &rows, weight, out, finish);
                }
                CpuMatrix::Dense(weight) => {
                    let x = normed_rows(x, norm, &mut normed);
                    weight.multiply(x, out, finish);
                }
            }
        }
    }
}

/// `x`, or its normed rows in `normed`, which holds nothing or them.
fn normed_rows<'a>(x: &'a [f32], norm: Option<&RmsNorm>, normed: &'a mut Vec<f32>) -> &'a [f32] {
    let Some(norm) = norm else {
        return x;
    };
    if normed.is_empty() {
        normed.resize(x.len(), 0.0);
        norm.apply(x, normed);
    }
    normed
}

struct Product<'a> {
    linear: &'a CpuLinear,
    norm: Option<&'a RmsNorm>,
}

impl CustomOp1 for Product<'_> {
    fn name(&self) -> &'static str {
        "cpu-product"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, m) = input(self.linear.k, self.norm, storage, layout)?;
        let n = self.linear.n();
        #[expect(unsafe_code, reason = "see SAFETY")]
        // SAFETY: every row of the input is multiplied with every tile of every weight.
        let out = unsafe {
            written(m * n, n, |out| {
                self.linear.run(x, self.norm, out, Finish::Store)
            })
        };
        Ok((CpuStorage::F32(out), Shape::from((m, self.linear.n()))))
    }
}

struct AddProduct<'a> {
    linear: &'a CpuLinear,
}

impl InplaceOp2 for AddProduct<'_> {
    fn name(&self) -> &'static str {
        "cpu-add-product"
    }

    fn cpu_fwd(
        &self,
        target: &mut CpuStorage,
        target_layout: &Layout,
        storage: &CpuStorage,
        layout: &Layout,
    ) -> Result<()> {
        let (x, m) = input(self.linear.k, None, storage, layout)?;
        let range = target_layout.contiguous_offsets();
        let target = match (target, range) {
            (CpuStorage::F32(target), Some((start, end))) => &mut target[start..end],
            _ => candle_core::bail!("product: the target is not contiguous F32"),
        };
        if target.len() != m * self.linear.n() {
            candle_core::bail!("product: the target has not the shape of the product");
        }
        let target = OutPtr::new(target, self.linear.n());
        self.linear.run(x, None, target, Finish::Add);
        Ok(())
    }
}

struct GatedProduct<'a> {
    weight: &'a PackedMatrix,
    isa: Isa,
    norm: Option<&'a RmsNorm>,
    activation: Activation,
}

impl CustomOp1 for GatedProduct<'_> {
    fn name(&self) -> &'static str {
        "cpu-gated-product"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, m) = input(self.weight.k(), self.norm, storage, layout)?;
        let width = self.weight.n() / 2;
        let mut rows = ROWS.lock().unwrap_or_else(PoisonError::into_inner);
        rows.fill(x, self.weight.k(), self.weight.layout, self.norm);
        #[expect(unsafe_code, reason = "see SAFETY")]
        // SAFETY: every row of the input is multiplied with every tile.
        let out = unsafe {
            written(m * width, width, |out| {
                matmul_gated(self.isa, &rows, self.weight, self.activation, out);
            })
        };
        Ok((CpuStorage::F32(out), Shape::from((m, width))))
    }
}

/// The rows of a product's input, and how many they are.
fn input<'a>(
    inputs: usize,
    norm: Option<&RmsNorm>,
    storage: &'a CpuStorage,
    layout: &Layout,
) -> Result<(&'a [f32], usize)> {
    let (m, k) = layout.shape().dims2()?;
    if k != inputs || norm.is_some_and(|norm| norm.weight.len() != k) {
        candle_core::bail!("product: {k} inputs for a weight of {inputs}");
    }
    Ok((f32_slice(storage, layout)?, m))
}
