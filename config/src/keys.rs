//! The one table of keys: name, meaning, bounds and place of each. The reader, the JSON schema, the
//! reference file and the hints in messages are all made from it, so a key is added here and in
//! `schema.rs` and nowhere else.
//!
//! It must not know TOML or JSON.

pub(crate) mod agent;
mod energy;
pub(crate) mod issuer;
mod route;
pub(crate) mod tenancy;
mod upstream;

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::limits;
use crate::schema::tenancy::{Currency, Role, StoreAway};
use crate::schema::{
    Config, Device, Discover, Kind, KvType, Model, ModelName, Policy, Quantise, Runner, SelfTest,
    Speculation,
};
use crate::secret::SecretSource;
use crate::units::Range;

pub(crate) use energy::ENERGY;
pub(crate) use route::ROUTE;
pub(crate) use upstream::{PEER, UPSTREAM};

/// A section of the file.
pub(crate) struct Section {
    /// Path of the section: `"model.sim"`.
    pub(crate) path: &'static str,
    /// What it is for.
    pub(crate) doc: &'static str,
    /// Written `[[path]]`, once for each of many.
    pub(crate) many: bool,
    /// A server without it is one as it should be.
    pub(crate) optional: bool,
    /// The section means nothing to other runners.
    pub(crate) only: Option<Runner>,
}

/// A key of the file, whose value has its place in an `S`.
pub(crate) struct Key<S: 'static> {
    /// Path below `S`: `"server.listen"`.
    pub(crate) path: &'static str,
    /// What it sets, with unit and consequence.
    pub(crate) doc: &'static str,
    /// Where a value goes, and what values there are.
    pub(crate) slot: fn(&mut S) -> Slot<'_>,
    /// There is no default that could be meant.
    pub(crate) required: bool,
    /// The key means nothing to other runners.
    pub(crate) only: Option<Runner>,
    /// A value as TOML, shown where leaving the key out differs from every value.
    pub(crate) example: Option<&'static str>,
}

