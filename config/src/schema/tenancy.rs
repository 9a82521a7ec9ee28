//! Who may use the server, and how much: tenants, keys, allocations, prices, and the ledger.

use std::path::PathBuf;

use super::Choice;
use crate::secret::SecretSource;

/// `[[tenant]]`: an organisation, or a project of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tenant {
    /// `organisation`, or `organisation/project`.
    pub id: String,
    /// Countries, by ISO 3166 code, that may serve it; empty for any.
    pub countries: Vec<String>,
    /// Sites that may serve it; empty for any.
    pub sites: Vec<String>,
    /// Purposes that its requests may name; empty for any.
    pub purposes: Vec<String>,
    /// Models that it may use; empty for any.
    pub models: Vec<String>,
    /// Whether its requests may go to sites and nodes that are marked experimental.
    pub experimental: bool,
    /// Tenants with the same name here share cached prompts; its own where empty.
    pub pool: String,
    /// Days after which its records are deleted; as `[quota]` says where unset.
    pub retention_days: Option<u32>,
    /// Whether its use is high-risk by the AI Act, so that its records must be kept for half a year.
    pub high_risk: bool,
    /// What all of its requests may spend together.
    pub rates: Rates,
}

/// `[[key]]`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApiKey {
    /// Its name in records and messages; not the secret.
    pub id: String,
    /// Whose it is.
    pub tenant: String,
    /// SHA-256 of the key, 64 hexadecimal digits.
    pub sha256: String,
    /// What it may do.
    pub role: Role,
    /// First second at which it no longer works, since the epoch.
    pub expires_s: Option<i64>,
    /// Models that it may use; empty for those of its tenant.
    pub models: Vec<String>,
    /// Endpoints that it may use, such as `chat/completions`; empty for any.
    pub endpoints: Vec<String>,
    /// Sites that may serve it; empty for those of its tenant.
    pub sites: Vec<String>,
    /// What its requests may spend.
    pub rates: Rates,
}

/// What a key may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Role {
    /// Use models.
    #[default]
    Member,
    /// And read its tenant's records.
    Manager,
    /// And use the admin API.
    Operator,
}

impl Choice for Role {
    const ALL: &'static [Self] = &[Self::Member, Self::Manager, Self::Operator];

    fn name(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Manager => "manager",
            Self::Operator => "operator",
        }
    }
}

/// What may be spent in a minute or at once; `None` is no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    /// Requests in a minute.
    pub requests_per_minute: Option<u64>,
    /// Tokens of prompts in a minute.
    pub input_tokens_per_minute: Option<u64>,
    /// Tokens of completions in a minute.
    pub output_tokens_per_minute: Option<u64>,
    /// Tokens of both in a minute.
    pub tokens_per_minute: Option<u64>,
    /// Requests at once.
    pub concurrent_max: Option<u32>,
    /// Requests that wait for their first content.
    pub queued_max: Option<u32>,
    /// What happens while the store that gateways share is away; of tenants only.
    pub store_away: Option<StoreAway>,
    /// Tokens in a minute at each gateway, where that is [`StoreAway::Open`].
    pub open_tokens_per_minute: Option<u64>,
}

/// What a tenant gets while the store is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreAway {
    /// Nothing.
    Closed,
    /// What is on lease.
    Safe,
    /// And so many tokens in a minute beyond that.
    Open,
}

impl Choice for StoreAway {
    const ALL: &'static [Self] = &[Self::Closed, Self::Safe, Self::Open];

    fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Safe => "safe",
            Self::Open => "open",
        }
    }
}

/// `[[rate]]`: bounds of a model or a site, whoever asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RateOf {
    /// The model, or empty.
    pub model: String,
    /// The site, or empty.
    pub site: String,
    /// The bounds.
    pub rates: Rates,
}

/// `[[allocation]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    /// Its name in records and messages.
    pub id: String,
    /// Whose it is.
    pub tenant: String,
    /// The site that it is good for; any where empty.
    pub site: String,
    /// What it is counted in.
    pub currency: Currency,
    /// How much, in whole units.
    pub amount: u64,
    /// How much more may be spent, in whole units.
    pub overdraft: u64,
    /// Percent from which answers carry a warning; 100 for never.
    pub soft_percent: u32,
    /// First second, since the epoch.
    pub start_s: Option<i64>,
    /// First second after it.
    pub end_s: Option<i64>,
    /// Days after which it begins anew; 0 for never.
    pub renew_days: u32,
    /// Percent of what is left that goes over into the next period.
    pub carry_over_percent: u32,
}

impl Default for Allocation {
    fn default() -> Self {
        Self {
            id: String::new(),
            tenant: String::new(),
            site: String::new(),
            currency: Currency::Tokens,
            amount: 0,
            overdraft: 0,
            soft_percent: 80,
            start_s: None,
            end_s: None,
            renew_days: 0,
            carry_over_percent: 0,
        }
    }
}

/// What an allocation is counted in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Currency {
    /// Tokens of prompt and completion.
    #[default]
    Tokens,
    /// Money, by the prices of `[[price]]`.
    Money,
    /// Seconds of the devices that models run on.
    GpuSeconds,
    /// Energy, overheads of the building included.
    Joules,
}

impl Choice for Currency {
    const ALL: &'static [Self] = &[Self::Tokens, Self::Money, Self::GpuSeconds, Self::Joules];

    fn name(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Money => "money",
            Self::GpuSeconds => "gpu_seconds",
            Self::Joules => "joules",
        }
    }
}

/// `[[price]]`: of a million tokens, in millionths of the unit of money.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Price {
    /// The model.
    pub model: String,
    /// The site; any where empty.
    pub site: String,
    /// Prompt tokens.
    pub input: u64,
    /// Prompt tokens found in a prefix cache; as `input` where unset.
    pub cached: Option<u64>,
    /// Completion tokens.
    pub output: u64,
}

/// `[quota]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    /// The ledger's file; in memory where unset.
    pub ledger: Option<PathBuf>,
    /// The site that this server is, in allocations, prices and records.
    pub site: String,
    /// Tokens that a choice may have where the client names no number: as many are reserved.
    pub default_max_tokens: u32,
    /// URL of the PostgreSQL database that gateways share, in place of a file.
    pub store: Option<SecretSource>,
    /// PEM file of the authority that signs the database's certificate; the public ones where unset.
    pub store_ca: Option<PathBuf>,
    /// How long a gateway that is cut off keeps what it has on lease.
    pub lease_ttl_ms: u32,
    /// Days after which records are deleted; never where unset.
    pub retention_days: Option<u32>,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            store: None,
            store_ca: None,
            lease_ttl_ms: 6_000,
            ledger: None,
            site: "local".to_owned(),
            default_max_tokens: 4_096,
            retention_days: None,
        }
    }
}
