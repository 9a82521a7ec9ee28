//! The embedding table: only the rows of a step are ever dequantised.

use candle_core::{Device, Result, Tensor};

use super::linear::Weight;

/// Rows of a weight matrix by token id.
#[derive(Debug)]
pub(crate) struct Embedding {
    table: Weight,
    width: usize,
}

impl Embedding {
    pub(crate) fn new(table: Weight, width: usize) -> Self {
        Self { table, width }
    }

    /// `[T, width]` in F32. Ids are below the table's number of rows.
    pub(crate) fn forward(&self, ids: &[u32], device: &Device) -> Result<Tensor> {
        match &self.table {
            Weight::Packed(table) => {
                let mut rows = vec![0.0; ids.len() * self.width];
                for (row, &id) in rows.chunks_exact_mut(self.width).zip(ids) {
                    table.dequantize_row(id as usize, row);
                }
                Tensor::from_vec(rows, (ids.len(), self.width), device)
            }
            Weight::Quantised(table) => table.embedding(&Tensor::new(ids, device)?),
            Weight::Dense(table) => table.index_select(&Tensor::new(ids, device)?, 0),
        }
    }
}
