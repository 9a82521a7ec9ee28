//! Who vouches for people: identity providers (OpenID Connect), and what their tokens say of projects and roles.

use std::path::PathBuf;

use super::tenancy::Role;

/// `[[issuer]]`: an identity provider whose tokens are as good as keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// Its name in claims' sections, records and messages.
    pub id: String,
    /// Its URL, as tokens name it in `iss`.
    pub url: String,
    /// What tokens must be made for: one of these stands in `aud`.
    pub audiences: Vec<String>,
    /// Algorithms of signatures that are taken.
    pub algorithms: Vec<String>,
    /// Seconds by which its clock and ours may differ.
    pub leeway_s: u32,
    /// Authorities that sign its certificate; the public ones where unset.
    pub ca_file: Option<PathBuf>,
}

/// Algorithms that may be named: those with a public key, and none that is out of use.
pub const ALGORITHMS: [&str; 9] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
];

impl Default for Issuer {
    fn default() -> Self {
        Self {
            id: String::new(),
            url: String::new(),
            audiences: Vec::new(),
            algorithms: ["RS256", "ES256"].map(str::to_owned).to_vec(),
            leeway_s: 30,
            ca_file: None,
        }
    }
}

/// `[[claim]]`: whoever shows a token of this issuer with this claim has this role in this tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claim {
    /// Id of the `[[issuer]]`.
    pub issuer: String,
    /// Name of the claim, such as `eduperson_entitlement`.
    pub claim: String,
    /// Its value, or one of its values.
    pub value: String,
    /// Id of the `[[tenant]]`.
    pub tenant: String,
    /// The role there.
    pub role: Role,
}
