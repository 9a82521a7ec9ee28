//! An engine in this process as an upstream. The only file that names the engine, with those below it (a tidy test holds
//! it).
//!
//! It converts between the gateway's types and the engine's, and nothing else: what a request means is decided in
//! `openai`, how it is scheduled in the engine.

mod devices;
mod embedder;
mod errors;
mod guidance;
mod options;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dashmap::DashMap;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt, unfold};
use hansa_config::schema;
use hansa_engine::EngineHandle;
use hansa_engine::api::{self, EngineError, EngineState, Priority, Stats, StopParams, Submission};
use tokio::sync::watch;
use tokio::time::timeout;

pub use self::devices::Devices;
use self::embedder::LocalEmbedder;
use self::errors::{failed, invalid, refused};
use self::guidance::{Guidance, form};
use self::options::{Runs, embed_options, engine_options, runs};

use crate::clock::Clock;
use crate::fairness::Class;
use crate::limits;
use crate::upstream::echo::{Echo, Told};
use crate::upstream::pool::Pool;
use crate::upstream::room::completion_room;
use crate::upstream::tokenise::Tokeniser;
use crate::upstream::{
    EmbedRequest, Embeddings, Event, EventStream, FinishReason, GenerateRequest, Likely, Readiness,
    Resident, TokenLogprob, Upstream, UpstreamError, UpstreamErrorKind, UpstreamStatus,
    UpstreamTotals, Usage,
};

/// One model served by an engine of this process. Clones share it.
#[derive(Clone)]
pub struct LocalUpstream {
    shared: Arc<Shared>,
}

