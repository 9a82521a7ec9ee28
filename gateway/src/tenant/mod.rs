//! Tenants: who is asking, what they may use, and on whose account it goes.
//!
//! An organisation has projects, and both have keys. They come from the config and from the ledger, where operators set
//! them while the server runs; an id in both is refused. What a request may do is worked out when a key is added and
//! not when it is used: a [`Principal`] travels with each request that showed a key.

pub mod directory;
pub mod document;
pub mod oidc;
pub mod principal;
pub mod secret;

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use hansa_config::Config;

use self::directory::{Denied, Directory, DirectoryError};
use self::document::{KeyDocument, TenantDocument};
use self::oidc::{IssuerError, Issuers, Refused};
use self::principal::Principal;
use crate::limits::REFRESH_RETRY;
use crate::quota::Quota;
use crate::quota::allocation::Grant;
use crate::quota::charge::{Moment, Scope};
use crate::quota::ledger::{Change, Kind, LedgerError, Record};
use crate::quota::meter::Limits;
use crate::quota::retention::Term;

/// The tenants of one server. Clones share them.
#[derive(Clone)]
pub struct Tenants {
    shared: Arc<Shared>,
}

struct Shared {
    directory: ArcSwap<Directory>,
    /// Who vouches for people without keys.
    issuers: Issuers,
    /// What the config says: it cannot be changed while the server runs.
    configured: Configured,
    quota: Quota,
    /// One change at a time.
    changing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Configured {
    tenants: Vec<Arc<TenantDocument>>,
    keys: Vec<Arc<KeyDocument>>,
    allocations: Vec<Arc<str>>,
    retention_days: Option<u32>,
}

/// Why tenants cannot be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TenantError {
    /// They do not fit together.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The ledger does not take or give them.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Tokens of an issuer cannot be checked.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// It is the config's.
    #[error("the {kind} '{id}' stands in the config; change it there and start the server again")]
    Configured {
        /// What it is.
        kind: &'static str,
        /// Its id.
        id: String,
    },
    /// There is none.
    #[error("there is no {kind} '{id}'")]
    Missing {
        /// What it would be.
        kind: &'static str,
        /// Its id.
        id: String,
    },
    /// What the ledger has cannot be understood.
    #[error("the {kind} '{id}' in the ledger cannot be read: {what}")]
    Unreadable {
        /// What it is.
        kind: &'static str,
        /// Its id.
        id: String,
        /// What is wrong.
        what: String,
    },
}

impl Tenants {
    /// The tenants of `config` and of `quota`'s ledger; their bounds and allocations are put in force.
    ///
    /// # Errors
    /// [`TenantError`], where they do not fit together.
    pub fn open(config: &Config, quota: Quota) -> Result<Self, TenantError> {
        let configured = Configured {
            tenants: (config.tenants.iter())
                .map(|tenant| Arc::new(TenantDocument::from(tenant)))
                .collect(),
            keys: (config.keys.iter())
                .map(|key| Arc::new(KeyDocument::from(key)))
                .collect(),
            allocations: (config.allocations.iter())
                .map(|allocation| allocation.id.as_str().into())
                .collect(),
            retention_days: config.quota.retention_days,
        };
        let tenants = Self {
            shared: Arc::new(Shared {
                directory: ArcSwap::default(),
                issuers: Issuers::open(config)?,
                configured,
                quota,
                changing: Mutex::default(),
            }),
        };
        let directory = tenants.read(None)?;
        tenants.put(directory);
        for grant in tenants.stored::<Grant>(Kind::Allocation, None)? {
            tenants.refuse_configured(Kind::Allocation, &grant.id)?;
            tenants
                .shared
                .quota
                .with_book(|book, _| book.set_grant(grant));
        }
        Ok(tenants)
    }

    /// Reads again what operators set whenever another server has changed it, for as long as it is polled.
    pub async fn follow(self) {
        let Some(mut revisions) = self.shared.quota.ledger().revisions() else {
            return;
        };
        while revisions.changed().await.is_ok() {
            let tenants = self.clone();
            let refreshed = tokio::task::spawn_blocking(move || tenants.refresh()).await;
            if let Ok(Err(error)) = refreshed {
                tracing::error!(%error, "what operators set elsewhere cannot be read; what was known stays in force");
                revisions.mark_changed();
                tokio::time::sleep(REFRESH_RETRY).await;
            }
        }
    }

