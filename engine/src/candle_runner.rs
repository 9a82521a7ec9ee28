//! A real model: Candle runs the forward pass, the rows come to the host and are sampled there.
//!
//! It lives on the thread of its device; a pool of threads, shared with the other models there, serves our
//! kernels and the sampling, so that the number of threads is the operator's and not the process's. Only weights that Candle
//! multiplies itself (F16, F32 and the types that are not repacked) use Candle's own workers.

use std::fmt;
use std::sync::Arc;

use candle_core::Device;
use hansa_models::kernels::cpu::Isa;
use hansa_models::text::TextCodec;
use hansa_models::{Batch, KvType, LoadOptions, LoadedModel, PagedKv, ThreadPool};

use crate::api::MemoryUse;
use crate::device::Device as Home;
use crate::limits::KV_OF_FREE_MEMORY;
use crate::memory;
use crate::numerics::Numerics;
use crate::options::{CandleOptions, EngineOptions};
use crate::runner::{RowOutcome, Runner, RunnerError, RunnerProfile, SampleRow, kv_blocks};
use crate::sampler::Sampler;
use crate::self_test::{self, Room, Verdict};

/// A loaded model, its cache and its threads.
pub(crate) struct CandleRunner {
    loaded: LoadedModel,
    kv: PagedKv,
    /// Shared with the models that take turns with this one.
    pool: Arc<ThreadPool>,
    /// One for each thread of the pool, for the memory that it keeps.
    samplers: Vec<Sampler>,
    profile: RunnerProfile,
    resident: MemoryUse,
    kv_type: KvType,
    allow_inexact: bool,
    numerics: Numerics,
}

impl CandleRunner {
    /// Loads a model file and lays out its cache within the engine's bounds.
    ///
    /// # Errors
    /// [`RunnerError::Load`] names the fault of file or device; [`RunnerError::KvBudget`] that of the budget.
    pub(crate) fn load(
        home: &Home,
        engine: &EngineOptions,
        options: &CandleOptions,
    ) -> Result<Self, RunnerError> {
        let device = options.device.open().map_err(load_error)?;
        let pool = home.pools().of(options.threads).map_err(load_error)?;
        let load = LoadOptions {
            device: device.clone(),
            kv_type: options.kv_type,
            quantise: options.quantise,
        };
        let loaded = reader(home, &pool)?
            .install(|| hansa_models::load(&options.model_path, &load))
            .map_err(load_error)?;
        let spec = loaded.model.spec();
        if loaded.text.vocab_size() > spec.vocab_size {
            return Err(RunnerError::Load(format!(
                "the tokenizer knows {} tokens and the weights only {}: they are of different models",
                loaded.text.vocab_size(),
                spec.vocab_size
            )));
        }
        let bytes_per_token = spec.kv_bytes_per_token(options.kv_type);
        let profile = RunnerProfile {
            vocab_size: spec.vocab_size,
            context_len: spec.context_len,
            kv_blocks: kv_blocks(
                &within_memory(engine, &device),
                spec.context_len,
                bytes_per_token,
            )?,
        };
        let (blocks, block_size) = (profile.kv_blocks, engine.block_size);
        let kv = PagedKv::new(spec, blocks, block_size, options.kv_type, &device);
        let kv_bytes = bytes_per_token * u64::from(blocks) * u64::from(block_size);
        tracing::info!(architecture = %spec.architecture, kv_bytes, kv_bytes_max = engine.kv_bytes_max,
            threads = pool.threads(), "the model is loaded");
        if device.is_cpu() {
            say_instructions(Isa::detect());
        }
        let sampler = || Sampler::new(loaded.text.end_of_generation());
        Ok(Self {
            kv: kv.map_err(load_error)?,
            samplers: (0..pool.threads()).map(|_| sampler()).collect(),
            loaded,
            pool,
            profile,
            resident: MemoryUse {
                weights: memory::file_bytes(&options.model_path),
                kv: kv_bytes,
            },
            kv_type: options.kv_type,
            allow_inexact: options.allow_inexact,
            numerics: Numerics::unrepeatable(),
        })
    }

    /// The logits of the batch's rows, one after another.
    fn forward(&mut self, batch: &Batch) -> Result<Vec<f32>, RunnerError> {
        let Self {
            loaded, kv, pool, ..
        } = self;
        let logits = pool.install(|| {
            let logits = loaded.model.forward(batch, kv)?;
            if batch.logit_rows.is_empty() {
                return Ok(Vec::new());
            }
            logits.flatten_all()?.to_vec1()
        });
        logits.map_err(|error: candle_core::Error| RunnerError::Step(error.to_string()))
    }

