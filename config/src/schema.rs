//! The config file as types. Every field has a default; `examples/reference.toml` shows them all.
//!
//! What the keys are called, allow and mean stands in `keys.rs`; these types must not know TOML.

pub mod agent;
mod energy;
pub mod issuer;
mod route;
pub mod tenancy;
mod upstream;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

pub use energy::Energy;
pub use route::{Policy, Route};
pub use upstream::{Discover, Kind, ModelName, Peer, Upstream};

/// The whole config.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `[server]`: the listener for clients.
    pub server: Server,
    /// `[admin]`: the listener for operators.
    pub admin: Admin,
    /// `[limits]`: what one request may ask for.
    pub limits: Limits,
    /// `[route]`: where requests go.
    pub route: Route,
    /// `[[model]]`: models that this process serves itself.
    pub models: Vec<Model>,
    /// `[peer]`: how servers of ours know each other.
    pub peer: Peer,
    /// `[[node]]`: servers of this site.
    pub nodes: Vec<Upstream>,
    /// `[[site]]`: gateways of other sites.
    pub sites: Vec<Upstream>,
    /// `[[tenant]]`: who uses the server.
    pub tenants: Vec<tenancy::Tenant>,
    /// `[[key]]`: keys of the API; every request needs one where there are any.
    pub keys: Vec<tenancy::ApiKey>,
    /// `[[allocation]]`: what tenants may spend in all.
    pub allocations: Vec<tenancy::Allocation>,
    /// `[[price]]`: what tokens cost.
    pub prices: Vec<tenancy::Price>,
    /// `[[rate]]`: bounds of models and sites.
    pub rates: Vec<tenancy::RateOf>,
    /// `[[issuer]]`: identity providers whose tokens are as good as keys.
    pub issuers: Vec<issuer::Issuer>,
    /// `[[claim]]`: what their tokens must say for a role in a tenant.
    pub claims: Vec<issuer::Claim>,
    /// `[quota]`: the ledger, and what is reserved.
    pub quota: tenancy::Quota,
    /// `[energy]`: what the work of this process takes.
    pub energy: Energy,
    /// `[dial]`: whom this server calls to be called back.
    pub dial: agent::Dial,
    /// `[agent]`: jobs that serve.
    pub agent: agent::Agent,
    /// `[[job]]`: nodes that run as jobs.
    pub jobs: Vec<agent::Job>,
}

/// `[server]`
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Connections at once; further ones wait in the kernel's queue.
    pub connections_max: u32,
    /// Time for a client to send the whole request head.
    pub header_timeout_ms: u64,
    /// Time for a client to send the whole body.
    pub body_timeout_ms: u64,
    /// Silence after which a waiting stream gets its headers and a comment.
    pub ping_after_ms: u64,
    /// Time after which a client that reads nothing of its stream loses it.
    pub write_timeout_ms: u64,
    /// Time that running streams get after SIGTERM.
    pub grace_ms: u64,
    /// Time between "not ready" and closing the listener, so that balancers notice.
    pub drain_delay_ms: u64,
    /// Certificate of the listener; with it clients speak https.
    pub tls_cert: Option<PathBuf>,
    /// Its key.
    pub tls_key: Option<PathBuf>,
    /// When the machine is taken away, seconds since the epoch.
    pub ends_at_s: Option<i64>,
    /// The same from the start.
    pub ends_in_s: Option<u64>,
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Address to listen on, or `"none"`.
    pub listen: Option<SocketAddr>,
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request body.
    pub body_bytes_max: u64,
    /// Choices of one request.
    pub n_max: u32,
    /// Stop strings of one request.
    pub stop_strings_max: u32,
    /// Bytes of one stop string.
    pub stop_bytes_max: u32,
    /// Messages of one conversation.
    pub messages_max: u32,
    /// Prompts of one completion request.
    pub prompts_max: u32,
    /// Time that a request may take in all.
    pub request_timeout_ms: u64,
}