    /// Puts in force what the ledger says now. Blocks: call it off the event loop.
    ///
    /// # Errors
    /// [`TenantError`], and nothing is changed.
    pub fn refresh(&self) -> Result<(), TenantError> {
        let one_at_a_time = self.shared.changing.lock();
        let _changing = one_at_a_time.unwrap_or_else(PoisonError::into_inner);
        let directory = self.read(None)?;
        let grants = self.stored::<Grant>(Kind::Allocation, None)?;
        for grant in &grants {
            self.refuse_configured(Kind::Allocation, &grant.id)?;
        }
        self.put(directory);
        let configured = self.shared.configured.allocations.iter().cloned();
        let stored = grants.iter().map(|grant| Arc::clone(&grant.id));
        let kept: HashSet<Arc<str>> = configured.chain(stored).collect();
        self.shared.quota.with_book(|book, _| {
            let known = book
                .allocations()
                .map(|known| Arc::clone(&known.grant().id));
            let gone: Vec<Arc<str>> = known.filter(|id| !kept.contains(id)).collect();
            for id in gone {
                book.remove_grant(&id);
            }
            for grant in grants {
                book.set_grant(grant);
            }
        });
        Ok(())
    }

    /// Whether requests need a key, or a token of an issuer.
    #[must_use]
    pub fn require_keys(&self) -> bool {
        !self.shared.configured.keys.is_empty() || !self.shared.issuers.is_empty()
    }

    /// Who shows this key or token; of a person's projects the one named `project`, or the first there is.
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn identify(
        &self,
        shown: &str,
        project: Option<&str>,
        at: Moment,
    ) -> Result<Arc<Principal>, Denied> {
        let by_key = self.authenticate(shown, at.unix_s);
        let issuers = &self.shared.issuers;
        if by_key != Err(Denied::Unknown) || issuers.is_empty() || !oidc::is_token(shown) {
            return by_key;
        }
        let person = issuers.identify(shown, at).await;
        let person = person.map_err(|refused| match refused {
            Refused::Wrong => Denied::Unknown,
            Refused::Expired => Denied::Expired,
            Refused::Away => Denied::Away,
        })?;
        self.shared.directory.load().person(&person, project)
    }