    /// What follows from the self-test.
    fn judge(&self, verdict: Verdict) -> Result<Numerics, RunnerError> {
        let arithmetic = self.loaded.model.arithmetic();
        match verdict {
            Verdict::Same(logits) if arithmetic.batch_invariant => Ok(self.name(logits)),
            Verdict::Differs if arithmetic.batch_invariant && !self.allow_inexact => {
                let kernels = arithmetic.kernels.clone();
                Err(RunnerError::SelfTest { kernels })
            }
            verdict => {
                tracing::warn!(kernels = %arithmetic.kernels, ?verdict, "answers may change with the load, and no other node can continue them");
                Ok(Numerics::unrepeatable())
            }
        }
    }

    /// The name of a model whose self-test gave `logits`.
    fn name(&self, logits: u128) -> Numerics {
        let arithmetic = self.loaded.model.arithmetic();
        let hex = |fingerprint: u128| format!("{fingerprint:032x}");
        Numerics::of(&[
            ("weights", &hex(arithmetic.weights)),
            ("metadata", &hex(self.loaded.metadata)),
            ("kernels", &arithmetic.kernels),
            ("kv", &format!("{:?}", self.kv_type)),
            ("logits", &hex(logits)),
            ("sampler", &hex(self_test::sampler_fingerprint())),
        ])
    }
}

impl Runner for CandleRunner {
    fn profile(&self) -> RunnerProfile {
        self.profile
    }

    fn text(&self) -> Arc<dyn TextCodec> {
        Arc::clone(&self.loaded.text)
    }

    fn resident(&self) -> MemoryUse {
        self.resident
    }

    fn warm_up(&mut self) -> Result<(), RunnerError> {
        let room = Room {
            vocab_size: self.profile.vocab_size,
            context_len: self.profile.context_len,
            block_size: self.kv.block_size,
            kv_blocks: self.profile.kv_blocks,
        };
        let verdict = self_test::run(room, |batch| self.forward(batch))?;
        self.numerics = self.judge(verdict)?;
        Ok(())
    }

    fn numerics(&self) -> Numerics {
        self.numerics.clone()
    }

    fn step(
        &mut self,
        batch: &Batch,
        rows: &[SampleRow<'_>],
        outcomes: &mut Vec<RowOutcome>,
    ) -> Result<(), RunnerError> {
        let mut logits = self.forward(batch)?;
        let width = self.profile.vocab_size as usize;
        if logits.len() != width * rows.len() {
            return Err(RunnerError::Step(
                "the logits have another shape than the rows".to_owned(),
            ));
        }
        sample(
            &self.pool,
            &mut self.samplers,
            (&mut logits, rows),
            outcomes,
        );
        Ok(())
    }
}

/// Draws the token of every row, rows in parallel.
fn sample(
    pool: &ThreadPool,
    samplers: &mut [Sampler],
    (logits, rows): (&mut [f32], &[SampleRow<'_>]),
    outcomes: &mut Vec<RowOutcome>,
) {
    let width = logits.len() / rows.len().max(1);
    let mut drawn: Vec<Option<RowOutcome>> = rows.iter().map(|_| None).collect();
    let per_piece = rows.len().div_ceil(samplers.len().max(1)).max(1);
    let pieces = logits
        .chunks_mut(width.max(1) * per_piece)
        .zip(rows.chunks(per_piece))
        .zip(drawn.chunks_mut(per_piece))
        .zip(samplers);
    pool.for_each(pieces.collect(), |(((logits, rows), drawn), sampler)| {
        for ((logits, row), drawn) in logits.chunks_mut(width).zip(rows).zip(drawn) {
            *drawn = Some(sampler.sample(logits, row));
        }
    });
    outcomes.extend(drawn.into_iter().flatten());
}

/// Threads that read and repack the weights: a pool of its own, since the device's may be at work, and of one thread where
/// others are served meanwhile.
fn reader(home: &Home, pool: &ThreadPool) -> Result<ThreadPool, RunnerError> {
    let threads = if home.is_inhabited() {
        1
    } else {
        pool.threads()
    };
    ThreadPool::new(threads).map_err(load_error)
}

/// The options with a KV budget that is no more than its share of what the device has left.
fn within_memory(engine: &EngineOptions, device: &Device) -> EngineOptions {
    let free = memory::free_bytes(device);
    let share = free.map_or(u64::MAX, |bytes| bytes / KV_OF_FREE_MEMORY);
    if share < engine.kv_bytes_max {
        tracing::info!(
            free,
            kv_bytes_max = share,
            "the KV budget follows from the memory that is left"
        );
    }
    EngineOptions {
        kv_bytes_max: engine.kv_bytes_max.min(share),
        ..engine.clone()
    }
}

fn say_instructions(isa: Isa) {
    let name = isa.name();
    if isa == Isa::PORTABLE {
        tracing::warn!(
            "this processor has none of AVX-512 VNNI, AVX2 and NEON with dot products: the {name} kernels are several times slower"
        );
    } else {
        tracing::info!("kernels use {name}");
    }
}

fn load_error(error: impl fmt::Display) -> RunnerError {
    RunnerError::Load(error.to_string())
}

impl fmt::Debug for CandleRunner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CandleRunner")
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}
