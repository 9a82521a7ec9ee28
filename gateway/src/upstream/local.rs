//! An engine in this process as an upstream. The only file that names the engine (a tidy test holds it).
//!
//! It converts between the gateway's types and the engine's, and nothing else: what a request means is decided in
//! `openai`, how it is scheduled in the engine.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dashmap::DashMap;
use futures::future::BoxFuture;
use futures::stream::{StreamExt, unfold};
use hansa_config::schema;
use hansa_engine::api::{
    self, EngineError, EngineState, Priority, StopParams, Submission, SubmitError,
};
use hansa_engine::grammar::{Grammar, GrammarError, GrammarSpec};
use hansa_engine::{EngineHandle, EngineOptions, RunnerOptions, SimOptions};
use tokio::time::timeout;

use crate::clock::Clock;
use crate::limits;
use crate::upstream::echo::Echo;
use crate::upstream::pool::Pool;
use crate::upstream::room::completion_room;
use crate::upstream::tokenise::Tokeniser;
use crate::upstream::{
    self, Event, EventStream, FinishReason, GenerateRequest, Likely, Readiness, TokenLogprob,
    Upstream, UpstreamError, UpstreamErrorKind, UpstreamStatus, UpstreamTotals, Usage,
};

/// One model served by an engine of this process. Clones share it.
#[derive(Clone)]
pub struct LocalUpstream {
    shared: Arc<Shared>,
}

struct Shared {
    model: schema::Model,
    clock: Clock,
    tokeniser: Tokeniser,
    /// Compiles grammars.
    compiler: Pool,
    /// Set once the model's file is here.
    engine: OnceLock<EngineHandle>,
    /// Set where loading failed before there was an engine.
    failure: OnceLock<String>,
    draining: AtomicBool,
    /// Submissions in flight by number, and the request that each is part of: one request may be several submissions,
    /// and two clients may choose the same id. Bounded by the engine's queue.
    in_flight: DashMap<u64, Arc<str>>,
    submissions: AtomicU64,
}