    /// Who shows this key.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn authenticate(&self, key: &str, unix_s: i64) -> Result<Arc<Principal>, Denied> {
        self.shared.directory.load().authenticate(key, unix_s)
    }

    /// All there are.
    #[must_use]
    pub fn directory(&self) -> Arc<Directory> {
        self.shared.directory.load_full()
    }

    /// Whether no record ever goes by itself.
    #[must_use]
    pub fn keep_for_ever(&self) -> bool {
        let directory = self.shared.directory.load();
        let mut tenants = directory.tenants();
        let of_tenants = tenants.all(|tenant| tenant.retention_days.is_none());
        of_tenants && self.shared.configured.retention_days.is_none()
    }

    /// How long a record is kept.
    #[must_use]
    pub fn term(&self, record: &Record) -> Term {
        let directory = self.shared.directory.load();
        let find = |id: &str| directory.known(id).ok();
        let (own, above) = (find(record.tenant()), find(&record.organisation));
        let days = |tenant: Option<&TenantDocument>| tenant.and_then(|found| found.retention_days);
        let high_risk =
            |tenant: Option<&TenantDocument>| tenant.is_some_and(|found| found.high_risk);
        Term {
            days: days(own)
                .or_else(|| days(above))
                .or(self.shared.configured.retention_days),
            high_risk: high_risk(own) || high_risk(above),
        }
    }

    /// What they spend from.
    #[must_use]
    pub fn quota(&self) -> &Quota {
        &self.shared.quota
    }

    /// Makes a change safe in the ledger and then puts it in force. Blocks: call it off the event loop.
    ///
    /// # Errors
    /// [`TenantError`], and nothing is changed.
    pub fn change(&self, change: Change) -> Result<(), TenantError> {
        let one_at_a_time = self.shared.changing.lock();
        let _changing = one_at_a_time.unwrap_or_else(PoisonError::into_inner);
        self.refuse_configured(change.kind, &change.id)?;
        if change.kind == Kind::Allocation {
            return self.change_allocation(change);
        }
        let directory = self.read(Some(&change))?;
        self.shared.quota.ledger().change(change)?;
        self.put(directory);
        Ok(())
    }

    fn change_allocation(&self, change: Change) -> Result<(), TenantError> {
        let quota = &self.shared.quota;
        let grant = change.value.as_deref();
        let grant: Option<Grant> = grant
            .map(|json| parse(Kind::Allocation, &change.id, json))
            .transpose()?;
        if let Some(grant) = &grant {
            self.directory().known(&grant.tenant)?;
        }
        let id = change.id.clone();
        quota.ledger().change(change)?;
        quota.with_book(|book, _| match grant {
            Some(grant) => book.set_grant(grant),
            None => {
                book.remove_grant(&id);
            }
        });
        Ok(())
    }

    /// The directory of config and ledger, as it would be after `change`.
    fn read(&self, change: Option<&Change>) -> Result<Directory, TenantError> {
        let configured = &self.shared.configured;
        let tenants = self.stored(Kind::Tenant, change)?.into_iter().map(Arc::new);
        let keys = self.stored(Kind::Key, change)?.into_iter().map(Arc::new);
        Ok(Directory::new(
            tenants.chain(configured.tenants.iter().cloned()),
            keys.chain(configured.keys.iter().cloned()),
        )?)
    }

    fn stored<T: serde::de::DeserializeOwned>(
        &self,
        kind: Kind,
        change: Option<&Change>,
    ) -> Result<Vec<T>, TenantError> {
        let mut found = self.shared.quota.ledger().settings(kind)?;
        if let Some(change) = change.filter(|change| change.kind == kind) {
            found.retain(|(id, _)| *id != change.id);
            let value = change.value.clone();
            found.extend(value.map(|value| (change.id.clone(), value)));
        }
        let parsed = found.iter().map(|(id, json)| parse(kind, id, json));
        parsed.collect()
    }

    fn refuse_configured(&self, kind: Kind, id: &str) -> Result<(), TenantError> {
        let configured = &self.shared.configured;
        let is_configured = match kind {
            Kind::Tenant => configured.tenants.iter().any(|tenant| *tenant.id == *id),
            Kind::Key => configured.keys.iter().any(|key| *key.id == *id),
            Kind::Allocation => configured.allocations.iter().any(|found| **found == *id),
            Kind::Record => false,
        };
        if !is_configured {
            return Ok(());
        }
        let (kind, id) = (kind.name(), id.to_owned());
        Err(TenantError::Configured { kind, id })
    }

    /// Puts a directory in force. The book is told what differs and no more: requests wait for it meanwhile.
    fn put(&self, directory: Directory) {
        let before = self.directory();
        let gone = before.scopes().filter_map(|(scope, _)| {
            let is_gone = directory.limits(&scope).is_none();
            is_gone.then(|| (scope, Limits::default()))
        });
        let others = directory.scopes().filter(|(scope, limits)| {
            let known = before.limits(scope).unwrap_or_default();
            known != *limits
        });
        let changed: Vec<(Scope, Limits)> = gone.chain(others).collect();
        self.shared.quota.with_book(|book, at| {
            for (scope, limits) in changed {
                if !limits.is_empty() || book.meter(&scope).is_some() {
                    book.set_limits(scope, &limits, at.now);
                }
            }
        });
        self.shared.directory.store(Arc::new(directory));
    }
}

fn parse<T: serde::de::DeserializeOwned>(
    kind: Kind,
    id: &str,
    json: &str,
) -> Result<T, TenantError> {
    serde_json::from_str(json).map_err(|error| TenantError::Unreadable {
        kind: kind.name(),
        id: id.to_owned(),
        what: error.to_string(),
    })
}

impl fmt::Debug for Tenants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let directory = self.shared.directory.load();
        f.debug_tuple("Tenants").field(&directory).finish()
    }
}

#[cfg(test)]
mod tests;
