//! `[[node]]`, `[[site]]` and `[peer]`: other servers, and how servers of ours know each other.

use std::path::PathBuf;

use super::Choice;
use crate::secret::SecretSource;

/// `[[node]]` or `[[site]]`: another server that serves models for this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Name in logs, decisions and allow-lists.
    pub name: String,
    /// `http://` or `https://`, an authority, and where the API's `/v1` lies below it. Empty where it calls itself.
    pub url: String,
    /// What it speaks.
    pub kind: Kind,
    /// The models that it serves.
    pub models: Vec<ModelName>,
    /// Its API key; only for `openai`.
    pub key_file: Option<SecretSource>,
    /// Fields that only its engine knows; only for `openai`.
    pub pass_fields: Vec<String>,
    /// Certificates that may sign its own; only for `https`.
    pub ca_file: Option<PathBuf>,
    /// How its instances are found.
    pub discover: Discover,
    /// The file that lists them, for `discover = "file"`.
    pub addresses_file: Option<PathBuf>,
    /// Time for a connection to be there.
    pub connect_timeout_ms: u64,
    /// Time between sending a request and the head of its answer.
    pub first_byte_timeout_ms: u64,
    /// Silence on a stream after which it counts as dead.
    pub idle_timeout_ms: u64,
    /// Country that it stands in, as two letters of ISO 3166.
    pub country: Option<String>,
    /// Only requests that opt in go there.
    pub experimental: bool,
    /// When its machine is taken away, seconds since the epoch.
    pub ends_at_s: Option<i64>,
    /// Round-trip time to assume before one was measured.
    pub rtt_ms: Option<u32>,
    /// Energy of a token where it does not tell.
    pub millijoules_per_token: Option<u64>,
    /// Carbon of a kilowatt-hour where it does not tell.
    pub grams_per_kwh: Option<u64>,
}

/// A model as clients name it, and as the upstream does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelName {
    /// Name in our API.
    pub ours: String,
    /// Name in the upstream's.
    pub theirs: String,
}

/// What an upstream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Another server of ours.
    Hansa,
    /// Any server of OpenAI's API.
    OpenAi,
}

impl Choice for Kind {
    const ALL: &'static [Self] = &[Self::Hansa, Self::OpenAi];

    fn name(self) -> &'static str {
        match self {
            Self::Hansa => "hansa",
            Self::OpenAi => "openai",
        }
    }
}

/// How the instances behind one section are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discover {
    /// There is one, at the URL.
    Static,
    /// One at each address that the URL's name resolves to.
    Dns,
    /// One at each address that a file lists.
    File,
    /// Those that call this server.
    Agent,
}

impl Choice for Discover {
    const ALL: &'static [Self] = &[Self::Static, Self::Dns, Self::File, Self::Agent];

    fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Dns => "dns",
            Self::File => "file",
            Self::Agent => "agent",
        }
    }
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            name: String::new(),
            url: String::new(),
            kind: Kind::Hansa,
            models: Vec::new(),
            key_file: None,
            pass_fields: Vec::new(),
            ca_file: None,
            discover: Discover::Static,
            addresses_file: None,
            connect_timeout_ms: 3_000,
            first_byte_timeout_ms: 60_000,
            idle_timeout_ms: 60_000,
            country: None,
            experimental: false,
            ends_at_s: None,
            rtt_ms: None,
            millijoules_per_token: None,
            grams_per_kwh: None,
        }
    }
}

/// `[peer]`: how servers of ours know each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// A secret that all of them share.
    pub secret_file: Option<SecretSource>,
    /// Certificate that this server shows to its upstreams.
    pub cert: Option<PathBuf>,
    /// The key of that certificate.
    pub key: Option<PathBuf>,
    /// Certificates that sign those of peers.
    pub ca: Option<PathBuf>,
}

impl Peer {
    /// Whether a server that calls this one can prove to be a peer.
    #[must_use]
    pub const fn can_authenticate(&self) -> bool {
        self.secret_file.is_some() || self.ca.is_some()
    }
}