struct Shared {
    model: schema::Model,
    clock: Clock,
    devices: Devices,
    tokeniser: Tokeniser,
    /// Compiles grammars.
    compiler: Pool,
    /// Set once the model's file is here, where it generates.
    engine: OnceLock<EngineHandle>,
    /// Set once the model's file is here, where it makes vectors.
    embedder: OnceLock<LocalEmbedder>,
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
    pub fn new(model: schema::Model, clock: Clock, devices: Devices) -> Self {
        let shared = Shared {
            model,
            clock,
            devices,
            tokeniser: Tokeniser::new(),
            compiler: Pool::new(limits::COMPILE_CONCURRENCY, limits::COMPILE_QUEUE_MAX),
            engine: OnceLock::new(),
            embedder: OnceLock::new(),
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
        let runs = runs(shared.model.clone()).await?;
        if shared.draining.load(Ordering::Acquire) {
            return Err("it was removed while it loaded".to_owned());
        }
        let device = shared.devices.of(&shared.model);
        let weight = shared.model.device_share;
        let mut state = match runs {
            Runs::Generates(runner) => {
                let options = engine_options(&shared.model, &shared.clock);
                let engine = shared
                    .engine
                    .get_or_init(|| EngineHandle::start_on(&device, weight, options, runner));
                engine.watch_state()
            }
            Runs::Embeds(embedder) => {
                let options = embed_options(&shared.model, &shared.clock);
                let start = || LocalEmbedder::start(&device, weight, options, embedder);
                shared.embedder.get_or_init(start).watch_state()
            }
        };
        // A drain may have come between the look above and the start.
        if shared.draining.load(Ordering::Acquire) {
            self.drain(Duration::ZERO);
        }
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
        if self.shared.embedder.get().is_some() {
            return Err(UpstreamErrorKind::no_generator(&self.shared.model.id).into());
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
        if let Some(counted) = request.token_ids.get() {
            return Ok(Arc::clone(counted));
        }
        let ids = self.shared.tokeniser.encode(codec, Arc::clone(request));
        self.in_time(request, ids).await
    }

    /// What holds the request's choices.
    async fn guidance(
        &self,
        engine: &EngineHandle,
        request: &Arc<GenerateRequest>,
    ) -> Result<Guidance, UpstreamError> {
        if request.structure.is_none() && request.tools.is_none() {
            return Ok(Guidance::default());
        }
        let grammars = engine.grammars().ok_or(UpstreamErrorKind::NotReady)?;
        let text = engine.text().ok_or(UpstreamErrorKind::NotReady)?;
        let asked = Arc::clone(request);
        let compile = move || Guidance::of(&asked, form(text.tool_syntax()), &grammars);
        let compiling = async { self.shared.compiler.run(compile).await? };
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
        let default = default_tokens(self.shared.model.default_max_tokens, &request);
        let max_tokens = completion_room(prompt.len(), request.max_tokens, default, context)?;
        // Whoever goes on with a stream does not begin it again.
        let echoes = request.echo && request.resume_token_ids.is_empty();
        let echo = match engine.text().filter(|_| echoes) {
            Some(codec) => Echo::of(&*codec, &request, &prompt),
            None => Echo::default(),
        };
        let guidance = self.guidance(engine, &request).await?;
        let place = self.enter(&request, guidance.param);
        let submission = Submission {
            grammar: guidance.grammar,
            ..submission(&request, place.engine_id(), prompt, max_tokens)
        };
        let events = engine.submit(submission).map_err(refused)?;
        let events = echo.before(converted_stream(events, place));
        let syntax = guidance.syntax.map(|syntax| Ok(Event::ToolSyntax(syntax)));
        Ok(stream::iter(syntax).chain(events).boxed())
    }

    /// Tokens that so many KV blocks hold.
    fn tokens_of(&self, blocks: u32) -> u64 {
        u64::from(blocks) * u64::from(self.shared.model.block_tokens)
    }

    fn enter(&self, request: &GenerateRequest, structure: Option<&'static str>) -> Place {
        let request_id = &request.id;
        let number = self.shared.submissions.fetch_add(1, Ordering::Relaxed);
        self.shared.in_flight.insert(number, Arc::clone(request_id));
        Place {
            shared: Arc::clone(&self.shared),
            request_id: Arc::clone(request_id),
            structure,
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
            let ids = request.token_ids.get_or_init(|| ids);
            Ok(u32::try_from(ids.len()).unwrap_or(u32::MAX))
        })
    }

    fn embed(
        &self,
        request: Arc<EmbedRequest>,
    ) -> BoxFuture<'_, Result<Embeddings, UpstreamError>> {
        Box::pin(async move {
            if self.shared.draining.load(Ordering::Acquire) {
                return Err(UpstreamErrorKind::ShuttingDown.into());
            }
            match (self.shared.embedder.get(), self.shared.engine.get()) {
                (Some(embedder), _) => embedder.embed(request).await,
                (None, Some(_)) => Err(UpstreamErrorKind::no_embedder(&request.model).into()),
                (None, None) => Err(UpstreamErrorKind::NotReady.into()),
            }
        })
    }

    fn cancel(&self, request_id: &str) {
        if let Some(embedder) = self.shared.embedder.get() {
            embedder.cancel(request_id);
        }
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
        let stats = self.shared.stats();
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
            numerics: self.shared.numerics().into_iter().collect(),
            ..UpstreamStatus::default()
        }
    }

    fn totals(&self) -> UpstreamTotals {
        let stats = self.shared.stats();
        UpstreamTotals {
            steps: stats.steps,
            prefill_tokens: stats.prefill_tokens,
            decode_tokens: stats.decode_tokens,
            drafted_tokens: stats.drafted_tokens,
            accepted_tokens: stats.accepted_tokens,
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
        if let Some(embedder) = self.shared.embedder.get() {
            embedder.drain(grace);
        }
    }

    fn ended(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let Some(mut state) = self.shared.watch_state() else {
                return;
            };
            let over = |state: &EngineState| {
                matches!(state, EngineState::Stopped | EngineState::Failed(_))
            };
            // An error says that the engine is gone altogether.
            let _ = state.wait_for(over).await;
        })
    }

    fn resident(&self) -> Resident {
        let engine = self.shared.engine.get();
        let bytes = engine.and_then(EngineHandle::resident);
        let embedder = self.shared.embedder.get();
        let vectors = embedder
            .map(LocalEmbedder::weights_bytes)
            .unwrap_or_default();
        Resident {
            weights_bytes: bytes.map_or(vectors, |bytes| bytes.weights),
            kv_bytes: bytes.map_or(0, |bytes| bytes.kv),
        }
    }
}

