//! All tenants and keys at one moment, and who shows which key.
//!
//! A key is found by its digest. Whoever tries keys learns nothing from the time that it takes: the digest of a wrong key
//! shares no beginning with that of a right one that its sender could choose, and the last comparison takes the same
//! time for known and unknown keys.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::document::{KeyDocument, TenantDocument};
use super::oidc::Person;
use super::principal::{AllowList, Principal, number};
use super::secret::KeyDigest;
use crate::limits::{KEY_BYTES_MAX, NAME_BYTES_MAX, NAMES_MAX};
use crate::map::Map;
use crate::quota::charge::{Account, Scope};
use crate::quota::meter::Limits;

/// The tenants and keys. There may be very many: what is equal is shared, ids above all.
#[derive(Default)]
pub struct Directory {
    tenants: BTreeMap<Arc<str>, Arc<TenantDocument>>,
    keys: BTreeMap<Arc<str>, Arc<KeyDocument>>,
    by_digest: Map<KeyDigest, Entry>,
}

struct Entry {
    expires_s: Option<i64>,
    revoked: bool,
    principal: Arc<Principal>,
}

/// Why a key does not open anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// There is none, or nobody knows it.
    Unknown,
    /// Its time is over.
    Expired,
    /// An operator took it back.
    Revoked,
    /// It is a token that nobody can check at the moment.
    Away,
    /// It is a good token of someone who has no role here, or none in the project that was named.
    NoProject,
}

/// What does not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// Two of a kind have one id.
    #[error("there are two {kind}s with the id '{id}'; give each its own")]
    Twice {
        /// What they are.
        kind: &'static str,
        /// Their id.
        id: String,
    },
    /// A key or project of nobody.
    #[error("there is no tenant '{0}'; add it first")]
    NoTenant(String),
    /// A name will not do.
    #[error(
        "'{0}' will not do as a name: 1 to {NAME_BYTES_MAX} visible ASCII characters, a tenant as `organisation` or `organisation/project`"
    )]
    Name(String),
    /// A list is too long.
    #[error("a list of '{0}' has more than {NAMES_MAX} names")]
    TooMany(String),
    /// A digest is none.
    #[error("the sha256 of key '{0}' is not 64 hexadecimal digits")]
    Digest(String),
}

impl Directory {
    /// These tenants and keys.
    ///
    /// # Errors
    /// [`DirectoryError`], where they do not fit together.
    pub fn new(
        tenants: impl IntoIterator<Item = Arc<TenantDocument>>,
        keys: impl IntoIterator<Item = Arc<KeyDocument>>,
    ) -> Result<Self, DirectoryError> {
        let mut directory = Self::default();
        for tenant in tenants {
            directory.add_tenant(tenant)?;
        }
        for id in directory.tenants.keys() {
            if let Some((organisation, _)) = id.split_once('/') {
                directory.known(organisation)?;
            }
        }
        let keys = keys.into_iter();
        directory.by_digest.reserve(keys.size_hint().0);
        for key in keys {
            directory.add_key(key)?;
        }
        Ok(directory)
    }