impl LocalUpstream {
    /// An upstream for `model` that is not ready until [`LocalUpstream::load`] went through.
    #[must_use]
    pub fn new(model: schema::Model, clock: Clock) -> Self {
        let shared = Shared {
            model,
            clock,
            tokeniser: Tokeniser::new(),
            compiler: Pool::new(limits::COMPILE_CONCURRENCY, limits::COMPILE_QUEUE_MAX),
            engine: OnceLock::new(),
            failure: OnceLock::new(),
            draining: AtomicBool::new(false),
            in_flight: DashMap::new(),
            submissions: AtomicU64::new(0),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Fetches the model where it is not on this machine, starts its engine and waits until it takes requests.
    ///
    /// # Errors
    /// What is wrong and what to do, in one line. The upstream stays [`Readiness::Failed`].
    pub async fn load(&self) -> Result<(), String> {
        let started = self.start_engine().await;
        if let Err(reason) = &started {
            // Only the first failure is kept: it explains the others.
            let _ = self.shared.failure.set(reason.clone());
        }
        started
    }

    async fn start_engine(&self) -> Result<(), String> {
        let shared = &self.shared;
        let runner = runner_options(shared.model.clone()).await?;
        let options = engine_options(&shared.model, &shared.clock);
        let engine = shared
            .engine
            .get_or_init(|| EngineHandle::start(options, runner));
        let mut state = engine.watch_state();
        let settled =
            state.wait_for(|state| !matches!(state, EngineState::Loading | EngineState::Warming));
        match settled.await.as_deref() {
            Ok(EngineState::Failed(reason)) => Err(reason.clone()),
            Ok(EngineState::Stopped) | Err(_) => {
                Err("the engine ended while it loaded; the log says why".to_owned())
            }
            Ok(_) => Ok(()),
        }
    }

    fn ready_engine(&self) -> Result<&EngineHandle, UpstreamError> {
        if self.shared.draining.load(Ordering::Acquire) {
            return Err(UpstreamErrorKind::ShuttingDown.into());
        }
        match self.shared.engine.get() {
            Some(engine) if engine.state() == EngineState::Ready => Ok(engine),
            _ => Err(UpstreamErrorKind::NotReady.into()),
        }
    }

    /// The prompt's ids.
    async fn encode(
        &self,
        engine: &EngineHandle,
        request: &Arc<GenerateRequest>,
    ) -> Result<Arc<[u32]>, UpstreamError> {
        let codec = engine.text().ok_or(UpstreamErrorKind::NotReady)?;
        let ids = self.shared.tokeniser.encode(codec, Arc::clone(request));
        self.in_time(request, ids).await
    }

    /// The grammar of the request, compiled.
    async fn compile(
        &self,
        engine: &EngineHandle,
        request: &Arc<GenerateRequest>,
    ) -> Result<Option<Grammar>, UpstreamError> {
        let Some(structure) = request.structure.clone() else {
            return Ok(None);
        };
        let grammars = engine.grammars().ok_or(UpstreamErrorKind::NotReady)?;
        let compiling = async {
            let spec = spec(structure.grammar);
            let compiled = self.shared.compiler.run(move || grammars.compile(&spec));
            let compiled = compiled.await?;
            compiled.map(Some).map_err(|error| match error {
                GrammarError::Broke => UpstreamErrorKind::Internal.into(),
                _ => invalid(structure.param, error.to_string()),
            })
        };
        self.in_time(request, compiling).await
    }

    /// What `work` gives before the request's deadline.
    async fn in_time<T>(
        &self,
        request: &GenerateRequest,
        work: impl Future<Output = Result<T, UpstreamError>>,
    ) -> Result<T, UpstreamError> {
        let Some(deadline) = request.deadline else {
            return work.await;
        };
        let left = deadline.saturating_sub(self.shared.clock.now());
        match timeout(left, work).await {
            Ok(done) => done,
            Err(_) => Err(UpstreamErrorKind::DeadlineExceeded.into()),
        }
    }

    async fn submit(&self, request: Arc<GenerateRequest>) -> Result<EventStream, UpstreamError> {
        let engine = self.ready_engine()?;
        let prompt = self.encode(engine, &request).await?;
        let context = engine.context_len().ok_or(UpstreamErrorKind::NotReady)?;
        let default = self.shared.model.default_max_tokens;
        let max_tokens = completion_room(prompt.len(), request.max_tokens, default, context)?;
        let echo = match engine.text().filter(|_| request.echo) {
            Some(codec) => Echo::of(&*codec, &request, &prompt),
            None => Echo::default(),
        };
        let grammar = self.compile(engine, &request).await?;
        let place = self.enter(&request);
        let submission = Submission {
            grammar,
            ..submission(&request, place.engine_id(), prompt, max_tokens)
        };
        let events = engine.submit(submission).map_err(refused)?;
        Ok(echo.before(stream(events, place)))
    }

    /// Tokens that so many KV blocks hold.
    fn tokens_of(&self, blocks: u32) -> u64 {
        u64::from(blocks) * u64::from(self.shared.model.block_tokens)
    }

    fn enter(&self, request: &GenerateRequest) -> Place {
        let request_id = &request.id;
        let number = self.shared.submissions.fetch_add(1, Ordering::Relaxed);
        self.shared.in_flight.insert(number, Arc::clone(request_id));
        Place {
            shared: Arc::clone(&self.shared),
            request_id: Arc::clone(request_id),
            structure: request.structure.as_ref().map(|s| s.param),
            number,
        }
    }
}

/// A submission's place among those in flight; given back when dropped (I10).
struct Place {
    shared: Arc<Shared>,
    request_id: Arc<str>,
    /// The parameter that its grammar came in.
    structure: Option<&'static str>,
    number: u64,
}

impl Place {
    fn engine_id(&self) -> Arc<str> {
        engine_id(&self.request_id, self.number)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.in_flight.remove(&self.number);
    }
}

fn engine_id(request_id: &str, number: u64) -> Arc<str> {
    Arc::from(format!("{request_id}#{number}"))
}

impl Upstream for LocalUpstream {
    fn generate(
        &self,
        request: Arc<GenerateRequest>,
    ) -> BoxFuture<'_, Result<EventStream, UpstreamError>> {
        Box::pin(self.submit(request))
    }

    fn count_tokens(
        &self,
        request: Arc<GenerateRequest>,
    ) -> BoxFuture<'_, Result<u32, UpstreamError>> {
        Box::pin(async move {
            let engine = self.ready_engine()?;
            let ids = self.encode(engine, &request).await?;
            Ok(u32::try_from(ids.len()).unwrap_or(u32::MAX))
        })
    }

