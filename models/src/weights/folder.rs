//! Folders as Hugging Face lays them out: `config.json`, weights in safetensors, in one file or in shards with an index.
//!
//! As with GGUF nothing in them is believed: lengths are held against bounds and the files' sizes before memory is taken,
//! and an index can name only files beside it. Tensors are offered under their GGUF names, so that the decoder knows one
//! set of names.

mod error;
mod names;
mod safetensors;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::quantized::QTensor;
use candle_core::{Device, Tensor};
use serde::Deserialize;

pub use error::FolderError;

use super::gguf::TensorType;
use super::tensors::Checkpoint;
use crate::causal_lm::{LoadError, Quantise};
use crate::fingerprint::Fingerprint;
use crate::layers::linear::ggml_dtype;
use crate::limits::{FOLDER_FILES_MAX, FOLDER_JSON_BYTES_MAX};
pub(crate) use names::Names;
use safetensors::{Entry, SafetensorsFile};

const CONFIG: &str = "config.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The tensors of a folder.
#[derive(Debug)]
pub(crate) struct FolderWeights {
    files: Vec<SafetensorsFile>,
    /// By GGUF name: the file and its entry.
    tensors: BTreeMap<String, (usize, Entry)>,
    traits: WeightTraits,
}

/// How the weights of an architecture differ from what GGUF files of it hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WeightTraits {
    /// Whether there are norms behind attention and feed-forward too, which shifts the names.
    pub(crate) post_norms: bool,
    /// Whether norms multiply with `1 + w`.
    pub(crate) norms_less_one: bool,
    /// Whether the output projection is the embedding table whatever else there may be.
    pub(crate) tied: bool,
    /// What matrices are quantised to while they are read.
    pub(crate) quantise: Option<Quantise>,
}

/// The text of a JSON file, or `None` where there is no such file.
pub(crate) fn read_json(dir: &Path, name: &str) -> Result<Option<String>, FolderError> {
    let path = dir.join(name);
    let fault = |source| FolderError::Read {
        path: path.clone(),
        source,
    };
    match fs::metadata(&path) {
        Ok(metadata) if metadata.len() > FOLDER_JSON_BYTES_MAX => {
            let why = format!("is larger than {FOLDER_JSON_BYTES_MAX} bytes");
            Err(FolderError::malformed(&path, why))
        }
        Ok(_) => fs::read_to_string(&path).map(Some).map_err(fault),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fault(error)),
    }
}

/// A JSON file that must be there.
pub(crate) fn parse_json<T: for<'de> Deserialize<'de>>(
    dir: &Path,
    name: &str,
) -> Result<T, FolderError> {
    let path = dir.join(name);
    let text = read_json(dir, name)?.ok_or_else(|| FolderError::Missing { path: path.clone() })?;
    serde_json::from_str(&text).map_err(|error| FolderError::malformed(&path, error.to_string()))
}

/// Files of a folder that say what its model is beside the weights.
const METADATA: [&str; 5] = [
    CONFIG,
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
];

/// Fingerprint of what the folder says beside the weights.
pub(crate) fn fingerprint(dir: &Path) -> Result<u128, FolderError> {
    let mut all = Fingerprint::default();
    for name in METADATA {
        all.add(name.as_bytes());
        if let Some(text) = read_json(dir, name)? {
            all.add(text.as_bytes());
        }
    }
    Ok(all.finish())
}

