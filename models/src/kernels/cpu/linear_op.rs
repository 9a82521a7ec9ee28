//! The packed product as a Candle operation.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::activations::QuantizedRows;
use super::matmul::{Isa, matmul};
use super::packed::PackedMatrix;

/// The quantised rows of the product in hand. One for the process: products run one at a time anyway, since they share one
/// pool, and a copy for each matrix would add up to more than a small model's weights.
static ROWS: Mutex<QuantizedRows> = Mutex::new(QuantizedRows::new());

/// `x * w^T` for a packed `w`, `[n, k]`.
#[derive(Debug, Clone)]
pub struct PackedLinear {
    weight: Arc<PackedMatrix>,
    isa: Isa,
}

impl PackedLinear {
    /// An operation over `weight` with the best instructions of this processor.
    #[must_use]
    pub fn new(weight: PackedMatrix) -> Self {
        Self {
            weight: Arc::new(weight),
            isa: Isa::detect(),
        }
    }

    /// The weights.
    #[must_use]
    pub fn weight(&self) -> &PackedMatrix {
        &self.weight
    }

    /// `[m, k]` to `[m, n]`, both F32 on the processor.
    ///
    /// # Errors
    /// Where `x` has another type, shape or device.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op1_no_bwd(self)
    }
}

impl CustomOp1 for PackedLinear {
    fn name(&self) -> &'static str {
        "packed-linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (m, k) = layout.shape().dims2()?;
        if k != self.weight.k() {
            candle_core::bail!(
                "packed-linear: {k} inputs for a weight of {}",
                self.weight.k()
            );
        }
        let x = layout
            .contiguous_offsets()
            .and_then(|(start, end)| storage.as_slice::<f32>().ok()?.get(start..end));
        let Some(x) = x else {
            candle_core::bail!("packed-linear: the input is not contiguous F32")
        };
        let mut rows = ROWS.lock().unwrap_or_else(PoisonError::into_inner);
        rows.fill(x, k, self.weight.layout);
        let mut out = vec![0.0; m * self.weight.n()];
        matmul(self.isa, &rows, &self.weight, &mut out);
        Ok((CpuStorage::F32(out), Shape::from((m, self.weight.n()))))
    }
}