impl Shared {
    fn stats(&self) -> Stats {
        let engine = self.engine.get().map(EngineHandle::stats);
        engine
            .or_else(|| self.embedder.get().map(LocalEmbedder::stats))
            .unwrap_or_default()
    }

    /// The digest of what the model's tokens depend on; none for an embedder.
    fn numerics(&self) -> Option<String> {
        let numerics = self.engine.get().and_then(EngineHandle::numerics)?;
        Some(numerics.as_str().to_owned())
    }

    fn watch_state(&self) -> Option<watch::Receiver<EngineState>> {
        let engine = self.engine.get().map(EngineHandle::watch_state);
        engine.or_else(|| self.embedder.get().map(LocalEmbedder::watch_state))
    }

    fn readiness(&self) -> Readiness {
        if self.draining.load(Ordering::Acquire) {
            return Readiness::Draining;
        }
        if let Some(reason) = self.failure.get() {
            return Readiness::Failed(reason.clone());
        }
        let state = self.watch_state().map(|state| state.borrow().clone());
        match state {
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
        priority: match request.wishes.class {
            Class::Interactive => Priority::Interactive,
            Class::Batch => Priority::Batch,
        },
        resume: request.resume_token_ids.clone(),
        flow: request.flow,
        pool: request.pool,
        deadline: request.deadline,
        want_token_ids: request.want_token_ids,
        prompt_logprobs: request.prompt_logprobs,
    }
}

/// The engine's events as ours. Dropping the stream drops the engine's, which aborts what is not done.
fn converted_stream(events: hansa_engine::EventStream, place: Place) -> BoxStream<'static, Told> {
    unfold(Some((events, place)), async |running| {
        let (mut events, place) = running?;
        // An engine that goes away without a last word has failed: a stream never just stops (I3).
        let event = events.recv().await.map_or_else(
            || Told::Event(Err(UpstreamErrorKind::Internal.into())),
            |event| converted(event, place.structure),
        );
        let over = matches!(event, Told::Event(Ok(Event::Done(_)) | Err(_)));
        Some((event, (!over).then_some((events, place))))
    })
    .boxed()
}

fn converted(event: api::Event, structure: Option<&'static str>) -> Told {
    let event = match event {
        api::Event::Prompt(logprobs) => {
            return Told::Prompt(logprobs.into_iter().map(token_logprob).collect());
        }
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
        api::Event::Done(usage) => Ok(Event::Done(used(&usage))),
        api::Event::Failed(EngineError::Grammar(fault), usage) => {
            let param = structure.unwrap_or("response_format");
            Err(invalid(param, fault.to_string()).after(used(&usage)))
        }
        api::Event::Failed(error, usage) => Err(failed(&error).after(used(&usage))),
    };
    Told::Event(event)
}

fn used(usage: &api::Usage) -> Usage {
    Usage {
        prompt_tokens: usage.prompt_tokens,
        cached_tokens: usage.cached_tokens,
        completion_tokens: usage.completion_tokens,
        gpu_us: Some(u32::try_from(usage.device_time.as_micros()).unwrap_or(u32::MAX)),
        ..Usage::default()
    }
}

/// Tokens of a choice whose client names no number: no more than the model's own default and what was reserved.
fn default_tokens(of_model: Option<u32>, request: &GenerateRequest) -> Option<u32> {
    let reserved = request.default_max_tokens;
    of_model.into_iter().chain(reserved).min()
}

fn token_logprob(logprob: api::TokenLogprob) -> TokenLogprob {
    let likely = |likely: api::Likely| Likely {
        bytes: likely.bytes,
        logprob: Some(likely.logprob),
    };
    TokenLogprob {
        chosen: likely(logprob.chosen),
        top: logprob.top.into_iter().map(likely).collect(),
    }
}

impl fmt::Debug for LocalUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LocalUpstream")
            .field(&self.shared.model.id)
            .finish()
    }
}
