//! Whoever showed a key, with all that the request may do.

use std::sync::Arc;

use http::Extensions;
use serde::{Deserialize, Serialize};

use super::secret::KeyDigest;
use crate::quota::charge::Account;
use crate::route::residency::{self, Purpose, Rules};

/// In the extensions of every request that showed a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// On whose account the request goes.
    pub account: Arc<Account>,
    /// What the key may do beside using models.
    pub role: Role,
    /// Models that it may use.
    pub models: AllowList,
    /// Endpoints that it may use, by their path below `/v1/`.
    pub endpoints: AllowList,
    /// Sites that may serve it.
    pub sites: AllowList,
    /// Countries that may serve it, by ISO 3166 code.
    pub countries: AllowList,
    /// Purposes that it may name.
    pub purposes: AllowList,
    /// Whether experimental sites and nodes may serve it.
    pub experimental: bool,
    /// Fair-share flow of the tenant, opaque.
    pub flow: u64,
    /// Prefix-sharing pool of the tenant, opaque (I5).
    pub pool: u64,
}

impl Principal {
    /// That of a request; `None` on a server without keys.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Option<&Arc<Self>> {
        extensions.get()
    }

    /// Where its requests may be served (I4). Who may name but one purpose has it.
    #[must_use]
    pub fn rules(&self) -> Rules {
        let purpose = match self.purposes.names() {
            Some([only]) => Purpose::parse(only),
            _ => None,
        };
        Rules {
            countries: self.countries.to_rule(str::to_ascii_uppercase),
            sites: self.sites.to_rule(str::to_owned),
            experimental: self.experimental,
            purpose,
        }
    }
}

/// What a key may do beside using models; each may do what those before it may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Nothing.
    #[default]
    Member,
    /// Read its tenant's records.
    Manager,
    /// Use the admin API.
    Operator,
}

/// Names that are allowed; everything where there is no list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList(Option<Arc<[Box<str>]>>);

impl AllowList {
    /// These names, or everything where there are none.
    #[must_use]
    pub fn new(names: &[String]) -> Self {
        let list = names.iter().map(|name| name.as_str().into());
        Self((!names.is_empty()).then(|| list.collect()))
    }

    /// What both allow.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        match (&self.0, &other.0) {
            (None, _) => other.clone(),
            (_, None) => self.clone(),
            (Some(names), Some(_)) => {
                let both = names.iter().filter(|name| other.allows(name)).cloned();
                Self(Some(both.collect()))
            }
        }
    }

    /// Whether `name` is allowed. Country codes are compared without regard to case, as are all names.
    #[must_use]
    pub fn allows(&self, name: &str) -> bool {
        self.names().is_none_or(|names| {
            names
                .iter()
                .any(|allowed| allowed.eq_ignore_ascii_case(name))
        })
    }

    /// The list as routing takes it, each name as `spell` writes it. Nothing in common stays nothing.
    fn to_rule(&self, spell: impl Fn(&str) -> String) -> residency::AllowList {
        let names = self.names()?.iter();
        Some(names.map(|name| Arc::from(spell(name))).collect())
    }

    /// The names; `None` for everything.
    #[must_use]
    pub fn names(&self) -> Option<&[Box<str>]> {
        self.0.as_deref()
    }
}

/// An opaque number for `name`, equal for equal names only; `what` keeps numbers of different uses apart.
pub(super) fn number(what: &str, name: &str) -> u64 {
    KeyDigest::of(&format!("{what}:{name}")).short()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> AllowList {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        AllowList::new(&names)
    }

    #[test]
    fn routing_is_told_where_a_key_may_be_served() {
        let principal = Principal {
            account: Arc::new(Account {
                key: "k".into(),
                project: None,
                organisation: "o".into(),
            }),
            role: Role::Member,
            models: AllowList::default(),
            endpoints: AllowList::default(),
            sites: list(&["lumi"]).and(&list(&["mn5"])),
            countries: list(&["fi", "ES"]),
            purposes: list(&["research"]),
            experimental: true,
            flow: 0,
            pool: 0,
        };
        let rules = principal.rules();
        let names = |names: &[&str]| Some(names.iter().map(|name| Arc::from(*name)).collect());
        assert_eq!(
            rules,
            Rules {
                countries: names(&["FI", "ES"]),
                // No site at all, and not every one.
                sites: names(&[]),
                experimental: true,
                purpose: Some(Purpose::Research),
            }
        );
    }

    #[test]
    fn lists_only_ever_narrow() {
        let (all, some, other) = (list(&[]), list(&["a", "b"]), list(&["b", "c"]));
        assert!(all.allows("x"));
        assert!(all.and(&some).allows("a"));
        assert!(!some.and(&all).allows("c"));
        let both = some.and(&other);
        assert!(both.allows("b") && !both.allows("a") && !both.allows("c"));
        // Nothing in common allows nothing, and not everything.
        assert!(!list(&["a"]).and(&list(&["c"])).allows("a"));
    }
}