/// What `config.json` says.
pub(crate) fn config<T: for<'de> Deserialize<'de>>(dir: &Path) -> Result<T, FolderError> {
    parse_json(dir, CONFIG)
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl FolderWeights {
    /// Opens the weights of a folder and reads their headers.
    ///
    /// # Errors
    /// [`FolderError`] names the file and what is wrong with it.
    pub(crate) fn open(dir: &Path, traits: WeightTraits) -> Result<Self, FolderError> {
        let mut files = Vec::new();
        let mut tensors = BTreeMap::new();
        let names = Names::new(traits.post_norms);
        for path in weight_files(dir)? {
            let file = SafetensorsFile::open(&path)?;
            for (name, entry) in &file.tensors {
                let Some(gguf) = names.gguf(name).filter(|name| !traits.hides(name)) else {
                    continue;
                };
                if tensors.insert(gguf, (files.len(), entry.clone())).is_some() {
                    let why = format!("tensor `{name}` appears twice");
                    return Err(FolderError::malformed(&path, why));
                }
            }
            files.push(file);
        }
        Ok(Self {
            files,
            tensors,
            traits,
        })
    }

    /// Type that the tensor is handed out in.
    fn type_of(&self, name: &str, entry: &Entry) -> TensorType {
        if self.traits.norms_less_one && is_norm(name) {
            return TensorType::F32;
        }
        match (self.traits.quantise, entry.shape.as_slice()) {
            (Some(quantise), [_, columns]) => quantise
                .type_for(name, *columns)
                .unwrap_or(entry.tensor_type),
            _ => entry.tensor_type,
        }
    }
}

impl WeightTraits {
    fn hides(&self, name: &str) -> bool {
        self.tied && name == "output.weight"
    }
}

fn is_norm(name: &str) -> bool {
    name.ends_with("norm.weight")
}

/// The one file, or those of the index, each once.
fn weight_files(dir: &Path) -> Result<Vec<PathBuf>, FolderError> {
    if read_json(dir, INDEX)?.is_none() {
        return Ok(vec![dir.join(SINGLE)]);
    }
    let index: Index = parse_json(dir, INDEX)?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    let is_plain = |name: &String| Path::new(name).components().count() == 1 && name != "..";
    if names.len() > FOLDER_FILES_MAX || !names.iter().all(is_plain) {
        let why = "names too many files, or files outside of the folder".to_owned();
        return Err(FolderError::malformed(&dir.join(INDEX), why));
    }
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}

impl Checkpoint for FolderWeights {
    fn tensor(&self, name: &str) -> Option<(TensorType, Vec<usize>)> {
        let (_, entry) = self.tensors.get(name)?;
        Some((self.type_of(name, entry), entry.shape.clone()))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, LoadError> {
        let missing = || LoadError::MissingTensor {
            tensor: name.to_owned(),
        };
        let (file, entry) = self.tensors.get(name).ok_or_else(missing)?;
        let bytes = self.files[*file].read(entry)?;
        let wanted = self.type_of(name, entry);
        if wanted == entry.tensor_type && !(self.traits.norms_less_one && is_norm(name)) {
            return Ok(bytes);
        }
        let mut tensor = decode(bytes, entry)?;
        if is_norm(name) {
            tensor = (tensor + 1.0)?;
        }
        let quantised = QTensor::quantize(&tensor, ggml_dtype(wanted))?;
        Ok(quantised.data()?.into_owned())
    }

    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }
}

/// A tensor in F32 on the processor.
fn decode(bytes: Vec<u8>, entry: &Entry) -> Result<Tensor, LoadError> {
    let device = Device::Cpu;
    let storage = candle_core::quantized::QStorage::from_data(
        bytes.into(),
        &device,
        ggml_dtype(entry.tensor_type),
    )?;
    Ok(QTensor::new(storage, entry.shape.as_slice())?.dequantize(&device)?)
}

impl Quantise {
    /// Type of a matrix; `None` where its rows are not whole blocks of any. K types need 256 columns; the embedding table
    /// and the output projection keep more bits, as in llama.cpp's `Q4_K_M`.
    fn type_for(self, name: &str, columns: usize) -> Option<TensorType> {
        let outer = matches!(name, "token_embd.weight" | "output.weight");
        match self {
            Self::Q4_K if columns.is_multiple_of(256) && outer => Some(TensorType::Q6_K),
            Self::Q4_K if columns.is_multiple_of(256) => Some(TensorType::Q4_K),
            _ => columns.is_multiple_of(32).then_some(TensorType::Q8_0),
        }
    }
}

#[cfg(test)]
mod tests;