/// `[[model]]`
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Name in the API.
    pub id: String,
    /// What runs it.
    pub runner: Runner,
    /// Catalogue name, path of a GGUF file or of a Hugging Face folder, or `hf:owner/repository/file.gguf`; only for `candle`.
    pub source: String,
    /// `"cpu"` or `"cuda:0"`; only for `candle`.
    pub device: Device,
    /// Number type of cached keys and values; only for `candle`.
    pub kv_type: KvType,
    /// What the weights of a folder are quantised to; only for `candle`.
    pub quantise: Quantise,
    /// What follows where its self-test fails; only for `candle`.
    pub self_test: SelfTest,
    /// Bytes of KV cache; what device and memory suggest where unset.
    pub kv_bytes_max: Option<u64>,
    /// Share of the device's time beside its other models.
    pub device_share: u32,
    /// Tokens of one KV block.
    pub block_tokens: u32,
    /// Sequences that run at once.
    pub sequences_max: u32,
    /// Tokens of one step.
    pub step_tokens_max: u32,
    /// Sequences that wait in line.
    pub queue_max: u32,
    /// Prompt tokens that wait in line.
    pub queue_tokens_max: u64,
    /// Milliseconds between two tokens of a stream while prompts are computed beside it.
    pub inter_token_target_ms: u64,
    /// Whether tokens are guessed ahead.
    pub speculation: Speculation,
    /// Tokens that one sequence guesses at most in a step.
    pub draft_tokens_max: u32,
    /// Milliseconds after which a step counts as hanging.
    pub stall_after_ms: u64,
    /// Tokens of prompt and completion together; the model's own where unset.
    pub context_max: Option<u32>,
    /// Tokens to produce where the client names no number; as many as the context holds where
    /// unset.
    pub default_max_tokens: Option<u32>,
    /// Threads that draw tokens and run small tensor operations; as many as the kernels have (`CANDLE_NUM_THREADS`, or
    /// else the physical cores) where unset.
    pub threads: Option<u32>,
    /// `[model.sim]`: cost of the simulated runner's steps.
    pub sim: Sim,
}

/// Bytes of KV cache on a CPU where the operator names no number: leaves a small machine its memory.
const KV_BYTES_ON_A_CPU: u64 = 256 << 20;

impl Model {
    /// Bytes that its KV cache may take at most, memory allowing; `None` where only the memory bounds it.
    #[must_use]
    pub fn kv_bytes_cap(&self) -> Option<u64> {
        let on_card = self.runner == Runner::Candle && self.device != Device::Cpu;
        let default = (!on_card).then_some(KV_BYTES_ON_A_CPU);
        self.kv_bytes_max.or(default)
    }
}

/// What runs a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runner {
    /// A real model through Candle.
    Candle,
    /// The simulated model.
    Sim,
}

/// A value that is one of a few words.
pub(crate) trait Choice: Copy + 'static {
    /// Every value, in the order to show them.
    const ALL: &'static [Self];
    /// The word in the file.
    fn name(self) -> &'static str;
}

impl Choice for Runner {
    const ALL: &'static [Self] = &[Self::Candle, Self::Sim];

    fn name(self) -> &'static str {
        match self {
            Self::Candle => "candle",
            Self::Sim => "sim",
        }
    }
}

/// Where tensors live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// `"cpu"`
    Cpu,
    /// `"cuda:N"`
    Cuda(u32),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// Number type of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvType {
    /// `"f16"`
    F16,
    /// `"f32"`
    F32,
}

impl Choice for KvType {
    const ALL: &'static [Self] = &[Self::F16, Self::F32];

    fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }
}

/// What follows where a model fails its self-test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SelfTest {
    /// `"require"`: it is not served.
    Require,
    /// `"warn"`: it is served, and the log says so.
    Warn,
}

impl Choice for SelfTest {
    const ALL: &'static [Self] = &[Self::Require, Self::Warn];

    fn name(self) -> &'static str {
        match self {
            Self::Require => "require",
            Self::Warn => "warn",
        }
    }
}

/// What the weights of a Hugging Face folder are quantised to while they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(non_camel_case_types, reason = "the names are ggml's")]
pub enum Quantise {
    /// `"none"`
    None,
    /// `"q8_0"`
    Q8_0,
    /// `"q4_k"`
    Q4_K,
}

impl Choice for Quantise {
    const ALL: &'static [Self] = &[Self::None, Self::Q8_0, Self::Q4_K];

    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Q8_0 => "q8_0",
            Self::Q4_K => "q4_k",
        }
    }
}

