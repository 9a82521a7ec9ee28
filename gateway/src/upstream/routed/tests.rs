//! Several simulated engines as one upstream, some of which fail.

mod fates;
mod patience;
mod queue;
mod seeds;
mod stalls;
mod streams;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use hansa_config::schema;
use tokio::sync::watch;

use self::stalls::{Claimed, Pace};
use super::*;
use crate::clock::Clock;
use crate::route::facts::Facts;
use crate::route::options::Options;
use crate::route::residency::Rules;
use crate::telemetry::Metrics;
use crate::upstream::local::{Devices, LocalUpstream};
use crate::upstream::{Endpoint, Event, Prompt, Sampling, Wishes};

const MODEL: &str = "m";

/// What becomes of a request that reaches an upstream.
#[derive(Debug, Clone)]
enum Fate {
    Well,
    /// Refused at once.
    Refuse(UpstreamErrorKind),
    /// So many events, then this error, or silence of a closed stream.
    Break(usize, Option<UpstreamErrorKind>),
    /// Nothing, for ever.
    Hang,
    /// Served with another seed than it asked for.
    Lie,
    /// Served at another pace.
    Slow(Pace),
}

/// The fates of the next requests, whoever gets them, and what came where.
#[derive(Default)]
struct Fates {
    next: Mutex<VecDeque<Fate>>,
    /// Upstreams with a long line.
    full: Mutex<Vec<&'static str>>,
    /// What upstreams say of themselves, true or not.
    claims: Mutex<Vec<(&'static str, Claimed)>>,
    /// Whether upstreams have fallen silent.
    silent: watch::Sender<bool>,
    asked: Mutex<Vec<(String, Arc<GenerateRequest>)>>,
}

/// An engine that fails when fate will have it.
struct Mortal {
    name: String,
    inner: LocalUpstream,
    /// Whether it tells a digest.
    exact: bool,
    fates: Arc<Fates>,
}

impl Upstream for Mortal {
    fn generate(
        &self,
        request: Arc<GenerateRequest>,
    ) -> BoxFuture<'_, Result<EventStream, UpstreamError>> {
        let asked = (self.name.clone(), Arc::clone(&request));
        self.fates.asked.lock().unwrap().push(asked);
        let fate = self.fates.next.lock().unwrap().pop_front();
        async move {
            match fate.unwrap_or(Fate::Well) {
                Fate::Well => self.inner.generate(request).await,
                Fate::Refuse(kind) => Err(kind.into()),
                Fate::Hang => std::future::pending().await,
                Fate::Lie => {
                    let seed = request.seed + 1;
                    let request = GenerateRequest {
                        seed,
                        ..GenerateRequest::clone(&request)
                    };
                    self.inner.generate(Arc::new(request)).await
                }
                Fate::Slow(pace) => stalls::slowly(&self.inner, request, pace).await,
                Fate::Break(after, how) => {
                    let events = self.inner.generate(request).await?.take(after);
                    let end = stream::iter(how.map(|kind| Err(kind.into())));
                    Ok(events.chain(end).boxed())
                }
            }
        }
        .boxed()
    }

    fn count_tokens(
        &self,
        request: Arc<GenerateRequest>,
    ) -> BoxFuture<'_, Result<u32, UpstreamError>> {
        self.inner.count_tokens(request)
    }

    fn cancel(&self, request_id: &str) {
        self.inner.cancel(request_id);
    }

    fn status(&self) -> UpstreamStatus {
        let mut status = self.inner.status();
        if !self.exact {
            status.numerics.clear();
        }
        let full = self.fates.full.lock().unwrap();
        if full.iter().any(|name| *name == self.name) {
            status.waiting = 100;
        }
        let claims = self.fates.claims.lock().unwrap();
        let claimed = claims.iter().find(|(name, _)| *name == self.name);
        claimed.map_or(status.clone(), |(_, claimed)| claimed.instead_of(status))
    }

    fn silence(&self) -> Option<BoxFuture<'static, ()>> {
        let mut silent = self.fates.silent.subscribe();
        Some(Box::pin(async move {
            let _ = silent.wait_for(|silent| *silent).await;
        }))
    }

    fn drain(&self, grace: Duration) {
        self.inner.drain(grace);
    }
}

/// A roster of mortal engines.
struct World {
    roster: Roster,
    fates: Arc<Fates>,
}

impl World {
    /// Engines at sites of these names.
    async fn of(names: &[&str], exact: bool, options: Options) -> Self {
        Self::at(names, exact, options, Clock::system()).await
    }