/// The place of a value, with what is allowed there.
pub(crate) enum Slot<'a> {
    U32(&'a mut u32, Range),
    MaybeU32(&'a mut Option<u32>, Range),
    U64(&'a mut u64, Range),
    /// Bytes, as a whole number or as text such as `"256MiB"`.
    Size(&'a mut u64, Range),
    MaybeSize(&'a mut Option<u64>, Range),
    Id(&'a mut String),
    Source(&'a mut String),
    Address(&'a mut SocketAddr),
    /// An address or `"none"`.
    MaybeAddress(&'a mut Option<SocketAddr>),
    Runner(&'a mut Runner),
    Device(&'a mut Device),
    KvType(&'a mut KvType),
    Quantise(&'a mut Quantise),
    Flag(&'a mut bool),
    Path(&'a mut Option<PathBuf>),
    /// The path of a file, or `"env:NAME"`.
    Secret(&'a mut Option<SecretSource>),
    /// Names of fields.
    Words(&'a mut Vec<String>),
    Url(&'a mut String),
    MaybeUrl(&'a mut Option<String>),
    /// Lines of text.
    Lines(&'a mut Vec<String>),
    Models(&'a mut Vec<ModelName>),
    Kind(&'a mut Kind),
    Discover(&'a mut Discover),
    Policy(&'a mut Policy),
    MaybeId(&'a mut Option<String>),
    Country(&'a mut Option<String>),
    Countries(&'a mut Vec<String>),
    /// Names of sites.
    Sites(&'a mut Vec<String>),
    SelfTest(&'a mut SelfTest),
    Speculation(&'a mut Speculation),
    MaybeU64(&'a mut Option<u64>, Range),
    /// An id, or an empty text where it is left out.
    IdOrEmpty(&'a mut String),
    /// Several ids.
    Names(&'a mut Vec<String>),
    /// 64 hexadecimal digits.
    Digest(&'a mut String),
    /// A date or a time, as seconds since the epoch.
    Date(&'a mut Option<i64>),
    Role(&'a mut Role),
    Currency(&'a mut Currency),
    StoreAway(&'a mut Option<StoreAway>),
}

/// Every section, in the order of the reference.
pub(crate) fn sections() -> impl Iterator<Item = &'static Section> {
    SECTIONS
        .iter()
        .chain(&tenancy::SECTIONS)
        .chain(&issuer::SECTIONS)
        .chain(&agent::SECTIONS)
        .chain(&[ENERGY_SECTION])
}

const ENERGY_SECTION: Section = section(
    "energy",
    "What the work of this process takes, so that each answer can say it and routing can go by it.",
);

const SECTIONS: [Section; 9] = [
    section("server", "The listener for clients."),
    section("admin", "The listener for operators: metrics and health."),
    section(
        "limits",
        "What one request may ask for; more is refused with 400, or 413 for the body.",
    ),
    section(
        "route",
        "Where requests go that several upstreams could serve, and what happens when one of them fails.",
    ),
    Section {
        many: true,
        ..section(
            "model",
            "A model that this process serves itself, one section for each.",
        )
    },
    Section {
        only: Some(Runner::Sim),
        ..section(
            "model.sim",
            "Cost of the simulated model's steps: base + prefill tokens x prefill_token + \
             decoding sequences x decode_sequence.",
        )
    },
    section(
        "peer",
        "How servers of ours know each other. What a caller says of a request's tenant, deadline or seed is believed \
         only of a peer.",
    ),
    Section {
        many: true,
        optional: true,
        ..section(
            "node",
            "A server of this site that serves models for this one, one section for each.",
        )
    },
    Section {
        many: true,
        optional: true,
        ..section(
            "site",
            "The gateway of another site, one section for each. The keys are those of [[node]].",
        )
    },
];

/// Keys of `[server]`, `[admin]` and `[limits]`.
const ROOT: &[Key<Config>] = &[
    key(
        "server.listen",
        "Address for clients, an IP address and a port; port 0 takes a free one, which is printed \
         at start.",
        |c| Slot::Address(&mut c.server.listen),
    ),
    key(
        "server.connections_max",
        "Connections at once; further ones wait in the kernel's queue.",
        |c| Slot::U32(&mut c.server.connections_max, limits::CONNECTIONS),
    ),
    key(
        "server.header_timeout_ms",
        "Time for a client to send the whole request head, then its connection is closed. Also how \
         long a kept HTTP/1 connection may stay without a request.",
        |c| Slot::U64(&mut c.server.header_timeout_ms, limits::CLIENT_TIMEOUT_MS),
    ),
    key(
        "server.body_timeout_ms",
        "Time for a client to send the whole body, then the request is refused.",
        |c| Slot::U64(&mut c.server.body_timeout_ms, limits::CLIENT_TIMEOUT_MS),
    ),
    key(
        "server.ping_after_ms",
        "Silence after which a waiting stream gets its headers and a comment, so that nothing \
         between closes it.",
        |c| Slot::U64(&mut c.server.ping_after_ms, limits::CLIENT_TIMEOUT_MS),
    ),
    key(
        "server.write_timeout_ms",
        "Time after which a client that reads nothing of its stream loses it, and its place in \
         the engine.",
        |c| Slot::U64(&mut c.server.write_timeout_ms, limits::CLIENT_TIMEOUT_MS),
    ),
    key(
        "server.grace_ms",
        "Time that running streams get after SIGTERM; then they end with an error.",
        |c| Slot::U64(&mut c.server.grace_ms, limits::SHUTDOWN_MS),
    ),
    key(
        "server.drain_delay_ms",
        "Time between answering \"not ready\" and closing the listener, so that load balancers \
         notice first.",
        |c| Slot::U64(&mut c.server.drain_delay_ms, limits::SHUTDOWN_MS),
    ),
    key(
        "server.tls_cert",
        "PEM file with the certificate, and those that lead to its authority, that the listener shows. With it clients \
         speak https.",
        |c: &mut Config| Slot::Path(&mut c.server.tls_cert),
    )
    .example("\"/etc/hansa/server.pem\""),
    key(
        "server.tls_key",
        "PEM file with the key of server.tls_cert.",
        |c: &mut Config| Slot::Path(&mut c.server.tls_key),
    )
    .example("\"/etc/hansa/server.key\""),
    key(
        "admin.listen",
        "Address for operators, or \"none\". It answers anyone who reaches it, so keep it off \
         open networks.",
        |c| Slot::MaybeAddress(&mut c.admin.listen),
    ),
    key(
        "limits.body_bytes_max",
        "Bytes of a request body; a larger one is refused before it is held in memory.",
        |c| Slot::Size(&mut c.limits.body_bytes_max, limits::BODY_BYTES),
    ),
    key(
        "limits.n_max",
        "Choices (`n`) of one request; each is a sequence of its own.",
        |c| Slot::U32(&mut c.limits.n_max, limits::CHOICES),
    ),
    key(
        "limits.stop_strings_max",
        "Stop strings of one request.",
        |c| Slot::U32(&mut c.limits.stop_strings_max, limits::STOP_STRINGS),
    ),
    key(
        "limits.stop_bytes_max",
        "Bytes of one stop string; a stream may be held back by as much.",
        |c| Slot::U32(&mut c.limits.stop_bytes_max, limits::STOP_BYTES),
    ),
    key(
        "limits.messages_max",
        "Messages of one conversation.",
        |c| Slot::U32(&mut c.limits.messages_max, limits::MESSAGES),
    ),
    key(
        "limits.prompts_max",
        "Prompts of one completion request; each is a sequence of its own.",
        |c| Slot::U32(&mut c.limits.prompts_max, limits::PROMPTS),
    ),
    key(
        "limits.request_timeout_ms",
        "Time that a request may take in all, waiting and streaming included.",
        |c| Slot::U64(&mut c.limits.request_timeout_ms, limits::REQUEST_TIMEOUT_MS),
    ),
];

/// Keys of each `[[model]]`.
pub(crate) const MODEL: &[Key<Model>] = &[
    key(
        "id",
        "Name in the API: what clients send as `model`.",
        |m: &mut Model| Slot::Id(&mut m.id),
    )
    .required(),
    key(
        "runner",
        "What runs it: a real model through Candle, or a simulated one that needs no weights.",
        |m| Slot::Runner(&mut m.runner),
    ),
    key(
        "source",
        "Where the weights come from: a name of the catalogue (`hansa models list`), the path of \
         a GGUF file or of a Hugging Face folder, or hf:owner/repository/file.gguf. Left out: the id, as a name of the \
         catalogue.",
        |m: &mut Model| Slot::Source(&mut m.source),
    )
    .only(Runner::Candle)
    .example("\"hf:owner/repository/file.gguf\""),
    key(
        "device",
        "Where the tensors live: \"cpu\", or \"cuda:N\" for the GPU with ordinal N.",
        |m: &mut Model| Slot::Device(&mut m.device),
    )
    .only(Runner::Candle),
    key(
        "kv_type",
        "Number type of cached keys and values; f32 takes twice the memory of f16.",
        |m: &mut Model| Slot::KvType(&mut m.kv_type),
    )
    .only(Runner::Candle),
    key(
        "quantise",
        "What the weights of a Hugging Face folder are quantised to while they are read: \
         \"q8_0\", \"q4_k\", or \"none\". GGUF files stay as they are.",
        |m: &mut Model| Slot::Quantise(&mut m.quantise),
    )
    .only(Runner::Candle),
    key(
        "self_test",
        "What follows at start where a sequence gets other logits in company than alone: with \
         \"require\" the model is not served, with \"warn\" it is, its answers change with the load, and no other node \
         can continue them.",
        |m: &mut Model| Slot::SelfTest(&mut m.self_test),
    )
    .only(Runner::Candle),
    key(
        "kv_bytes_max",
        "Bytes of KV cache: how many tokens all running sequences may hold together; beyond it \
         they take turns. Left out: 256MiB on a CPU, what sequences_max whole contexts need on a \
         GPU. Never more than half of the memory that is free once the model is loaded; the log \
         states the budget.",
        |m: &mut Model| Slot::MaybeSize(&mut m.kv_bytes_max, limits::KV_BYTES),
    )
    .example("\"256MiB\""),
    key(
        "device_share",
        "Share of its device's time while other models of the device have work too: 2 gets twice \
         the time of 1. The models of a CPU, and those of one GPU, take turns; a simulated model \
         has a device of its own.",
        |m| Slot::U32(&mut m.device_share, limits::DEVICE_SHARE),
    ),
    key(
        "block_tokens",
        "Tokens of one KV block: smaller wastes less memory, larger costs less bookkeeping.",
        |m| Slot::U32(&mut m.block_tokens, limits::BLOCK_TOKENS),
    ),
    key(
        "sequences_max",
        "Sequences that run at once; more give more tokens per second in all and fewer to each.",
        |m| Slot::U32(&mut m.sequences_max, limits::SEQUENCES),
    ),
    key(
        "step_tokens_max",
        "Tokens of one step, at least sequences_max: larger prefills faster, smaller keeps \
         running streams smoother.",
        |m| Slot::U32(&mut m.step_tokens_max, limits::STEP_TOKENS),
    ),
    key(
        "queue_max",
        "Sequences that wait in line; further requests are refused with 503 and Retry-After.",
        |m| Slot::U32(&mut m.queue_max, limits::QUEUE),
    ),
    key(
        "queue_tokens_max",
        "Prompt tokens that wait in line; further requests are refused with 503 and Retry-After.",
        |m| Slot::U64(&mut m.queue_tokens_max, limits::QUEUE_TOKENS),
    ),
    key(
        "inter_token_target_ms",
        "How far apart the tokens of a stream may be while prompts are computed beside it: smaller \
         keeps streams smoother, larger lets prompts begin sooner. Where the streams alone take \
         longer, prompts still get a share of each step.",
        |m| Slot::U64(&mut m.inter_token_target_ms, limits::INTER_TOKEN_MS),
    ),
    key(
        "speculation",
        "Guesses next tokens where a text repeats itself (\"ngram\"), as when code is edited or \
         fields are extracted, and checks them in the step that they are part of: what is said is \
         the same, sooner. It stops by itself where it does not pay. \"off\" never guesses.",
        |m| Slot::Speculation(&mut m.speculation),
    ),
    key(
        "draft_tokens_max",
        "Tokens that one sequence guesses at most in a step.",
        |m| Slot::U32(&mut m.draft_tokens_max, limits::DRAFT_TOKENS),
    ),
    key(
        "stall_after_ms",
        "A step that takes longer counts as hanging: the model is not ready until it ends.",
        |m| Slot::U64(&mut m.stall_after_ms, limits::STALL_MS),
    ),
    key(
        "context_max",
        "Tokens of prompt and completion together. Left out: as many as the model was made for.",
        |m: &mut Model| Slot::MaybeU32(&mut m.context_max, limits::CONTEXT_TOKENS),
    )
    .example("2048"),
    key(
        "default_max_tokens",
        "Tokens to produce where the client names no number. Left out: as many as the context \
         holds.",
        |m: &mut Model| Slot::MaybeU32(&mut m.default_max_tokens, limits::OUTPUT_TOKENS),
    )
    .example("512"),
    key(
        "threads",
        "Threads of the kernels on a CPU. Left out: as many as there are physical cores.",
        |m: &mut Model| Slot::MaybeU32(&mut m.threads, limits::THREADS),
    )
    .only(Runner::Candle)
    .example("8"),
    key(
        "sim.context_tokens",
        "Tokens of prompt and completion together.",
        |m| Slot::U32(&mut m.sim.context_tokens, limits::CONTEXT_TOKENS),
    ),
    key(
        "sim.embedding_numbers",
        "Above 0 it is an embedder whose vectors have so many numbers: it answers /v1/embeddings \
         instead of chat and completions.",
        |m| Slot::U32(&mut m.sim.embedding_numbers, limits::EMBEDDING_NUMBERS),
    ),
    key("sim.step_base_us", "Time of a step however small.", |m| {
        Slot::U64(&mut m.sim.step_base_us, limits::SIM_COST_US)
    }),
    key(
        "sim.prefill_token_us",
        "Time added by each prefilled token.",
        |m| Slot::U64(&mut m.sim.prefill_token_us, limits::SIM_COST_US),
    ),
    key(
        "sim.decode_sequence_us",
        "Time added by each decoding sequence.",
        |m| Slot::U64(&mut m.sim.decode_sequence_us, limits::SIM_COST_US),
    ),
];

const fn section(path: &'static str, doc: &'static str) -> Section {
    Section {
        path,
        doc,
        many: false,
        optional: false,
        only: None,
    }
}

impl<S> Clone for Key<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Key<S> {}

const fn key<S>(path: &'static str, doc: &'static str, slot: fn(&mut S) -> Slot<'_>) -> Key<S> {
    Key {
        path,
        doc,
        slot,
        required: false,
        only: None,
        example: None,
    }
}

impl<S> Key<S> {
    const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    const fn only(mut self, runner: Runner) -> Self {
        self.only = Some(runner);
        self
    }

    const fn example(mut self, toml: &'static str) -> Self {
        self.example = Some(toml);
        self
    }
}

/// All keys of the sections that are there once.
pub(crate) fn root() -> impl Iterator<Item = &'static Key<Config>> {
    let sections = ROOT.iter().chain(ROUTE).chain(PEER);
    let sections = sections.chain(&tenancy::QUOTA).chain(agent::ROOT);
    sections.chain(ENERGY)
}

/// Paths of all keys from the root of the file: `"model.sim.context_tokens"`.
pub(crate) fn paths() -> impl Iterator<Item = String> {
    fn below<S>(section: &'static str, keys: &'static [Key<S>]) -> impl Iterator<Item = String> {
        keys.iter()
            .map(move |key| format!("{section}.{}", key.path))
    }
    let of_root = root().map(|key| key.path.to_owned());
    of_root
        .chain(below("model", MODEL))
        .chain(below("node", UPSTREAM))
        .chain(below("site", UPSTREAM))
        .chain(below("tenant", tenancy::TENANT))
        .chain(below("key", tenancy::API_KEY))
        .chain(below("allocation", tenancy::ALLOCATION))
        .chain(below("price", tenancy::PRICE))
        .chain(below("rate", tenancy::RATE))
        .chain(below("job", agent::JOB))
        .chain(below("issuer", issuer::ISSUER))
        .chain(below("claim", issuer::CLAIM))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_key_has_one_place_and_a_known_section() {
        let all: Vec<String> = paths().collect();
        let different: BTreeSet<&String> = all.iter().collect();
        assert_eq!(all.len(), different.len());
        for path in &all {
            let (section, _) = path.rsplit_once('.').expect("no key outside a section");
            assert!(sections().any(|known| known.path == section), "{path}");
        }
    }
}