/// Whether and how tokens are guessed ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speculation {
    /// `"ngram"`: as the text went on where its latest tokens stood before.
    Ngram,
    /// `"off"`
    Off,
}

impl Model {
    /// Tokens that one sequence guesses at most in a step; 0 where none is to be guessed.
    #[must_use]
    pub fn drafts_max(&self) -> u32 {
        match self.speculation {
            Speculation::Ngram => self.draft_tokens_max,
            Speculation::Off => 0,
        }
    }
}

impl Choice for Speculation {
    const ALL: &'static [Self] = &[Self::Ngram, Self::Off];

    fn name(self) -> &'static str {
        match self {
            Self::Ngram => "ngram",
            Self::Off => "off",
        }
    }
}

/// `[model.sim]`: a step takes `step_base_us + prefill tokens x prefill_token_us + decoding
/// sequences x decode_sequence_us`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sim {
    /// Tokens of prompt and completion together.
    pub context_tokens: u32,
    /// Numbers of a vector, where it is an embedder; 0 where it generates.
    pub embedding_numbers: u32,
    /// Microseconds of a step however small.
    pub step_base_us: u64,
    /// Microseconds added by each prefilled token.
    pub prefill_token_us: u64,
    /// Microseconds added by each decoding sequence.
    pub decode_sequence_us: u64,
}

/// Where the config came from, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// No file: the defaults, with the default model.
    Defaults,
    /// A file.
    File(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Defaults => f.write_str("none (the defaults)"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Config {
    /// Whether clients must say who they are: with a key, or with a token of an identity provider.
    #[must_use]
    pub const fn authenticates(&self) -> bool {
        !self.keys.is_empty() || !self.issuers.is_empty()
    }
}

impl Default for Config {
    /// The server without a config file: the default model on loopback.
    fn default() -> Self {
        Self {
            server: Server::default(),
            admin: Admin::default(),
            limits: Limits::default(),
            route: Route::default(),
            models: vec![Model::default()],
            peer: Peer::default(),
            nodes: Vec::new(),
            sites: Vec::new(),
            tenants: Vec::new(),
            keys: Vec::new(),
            allocations: Vec::new(),
            prices: Vec::new(),
            rates: Vec::new(),
            issuers: Vec::new(),
            claims: Vec::new(),
            quota: tenancy::Quota::default(),
            energy: Energy::default(),
            dial: agent::Dial::default(),
            agent: agent::Agent::default(),
            jobs: Vec::new(),
        }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            connections_max: 4096,
            header_timeout_ms: 10_000,
            body_timeout_ms: 30_000,
            ping_after_ms: 15_000,
            write_timeout_ms: 30_000,
            grace_ms: 30_000,
            drain_delay_ms: 0,
            tls_cert: None,
            tls_key: None,
            ends_at_s: None,
            ends_in_s: None,
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9900))),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 4 << 20,
            n_max: 8,
            stop_strings_max: 4,
            stop_bytes_max: 256,
            messages_max: 1024,
            prompts_max: 16,
            request_timeout_ms: 600_000,
        }
    }
}

impl Default for Model {
    fn default() -> Self {
        Self {
            id: "smollm2-135m-instruct".to_owned(),
            runner: Runner::Candle,
            source: "smollm2-135m-instruct".to_owned(),
            device: Device::Cpu,
            kv_type: KvType::F16,
            quantise: Quantise::None,
            self_test: SelfTest::Require,
            kv_bytes_max: None,
            device_share: 1,
            block_tokens: 16,
            sequences_max: 64,
            step_tokens_max: 512,
            queue_max: 256,
            queue_tokens_max: 1 << 20,
            inter_token_target_ms: 50,
            speculation: Speculation::Ngram,
            draft_tokens_max: 15,
            stall_after_ms: 60_000,
            context_max: None,
            default_max_tokens: None,
            threads: None,
            sim: Sim::default(),
        }
    }
}

impl Default for Sim {
    fn default() -> Self {
        Self {
            context_tokens: 8192,
            embedding_numbers: 0,
            step_base_us: 1_000,
            prefill_token_us: 20,
            decode_sequence_us: 50,
        }
    }
}