    fn cancel(&self, request_id: &str) {
        let Some(engine) = self.shared.engine.get() else {
            return;
        };
        for entry in &self.shared.in_flight {
            if &**entry.value() == request_id {
                engine.abort(&engine_id(request_id, *entry.key()));
            }
        }
    }

    fn status(&self) -> UpstreamStatus {
        let engine = self.shared.engine.get();
        let stats = engine.map(EngineHandle::stats).unwrap_or_default();
        UpstreamStatus {
            readiness: self.shared.readiness(),
            running: stats.running,
            waiting: stats.waiting,
            waiting_prefill_tokens: stats.waiting_prefill_tokens,
            kv_blocks_total: stats.blocks_total,
            kv_blocks_free: stats.blocks_free,
            kv_blocks_cached: stats.blocks_cached,
            mean_step: stats.mean_step,
            prefill_tokens_per_s: stats.prefill_tokens_per_s,
            decode_tokens_per_s: stats.decode_tokens_per_s,
            kv_tokens_total: self.tokens_of(stats.blocks_total),
            kv_tokens_free: self.tokens_of(stats.blocks_free),
            queued_tokens: stats.waiting_prefill_tokens,
            ..UpstreamStatus::default()
        }
    }

    fn totals(&self) -> UpstreamTotals {
        let engine = self.shared.engine.get();
        let stats = engine.map(EngineHandle::stats).unwrap_or_default();
        UpstreamTotals {
            steps: stats.steps,
            prefill_tokens: stats.prefill_tokens,
            decode_tokens: stats.decode_tokens,
            preemptions: stats.preemptions,
            prefix_tokens: stats.prefix_tokens,
            prefix_hit_tokens: stats.prefix_hit_tokens,
        }
    }

    fn sequences_in_flight_max(&self) -> Option<u32> {
        let model = &self.shared.model;
        Some(model.sequences_max.saturating_add(model.queue_max))
    }

    fn drain(&self, grace: Duration) {
        self.shared.draining.store(true, Ordering::Release);
        if let Some(engine) = self.shared.engine.get() {
            engine.drain(grace);
        }
    }
}

impl Shared {
    fn readiness(&self) -> Readiness {
        if self.draining.load(Ordering::Acquire) {
            return Readiness::Draining;
        }
        if let Some(reason) = self.failure.get() {
            return Readiness::Failed(reason.clone());
        }
        match self.engine.get().map(EngineHandle::state) {
            None | Some(EngineState::Loading) => Readiness::Loading,
            Some(EngineState::Warming) => Readiness::Warming,
            Some(EngineState::Ready) => Readiness::Ready,
            Some(EngineState::Stalled) => Readiness::Stalled,
            Some(EngineState::Draining) => Readiness::Draining,
            Some(EngineState::Failed(reason)) => Readiness::Failed(reason),
            Some(EngineState::Stopped) => Readiness::Failed("the engine ended".to_owned()),
        }
    }
}

fn submission(
    request: &GenerateRequest,
    id: Arc<str>,
    prompt: Arc<[u32]>,
    max_tokens: u32,
) -> Submission {
    let sampling = &request.sampling;
    Submission {
        id,
        prompt,
        n: request.n,
        sampling: api::SamplingParams {
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            top_k: sampling.top_k,
            min_p: sampling.min_p,
            repetition_penalty: sampling.repetition_penalty,
            frequency_penalty: sampling.frequency_penalty,
            presence_penalty: sampling.presence_penalty,
            logit_bias: Arc::clone(&sampling.logit_bias),
            logprobs: request.logprobs,
        },
        stop: StopParams {
            max_tokens,
            strings: request.stop.clone(),
            ignore_eos: sampling.ignore_eos,
            min_tokens: request.min_tokens,
            token_ids: request.stop_token_ids.clone().into(),
        },
        grammar: None,
        seed: request.seed,
        priority: Priority::Interactive,
        resume: request.resume_token_ids.clone(),
        flow: request.flow,
        pool: request.pool,
        deadline: request.deadline,
        want_token_ids: request.want_token_ids,
    }
}

