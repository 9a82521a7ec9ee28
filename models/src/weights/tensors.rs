//! Tensors of a checkpoint on their way to a device, checked for shape and quantised as they are.

use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::quantized::{QStorage, QTensor};
use candle_core::{DType, Device, Tensor};

use super::gguf::{GgufFile, TensorType};
use super::heads::interleave;
use crate::causal_lm::LoadError;
use crate::fingerprint::Fingerprint;
use crate::layers::linear::ggml_dtype;

/// Where weights come from. Tensors are known by their names in GGUF.
pub(crate) trait Checkpoint {
    /// Type and shape of a tensor, the slowest-varying size first.
    fn tensor(&self, name: &str) -> Option<(TensorType, Vec<usize>)>;

    /// The bytes of a tensor, blocks of its type row by row.
    ///
    /// # Errors
    /// Where the file has shrunk or the disk fails.
    fn read(&self, name: &str) -> Result<Vec<u8>, LoadError>;

    /// Names of all tensors.
    fn names(&self) -> Vec<String>;
}

impl Checkpoint for GgufFile {
    fn tensor(&self, name: &str) -> Option<(TensorType, Vec<usize>)> {
        let info = Self::tensor(self, name)?;
        Some((info.tensor_type, info.shape.clone()))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, LoadError> {
        Ok(self.read_tensor(name)?)
    }

    fn names(&self) -> Vec<String> {
        self.tensor_names().map(str::to_owned).collect()
    }
}

/// The tensors of one checkpoint on their way to one device.
pub(crate) struct Tensors<'a> {
    checkpoint: &'a dyn Checkpoint,
    device: &'a Device,
    halves: Option<Halves>,
    /// What was read by name, and its fingerprint: to find what nobody asked for, and to name what was.
    read: RefCell<BTreeMap<String, u128>>,
}

/// Heads whose rotated numbers lie in halves.
#[derive(Debug, Clone, Copy)]
struct Halves {
    head_dim: usize,
    /// Numbers of a head that are rotated.
    dims: usize,
}

/// A weight matrix as the file holds it: rows of blocks.
#[derive(Debug)]
pub(crate) struct Matrix {
    pub(crate) tensor_type: TensorType,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) bytes: Vec<u8>,
}

impl<'a> Tensors<'a> {
    pub(crate) fn new(checkpoint: &'a dyn Checkpoint, device: &'a Device) -> Self {
        Self {
            checkpoint,
            device,
            halves: None,
            read: RefCell::default(),
        }
    }

    /// From here on, heads of queries and keys are reordered while they are read, so that what is rotated together lies
    /// side by side.
    pub(crate) fn interleave_heads(&mut self, head_dim: usize, dims: usize) {
        self.halves = Some(Halves { head_dim, dims });
    }

    pub(crate) fn device(&self) -> &Device {
        self.device
    }

    /// Whether there is a tensor of that name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.checkpoint.tensor(name).is_some()
    }

    /// Type of a tensor's numbers.
    pub(crate) fn tensor_type(&self, name: &str) -> Result<TensorType, LoadError> {
        Ok(self.info(name)?.0)
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
            matrix.tensor_type = self.expect_shape(name, &[rows, columns])?;
            matrix.rows += rows;
            let part = self.bytes(name, rows)?;
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
        let dtype = ggml_dtype(self.expect_shape(name, &[len])?);
        let bytes = self.bytes(name, len)?;
        let storage = QStorage::from_data(bytes.into(), self.device, dtype)?;
        let tensor = QTensor::new(storage, len)?.dequantize(self.device)?;
        Ok(tensor.to_dtype(DType::F32)?)
    }

    /// The first tensor of a layer that was not read: the model has a part that its architecture does not.
    pub(crate) fn first_unread(&self) -> Option<String> {
        let read = self.read.borrow();
        let mut names = self.checkpoint.names().into_iter();
        names.find(|name| name.starts_with("blk.") && !read.contains_key(name))
    }

    /// Fingerprint of all that was read.
    pub(crate) fn fingerprint(&self) -> u128 {
        let mut all = Fingerprint::default();
        for (name, &tensor) in &*self.read.borrow() {
            all.add(name.as_bytes());
            all.add_fingerprint(tensor);
        }
        all.finish()
    }

    /// A tensor of so many rows, its heads reordered where that is needed.
    fn bytes(&self, name: &str, rows: usize) -> Result<Vec<u8>, LoadError> {
        let bytes = self.checkpoint.read(name)?;
        let mut fingerprint = Fingerprint::default();
        fingerprint.add(format!("{:?}", self.info(name)?).as_bytes());
        fingerprint.add(&bytes);
        let fingerprint = fingerprint.finish();
        self.read.borrow_mut().insert(name.to_owned(), fingerprint);
        Ok(match self.halves {
            Some(halves) if is_rotated(name) => {
                interleave(&bytes, rows, halves.head_dim, halves.dims)
            }
            _ => bytes,
        })
    }

    fn info(&self, name: &str) -> Result<(TensorType, Vec<usize>), LoadError> {
        self.checkpoint
            .tensor(name)
            .ok_or_else(|| LoadError::MissingTensor {
                tensor: name.to_owned(),
            })
    }

    fn expect_shape(&self, name: &str, wanted: &[usize]) -> Result<TensorType, LoadError> {
        let (tensor_type, found) = self.info(name)?;
        if found == wanted {
            return Ok(tensor_type);
        }
        Err(LoadError::Shape {
            tensor: name.to_owned(),
            wanted: wanted.to_vec(),
            found,
        })
    }
}

/// Whether the rows of a tensor are numbers of queries or keys: their matrices, their biases and their norms.
fn is_rotated(name: &str) -> bool {
    let part = name
        .strip_prefix("blk.")
        .and_then(|rest| rest.split('.').nth(1));
    matches!(
        part,
        Some("attn_q" | "attn_k" | "attn_q_norm" | "attn_k_norm")
    )
}
