//! Tensors of Hansa: architectures, kernels, weights, tokenizer, chat template.
//!
//! This crate knows tensors, tokens and files. It must not know a request or a sequence's life: the engine
//! brings those, and the threads that kernels run on. Without the cargo feature `candle` it still reads GGUF metadata, tokenises, renders chat templates and
//! fetches model files, so that a gateway can be built without tensors.

#[cfg(feature = "candle")]
mod arch;
#[cfg(feature = "candle")]
pub mod causal_lm;
#[cfg(feature = "candle")]
pub mod embed;
#[cfg(feature = "candle")]
pub mod kernels;
#[cfg(feature = "candle")]
mod layers;
#[cfg(feature = "candle")]
mod threads;

pub mod batch;
pub mod chat_template;
pub mod fingerprint;
pub mod source;
pub mod spec;
pub mod text;
pub mod tokenizer;
pub mod weights;

#[cfg(any(test, feature = "test-util"))]
pub mod testing;

pub mod limits;

pub use batch::{Batch, BatchError};
#[cfg(feature = "candle")]
pub use causal_lm::{
    Arithmetic, CausalLm, LoadError, LoadOptions, LoadedModel, PagedKv, Quantise, load,
    load_folder, load_folder_tensors, load_gguf, load_tensors,
};
pub use spec::{KvType, ModelSpec};
#[cfg(feature = "candle")]
pub use threads::ThreadPool;