/// The grammar as the engine takes it.
fn spec(grammar: upstream::Grammar) -> GrammarSpec {
    match grammar {
        upstream::Grammar::JsonSchema(text) => GrammarSpec::JsonSchema(text),
        upstream::Grammar::Regex(text) => GrammarSpec::Regex(text),
        upstream::Grammar::Lark(text) => GrammarSpec::Lark(text),
    }
}

/// The engine's events as ours. Dropping the stream drops the engine's, which aborts what is not done.
fn stream(events: hansa_engine::EventStream, place: Place) -> EventStream {
    unfold(Some((events, place)), async |running| {
        let (mut events, place) = running?;
        // An engine that goes away without a last word has failed: a stream never just stops (I3).
        let event = events.recv().await.map_or_else(
            || Err(UpstreamErrorKind::Internal.into()),
            |event| converted(event, place.structure),
        );
        let over = matches!(event, Ok(Event::Done(_)) | Err(_));
        Some((event, (!over).then_some((events, place))))
    })
    .boxed()
}

fn converted(event: api::Event, structure: Option<&'static str>) -> Result<Event, UpstreamError> {
    match event {
        api::Event::Delta {
            choice,
            text,
            token_ids,
            logprobs,
        } => Ok(Event::Delta {
            choice,
            text,
            token_ids,
            logprobs: logprobs.into_iter().map(token_logprob).collect(),
        }),
        api::Event::Finished { choice, reason } => Ok(Event::Finished {
            choice,
            reason: match reason {
                api::FinishReason::Stop => FinishReason::Stop,
                api::FinishReason::Length => FinishReason::Length,
            },
        }),
        api::Event::Done(usage) => Ok(Event::Done(Usage {
            prompt_tokens: usage.prompt_tokens,
            cached_tokens: usage.cached_tokens,
            completion_tokens: usage.completion_tokens,
            estimated: false,
        })),
        api::Event::Failed(EngineError::Grammar(fault), _) => Err(invalid(
            structure.unwrap_or("response_format"),
            fault.to_string(),
        )),
        api::Event::Failed(error, _) => Err(failed(&error)),
    }
}

fn token_logprob(logprob: api::TokenLogprob) -> TokenLogprob {
    let likely = |likely: api::Likely| Likely {
        bytes: likely.bytes,
        logprob: likely.logprob,
    };
    TokenLogprob {
        chosen: likely(logprob.chosen),
        top: logprob.top.into_iter().map(likely).collect(),
    }
}

fn refused(error: SubmitError) -> UpstreamError {
    let kind = match error {
        SubmitError::QueueFull => UpstreamErrorKind::Overloaded,
        SubmitError::Draining => UpstreamErrorKind::ShuttingDown,
        SubmitError::DeadlineExceeded => UpstreamErrorKind::DeadlineExceeded,
        SubmitError::PromptTooLong { prompt, context } => {
            UpstreamErrorKind::ContextLength { prompt, context }
        }
        SubmitError::Invalid(message) => UpstreamErrorKind::InvalidRequest {
            param: named(&message),
            message,
        },
        _ => UpstreamErrorKind::NotReady,
    };
    kind.into()
}

fn invalid(param: &'static str, message: String) -> UpstreamError {
    UpstreamErrorKind::InvalidRequest {
        param: Some(param),
        message,
    }
    .into()
}

/// The parameter that the engine's message begins with, as clients name it.
fn named(message: &str) -> Option<&'static str> {
    let (first, _) = message.split_once(' ')?;
    ENGINE_PARAMS.into_iter().find(|param| *param == first)
}

/// What the engine's complaints are about.
const ENGINE_PARAMS: [&str; 14] = [
    "n",
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "logprobs",
    "max_tokens",
    "min_tokens",
    "ignore_eos",
    "stop",
    "stop_token_ids",
];

