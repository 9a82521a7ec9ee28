//! A tenant and a key as operators write them: in the config, through the admin API, in the ledger.

use std::sync::Arc;

use hansa_config::schema::tenancy;
use serde::{Deserialize, Serialize};

use super::principal::Role;
use crate::quota::meter::Limits;
use crate::quota::open::limits;

/// An organisation, or a project of one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantDocument {
    /// `organisation`, or `organisation/project`.
    pub id: Arc<str>,
    /// Countries that may serve it; empty, as for all lists here, for any.
    pub countries: Vec<String>,
    /// Sites that may serve it.
    pub sites: Vec<String>,
    /// Purposes that its requests may name.
    pub purposes: Vec<String>,
    /// Models that it may use.
    pub models: Vec<String>,
    /// Whether its requests may go to what is marked experimental.
    pub experimental: bool,
    /// Tenants with the same name here share cached prompts; its own where null.
    pub pool: Option<String>,
    /// Days after which its records are deleted; as its organisation's, or the server's, where null.
    pub retention_days: Option<u32>,
    /// Whether its use is high-risk by the AI Act, so that its records must be kept for half a year.
    pub high_risk: bool,
    /// What its requests may spend together.
    pub limits: Limits,
}

/// A key, without its secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyDocument {
    /// Its name in records and messages.
    pub id: Arc<str>,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// SHA-256 of the key in hexadecimal digits.
    pub sha256: String,
    /// What it may do.
    pub role: Role,
    /// First second at which it no longer works, since the epoch.
    pub expires_s: Option<i64>,
    /// Whether an operator took it back.
    pub revoked: bool,
    /// Models that it may use.
    pub models: Vec<String>,
    /// Endpoints that it may use, by their path below `/v1/`.
    pub endpoints: Vec<String>,
    /// Sites that may serve it.
    pub sites: Vec<String>,
    /// What its requests may spend.
    pub limits: Limits,
}

impl From<&tenancy::Tenant> for TenantDocument {
    fn from(tenant: &tenancy::Tenant) -> Self {
        Self {
            id: tenant.id.as_str().into(),
            countries: tenant.countries.clone(),
            sites: tenant.sites.clone(),
            purposes: tenant.purposes.clone(),
            models: tenant.models.clone(),
            experimental: tenant.experimental,
            retention_days: tenant.retention_days,
            high_risk: tenant.high_risk,
            pool: (!tenant.pool.is_empty()).then(|| tenant.pool.clone()),
            limits: limits(&tenant.rates),
        }
    }
}

impl From<&tenancy::ApiKey> for KeyDocument {
    fn from(key: &tenancy::ApiKey) -> Self {
        Self {
            id: key.id.as_str().into(),
            tenant: key.tenant.as_str().into(),
            sha256: key.sha256.clone(),
            role: match key.role {
                tenancy::Role::Member => Role::Member,
                tenancy::Role::Manager => Role::Manager,
                tenancy::Role::Operator => Role::Operator,
            },
            expires_s: key.expires_s,
            revoked: false,
            models: key.models.clone(),
            endpoints: key.endpoints.clone(),
            sites: key.sites.clone(),
            limits: limits(&key.rates),
        }
    }
}
