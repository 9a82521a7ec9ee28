//! How an engine is set up: its bounds and what runs its steps.

use std::fmt;
#[cfg(feature = "candle")]
use std::path::PathBuf;
use std::time::Duration;

#[cfg(feature = "candle")]
use candle_core::Device;
#[cfg(feature = "candle")]
use hansa_models::KvType;

use crate::api::Clock;

/// Bounds of one engine.
#[derive(Clone)]
pub struct EngineOptions {
    /// The clock that deadlines and step times are read from.
    pub clock: Clock,
    /// Sequences that may hold KV blocks at once.
    pub sequences_max: u32,
    /// Tokens of one step, prefill and decode together.
    pub step_tokens_max: u32,
    /// Sequences that may wait in line.
    pub queue_max: u32,
    /// Prompt tokens that may wait for their prefill; one submission may exceed it where nobody else waits.
    pub queue_tokens_max: u64,
    /// Tokens of one KV block.
    pub block_size: u32,
    /// Tokens of prompt and completion together; `None` takes the model's own.
    pub context_max: Option<u32>,
    /// Bytes of KV cache.
    pub kv_bytes_max: u64,
    /// How far apart the tokens of a stream should be at most while prompts are prefilled beside it.
    pub inter_token_target: Duration,
    /// Tokens that a sequence guesses ahead at most in a step, from where its text stood before; 0 guesses nothing. What is
    /// said is the same either way.
    pub draft_tokens_max: u32,
    /// A step that takes longer makes the engine [`crate::api::EngineState::Stalled`] until it ends.
    pub stall_after: Duration,
}

impl fmt::Debug for EngineOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineOptions")
            .field("sequences_max", &self.sequences_max)
            .field("step_tokens_max", &self.step_tokens_max)
            .field("queue_max", &self.queue_max)
            .field("queue_tokens_max", &self.queue_tokens_max)
            .field("block_size", &self.block_size)
            .field("context_max", &self.context_max)
            .field("kv_bytes_max", &self.kv_bytes_max)
            .field("inter_token_target", &self.inter_token_target)
            .field("draft_tokens_max", &self.draft_tokens_max)
            .field("stall_after", &self.stall_after)
            .finish_non_exhaustive()
    }
}

/// What runs the steps.
#[derive(Debug, Clone)]
pub enum RunnerOptions {
    /// A cost model whose tokens are a formula.
    Sim(SimOptions),
    /// A real model through Candle.
    #[cfg(feature = "candle")]
    Candle(CandleOptions),
}

/// Where a model is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoadOn {
    /// On a thread of its own; what was made moves to the device's.
    OwnThread,
    /// On the device's thread, whose turns wait meanwhile: what a card holds belongs to the thread that opened it.
    #[cfg_attr(
        not(feature = "candle"),
        expect(dead_code, reason = "only cards need it")
    )]
    DeviceThread,
}

/// The simulated model: a step takes `step_base + prefill tokens x prefill_token + decoding sequences x decode_sequence`.
#[derive(Debug, Clone, PartialEq)]
pub struct SimOptions {
    /// Tokens of prompt and completion together.
    pub context_len: u32,
    /// Time of a step however small.
    pub step_base: Duration,
    /// Time added by each prefilled token.
    pub prefill_token: Duration,
    /// Time added by each decoding sequence.
    pub decode_sequence: Duration,
    /// Bytes of KV cache that one token is taken to need.
    pub kv_bytes_per_token: u64,
}

/// A real model.
#[cfg(feature = "candle")]
#[derive(Debug, Clone)]
pub struct CandleOptions {
    /// The GGUF file, or the folder as Hugging Face lays it out.
    pub model_path: PathBuf,
    /// Where the tensors live.
    pub device: DeviceOptions,
    /// Number type of the KV cache.
    pub kv_type: KvType,
    /// What the matrices of a folder are quantised to while they are read.
    pub quantise: Option<hansa_models::Quantise>,
    /// Threads for kernels on a CPU; `None` takes the physical cores.
    pub threads: Option<usize>,
    /// Whether a model is served that fails its self-test: its answers change with the load, and nobody can continue them.
    pub allow_inexact: bool,
}

/// Where the tensors live.
#[cfg(feature = "candle")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceOptions {
    /// The processor.
    Cpu,
    /// An NVIDIA GPU by its ordinal.
    Cuda(usize),
}

#[cfg(feature = "candle")]
impl DeviceOptions {
    /// Tensors of a processor may be made anywhere; what a card holds is bound to the thread that opened it.
    pub(crate) fn loads_on(self) -> LoadOn {
        match self {
            Self::Cpu => LoadOn::OwnThread,
            Self::Cuda(_) => LoadOn::DeviceThread,
        }
    }

    /// Opens it.
    pub(crate) fn open(self) -> candle_core::Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            // A stream of its own: the default one is bound to the thread that opened it.
            Self::Cuda(ordinal) => Device::new_cuda_with_stream(ordinal),
        }
    }
}