fn failed(error: &EngineError) -> UpstreamError {
    let kind = match error {
        EngineError::Aborted => UpstreamErrorKind::Cancelled,
        EngineError::DeadlineExceeded => UpstreamErrorKind::DeadlineExceeded,
        EngineError::ShuttingDown => UpstreamErrorKind::ShuttingDown,
        _ => {
            tracing::error!(%error, "the engine failed a request");
            UpstreamErrorKind::Internal
        }
    };
    kind.into()
}

fn engine_options(model: &schema::Model, clock: &Clock) -> EngineOptions {
    let clock = clock.clone();
    EngineOptions {
        clock: Arc::new(move || clock.now()),
        sequences_max: model.sequences_max,
        step_tokens_max: model.step_tokens_max,
        queue_max: model.queue_max,
        queue_tokens_max: model.queue_tokens_max,
        block_size: model.block_tokens,
        context_max: model.context_max,
        kv_bytes_max: model.kv_bytes_max,
        inter_token_target: Duration::from_millis(model.inter_token_target_ms),
        stall_after: Duration::from_millis(model.stall_after_ms),
    }
}

async fn runner_options(model: schema::Model) -> Result<RunnerOptions, String> {
    match model.runner {
        schema::Runner::Sim => Ok(sim_options(&model.sim)),
        schema::Runner::Candle => candle_options(model).await,
    }
}

/// Bytes of KV cache that a simulated token is taken to need: the default budget then holds 16,384 tokens, enough for two
/// whole contexts and few enough that a test can use them up.
const SIM_KV_BYTES_PER_TOKEN: u64 = 16 << 10;

fn sim_options(sim: &schema::Sim) -> RunnerOptions {
    RunnerOptions::Sim(SimOptions {
        context_len: sim.context_tokens,
        step_base: Duration::from_micros(sim.step_base_us),
        prefill_token: Duration::from_micros(sim.prefill_token_us),
        decode_sequence: Duration::from_micros(sim.decode_sequence_us),
        kv_bytes_per_token: SIM_KV_BYTES_PER_TOKEN,
    })
}

#[cfg(feature = "candle")]
async fn candle_options(model: schema::Model) -> Result<RunnerOptions, String> {
    use hansa_engine::{CandleOptions, DeviceOptions};
    use hansa_models::source::{SourceOptions, resolve};

    let source = model.source.clone();
    // Downloading and hashing block for long, so on a thread of their own.
    let fetched = move || resolve(&source, &SourceOptions::from_env()).map_err(|e| e.to_string());
    let file = tokio::task::spawn_blocking(fetched)
        .await
        .map_err(|_| "fetching the model failed; the log says why".to_owned())??;
    Ok(RunnerOptions::Candle(CandleOptions {
        model_path: file.path,
        device: match model.device {
            schema::Device::Cpu => DeviceOptions::Cpu,
            schema::Device::Cuda(ordinal) => DeviceOptions::Cuda(ordinal as usize),
        },
        kv_type: match model.kv_type {
            schema::KvType::F16 => hansa_models::KvType::F16,
            schema::KvType::F32 => hansa_models::KvType::F32,
        },
        quantise: match model.quantise {
            schema::Quantise::None => None,
            schema::Quantise::Q8_0 => Some(hansa_models::Quantise::Q8_0),
            schema::Quantise::Q4_K => Some(hansa_models::Quantise::Q4_K),
        },
        threads: model.threads.map(|threads| threads as usize),
    }))
}

#[cfg(not(feature = "candle"))]
async fn candle_options(_: schema::Model) -> Result<RunnerOptions, String> {
    Err(
        "this build has no tensors; use runner = \"sim\", or build with the cargo feature `candle`"
            .to_owned(),
    )
}

impl fmt::Debug for LocalUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LocalUpstream")
            .field(&self.shared.model.id)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_parameter() {
        for (message, param) in [
            ("n must be between 1 and 4", Some("n")),
            ("top_p must be above 0 and at most 1", Some("top_p")),
            (
                "logit_bias names token 9, and the model has 5 tokens",
                Some("logit_bias"),
            ),
            ("the prompt is empty", None),
        ] {
            let error = refused(SubmitError::Invalid(message.to_owned()));
            let message = message.to_owned();
            let kind = UpstreamErrorKind::InvalidRequest { param, message };
            assert_eq!(error.kind, kind);
        }
    }
}