    /// The same by another clock; engines know the machine's.
    async fn at(names: &[&str], exact: bool, options: Options, clock: Clock) -> Self {
        let metrics = Metrics::new().unwrap();
        let base = Rules {
            experimental: true,
            ..Rules::default()
        };
        let roster = Roster::new(options, base, Arc::default(), clock, metrics);
        let fates = Arc::new(Fates::default());
        for name in names {
            let inner = LocalUpstream::new(model(), Clock::system(), Devices::default());
            inner.load().await.unwrap();
            let mortal = Mortal {
                name: (*name).to_owned(),
                inner,
                exact,
                fates: Arc::clone(&fates),
            };
            let facts = Facts::new(name, name, "", MODEL);
            roster.add(facts, Arc::new(mortal)).unwrap();
        }
        Self { roster, fates }
    }

    async fn of_three() -> Self {
        Self::of(&["a", "b", "c"], true, Options::default()).await
    }

    /// The next requests meet these fates.
    fn ordain(&self, fates: impl IntoIterator<Item = Fate>) {
        *self.fates.next.lock().unwrap() = fates.into_iter().collect();
    }

    async fn run(&self, request: &GenerateRequest) -> Outcome {
        self.fates.asked.lock().unwrap().clear();
        let routed = self.roster.model(MODEL);
        let events = routed.generate(Arc::new(request.clone())).await.unwrap();
        let outcome = Outcome::of(events.collect().await, request.n);
        assert_eq!(self.roster.in_flight(MODEL), 0);
        outcome
    }

    /// Where requests went, in order.
    fn asked(&self) -> Vec<String> {
        let asked = self.fates.asked.lock().unwrap();
        asked.iter().map(|(name, _)| name.clone()).collect()
    }
}

/// What a client would have seen.
#[derive(Debug, PartialEq)]
struct Outcome {
    texts: Vec<String>,
    finished: Vec<Option<crate::upstream::FinishReason>>,
    end: Result<crate::upstream::Usage, UpstreamErrorKind>,
}

impl Outcome {
    fn of(events: Vec<Result<Event, UpstreamError>>, n: u32) -> Self {
        let mut texts = vec![String::new(); n as usize];
        let mut finished = vec![None; n as usize];
        let mut end = None;
        for event in events {
            assert_eq!(end, None, "events after the end");
            match event {
                Ok(Event::Delta {
                    choice,
                    text,
                    token_ids,
                    ..
                }) => {
                    assert_eq!(
                        finished[choice as usize], None,
                        "text after its choice's end"
                    );
                    assert!(token_ids.is_empty(), "ids that nobody asked for");
                    texts[choice as usize] += &text;
                }
                Ok(Event::Finished { choice, reason }) => {
                    let before = finished[choice as usize].replace(reason);
                    assert_eq!(before, None, "a choice that ends twice");
                }
                Ok(Event::Done(usage)) => {
                    // What the caches of two engines held, and how long they took, is no part of the answer.
                    let (cached_tokens, gpu_us) = (0, None);
                    end = Some(Ok(crate::upstream::Usage {
                        cached_tokens,
                        gpu_us,
                        ..usage
                    }));
                }
                Ok(Event::ToolSyntax(_) | Event::ToolCall { .. }) => panic!("calls without tools"),
                Err(error) => end = Some(Err(error.kind)),
            }
        }
        let end = end.expect("a stream never just ends");
        Self {
            texts,
            finished,
            end,
        }
    }
}

fn model() -> schema::Model {
    let sim = schema::Sim {
        step_base_us: 0,
        prefill_token_us: 0,
        decode_sequence_us: 0,
        ..schema::Sim::default()
    };
    schema::Model {
        id: MODEL.to_owned(),
        runner: schema::Runner::Sim,
        sim,
        ..schema::Model::default()
    }
}

fn request(n: u32, max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        id: "r".into(),
        shown_id: "r".into(),
        model: MODEL.into(),
        endpoint: Endpoint::Completions,
        body: bytes::Bytes::new().into(),
        prompt: Prompt::Text("a prompt of some words".into()),
        whole: false,
        n,
        max_tokens: Some(max_tokens),
        default_max_tokens: None,
        token_ids: OnceLock::new(),
        sampling: Sampling::default(),
        stop: Vec::new(),
        stop_token_ids: Vec::new(),
        min_tokens: 0,
        logprobs: None,
        prompt_logprobs: false,
        echo: false,
        structure: None,
        tools: None,
        seed: 42,
        template_time_s: 0,
        deadline: None,
        flow: 0,
        pool: 0,
        hops: 0,
        resume_token_ids: Vec::new(),
        want_token_ids: false,
        tenant: None,
        charge: None,
        purse: None,
        wishes: Arc::new(Wishes::default()),
    }
}