    /// Who shows `key` at this moment.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn authenticate(&self, key: &str, unix_s: i64) -> Result<Arc<Principal>, Denied> {
        // Nobody's key is that long; digesting it would only cost time.
        if key.len() > KEY_BYTES_MAX {
            return Err(Denied::Unknown);
        }
        let shown = KeyDigest::of(key);
        let found = self.by_digest.get_key_value(&shown);
        // One whose key is not known is compared as well, with the opposite.
        let kept = found.map_or_else(|| shown.opposite(), |(kept, _)| *kept);
        let is_it = kept.is(&shown);
        match found.filter(|_| is_it) {
            None => Err(Denied::Unknown),
            Some((_, entry)) if entry.revoked => Err(Denied::Revoked),
            Some((_, entry)) if entry.expires_s.is_some_and(|end_s| end_s <= unix_s) => {
                Err(Denied::Expired)
            }
            Some((_, entry)) => Ok(Arc::clone(&entry.principal)),
        }
    }

    /// What a person may do in the project that is named, or in the first one of theirs that there is.
    ///
    /// # Errors
    /// [`Denied::NoProject`].
    pub fn person(&self, person: &Person, project: Option<&str>) -> Result<Arc<Principal>, Denied> {
        let mut roles = person.roles.iter();
        let named = |tenant: &str| project.is_none_or(|project| project == tenant);
        let found = roles.find(|(tenant, _)| named(tenant) && self.tenants.contains_key(tenant));
        let (tenant, role) = found.ok_or(Denied::NoProject)?;
        let as_key = KeyDocument {
            id: Arc::clone(&person.id),
            tenant: Arc::clone(tenant),
            role: *role,
            ..KeyDocument::default()
        };
        let principal = self.principal(&as_key).map_err(|_gone| Denied::NoProject)?;
        Ok(Arc::new(principal))
    }

    /// Whether there is such a tenant.
    ///
    /// # Errors
    /// [`DirectoryError::NoTenant`].
    pub fn known(&self, tenant: &str) -> Result<&TenantDocument, DirectoryError> {
        let found = self.tenants.get(tenant).map(Arc::as_ref);
        found.ok_or_else(|| DirectoryError::NoTenant(tenant.to_owned()))
    }

    /// Every tenant, by id.
    pub fn tenants(&self) -> impl Iterator<Item = &TenantDocument> {
        self.tenants.values().map(Arc::as_ref)
    }

    /// Every key, by id.
    pub fn keys(&self) -> impl Iterator<Item = &KeyDocument> {
        self.keys.values().map(Arc::as_ref)
    }

    /// A key by its id.
    #[must_use]
    pub fn key(&self, id: &str) -> Option<&KeyDocument> {
        self.keys.get(id).map(Arc::as_ref)
    }

    /// The bounds of each.
    pub(super) fn scopes(&self) -> impl Iterator<Item = (Scope, Limits)> {
        let tenants = self.tenants.iter();
        let tenants = tenants.map(|(id, tenant)| (Scope::Tenant(Arc::clone(id)), tenant.limits));
        let keys = self.keys.iter();
        let keys = keys.map(|(id, key)| (Scope::Key(Arc::clone(id)), key.limits));
        tenants.chain(keys)
    }

    /// The bounds of a tenant or a key; `None` where there is none of that id.
    pub(super) fn limits(&self, scope: &Scope) -> Option<Limits> {
        match scope {
            Scope::Tenant(id) => self.tenants.get(id).map(|tenant| tenant.limits),
            Scope::Key(id) => self.keys.get(id).map(|key| key.limits),
            Scope::Model(_) | Scope::Site(_) => None,
        }
    }

    fn add_tenant(&mut self, tenant: Arc<TenantDocument>) -> Result<(), DirectoryError> {
        let id = Arc::clone(&tenant.id);
        let parts = id.split('/').count();
        if !is_name(&id) || parts > 2 || id.split('/').any(str::is_empty) {
            return Err(DirectoryError::Name(id.to_string()));
        }
        let lists = [
            &tenant.countries,
            &tenant.sites,
            &tenant.purposes,
            &tenant.models,
        ];
        check_lists(&id, &lists)?;
        let twice = DirectoryError::Twice {
            kind: "tenant",
            id: id.to_string(),
        };
        let before = self.tenants.insert(id, tenant);
        before.map_or(Ok(()), |_| Err(twice))
    }

    fn add_key(&mut self, key: Arc<KeyDocument>) -> Result<(), DirectoryError> {
        if !is_name(&key.id) {
            return Err(DirectoryError::Name(key.id.to_string()));
        }
        check_lists(&key.id, &[&key.models, &key.endpoints, &key.sites])?;
        let digest = KeyDigest::parse(&key.sha256);
        let digest = digest.ok_or_else(|| DirectoryError::Digest(key.id.to_string()))?;
        let entry = Entry {
            expires_s: key.expires_s,
            revoked: key.revoked,
            principal: Arc::new(self.principal(&key)?),
        };
        let same_key = self.by_digest.insert(digest, entry).is_some();
        let twice = DirectoryError::Twice {
            kind: "key",
            id: key.id.to_string(),
        };
        let same_id = self.keys.insert(Arc::clone(&key.id), key).is_some();
        if same_key || same_id {
            return Err(twice);
        }
        Ok(())
    }

    /// What a request with this key may do: what the key, its project and its organisation allow together.
    fn principal(&self, key: &KeyDocument) -> Result<Principal, DirectoryError> {
        let tenant = self.known(&key.tenant)?;
        let organisation = key.tenant.split('/').next().unwrap_or_default();
        let above = self.known(organisation)?;
        let list = |of: fn(&TenantDocument) -> &Vec<String>| {
            AllowList::new(of(tenant)).and(&AllowList::new(of(above)))
        };
        let project = key.tenant.contains('/').then(|| Arc::clone(&tenant.id));
        let pool = tenant.pool.as_deref();
        Ok(Principal {
            account: Arc::new(Account {
                key: Arc::clone(&key.id),
                project,
                organisation: Arc::clone(&above.id),
            }),
            role: key.role,
            models: list(|tenant| &tenant.models).and(&AllowList::new(&key.models)),
            endpoints: AllowList::new(&key.endpoints),
            sites: list(|tenant| &tenant.sites).and(&AllowList::new(&key.sites)),
            countries: list(|tenant| &tenant.countries),
            purposes: list(|tenant| &tenant.purposes),
            experimental: tenant.experimental && above.experimental,
            flow: number("flow", &key.tenant),
            pool: pool.map_or_else(
                || number("tenant", &key.tenant),
                |pool| number("pool", pool),
            ),
        })
    }
}

fn is_name(name: &str) -> bool {
    let bytes = 1..=NAME_BYTES_MAX;
    bytes.contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
}

fn check_lists(id: &str, lists: &[&Vec<String>]) -> Result<(), DirectoryError> {
    if lists.iter().any(|list| list.len() > NAMES_MAX) {
        return Err(DirectoryError::TooMany(id.to_owned()));
    }
    let mut names = lists.iter().flat_map(|list| list.iter());
    let wrong = names.find(|name| !is_name(name));
    wrong.map_or(Ok(()), |name| Err(DirectoryError::Name(name.clone())))
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory")
            .field("tenants", &self.tenants.len())
            .field("keys", &self.keys.len())
            .finish()
    }
}
