//! Tensors of a GGUF file on their way to a device, checked for shape and quantised as they are.

use candle_core::quantized::{QStorage, QTensor};
use candle_core::{DType, Device, Tensor};

use super::gguf::{GgufFile, TensorInfo, TensorType};
use crate::causal_lm::LoadError;
use crate::layers::linear::ggml_dtype;

/// The tensors of one file on their way to one device.
#[derive(Debug)]
pub(crate) struct GgufTensors<'a> {
    gguf: &'a GgufFile,
    device: &'a Device,
}

/// A weight matrix as the file holds it: rows of blocks.
#[derive(Debug)]
pub(crate) struct Matrix {
    pub(crate) tensor_type: TensorType,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) bytes: Vec<u8>,
}

impl<'a> GgufTensors<'a> {
    pub(crate) fn new(gguf: &'a GgufFile, device: &'a Device) -> Self {
        Self { gguf, device }
    }

    pub(crate) fn device(&self) -> &Device {
        self.device
    }

    /// Whether the file has a tensor of that name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.gguf.tensor(name).is_some()
    }

    /// Type of a tensor's numbers.
    pub(crate) fn tensor_type(&self, name: &str) -> Result<TensorType, LoadError> {
        Ok(self.info(name)?.tensor_type)
    }

    /// Matrices `(name, rows)` of one type and width under one another: their rows lie one after another in the file,
    /// so that stacking is joining bytes.
    pub(crate) fn stacked(
        &self,
        parts: &[(&str, usize)],
        columns: usize,
    ) -> Result<Matrix, LoadError> {
        let mut matrix = Matrix {
            tensor_type: TensorType::F32,
            rows: 0,
            columns,
            bytes: Vec::new(),
        };
        for &(name, rows) in parts {
            self.expect_shape(name, &[rows, columns])?;
            matrix.tensor_type = self.tensor_type(name)?;
            matrix.rows += rows;
            let part = self.gguf.read_tensor(name)?;
            if matrix.bytes.is_empty() {
                matrix.bytes = part;
            } else {
                matrix.bytes.extend_from_slice(&part);
            }
        }
        Ok(matrix)
    }

    /// A vector of `len` numbers, as F32.
    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<Tensor, LoadError> {
        self.expect_shape(name, &[len])?;
        let dtype = ggml_dtype(self.tensor_type(name)?);
        let bytes = self.gguf.read_tensor(name)?;
        let storage = QStorage::from_data(bytes.into(), self.device, dtype)?;
        let tensor = QTensor::new(storage, len)?.dequantize(self.device)?;
        Ok(tensor.to_dtype(DType::F32)?)
    }

    fn info(&self, name: &str) -> Result<&TensorInfo, LoadError> {
        self.gguf
            .tensor(name)
            .ok_or_else(|| LoadError::MissingTensor {
                tensor: name.to_owned(),
            })
    }

    fn expect_shape(&self, name: &str, wanted: &[usize]) -> Result<(), LoadError> {
        let found = &self.info(name)?.shape;
        if found == wanted {
            return Ok(());
        }
        Err(LoadError::Shape {
            tensor: name.to_owned(),
            wanted: wanted.to_vec(),
            found: found.clone(),
        })
    }
}
