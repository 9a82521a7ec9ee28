//! People who show a token of an identity provider (OpenID Connect) in place of a key.
//!
//! A token is believed if a key that the provider publishes has signed it, with an algorithm of the config, for this
//! service and for this moment. What it then says of its bearer is looked up in the config: a role in some tenants. Tokens
//! are checked once and remembered for a minute, so that a request costs a look-up.
//!
//! Must not know tenants: whether one is there, and what it may do, is the directory's to say.

mod claims;
mod fetch;
mod key_set;
mod key_source;
mod signature;
mod token;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hansa_config::Config;
use hansa_config::schema::issuer::Issuer;

use self::claims::Mapping;
use self::fetch::Fetcher;
use self::key_source::KeySource;
use self::token::{Rules, Wrong};
use super::principal::Role;
use super::secret::KeyDigest;
use crate::limits::{NAME_BYTES_MAX, TOKEN_BYTES_MAX, TOKEN_REMEMBERED, TOKENS_REMEMBERED_MAX};
use crate::quota::charge::Moment;
use crate::tls::TlsError;

/// Whoever a token speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Stands in records where the id of a key stands otherwise: `issuer:subject`.
    pub id: Arc<str>,
    /// What the person is, by tenant, in the config's order.
    pub roles: Vec<(Arc<str>, Role)>,
    /// First second, since the epoch, at which the token no longer works.
    pub expires_s: i64,
}

/// Why a token opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It is not one that can be believed.
    Wrong,
    /// Its time is over.
    Expired,
    /// Its issuer cannot be asked for its keys at the moment.
    Away,
}

/// Why tokens of an issuer cannot be checked at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssuerError {
    /// Its authorities cannot be read.
    #[error("issuer '{id}': {error}")]
    Tls {
        /// Its id.
        id: String,
        /// What is wrong.
        error: TlsError,
    },
    /// Its URL is none.
    #[error("issuer '{id}': '{url}' is no URL of a server; write https:// and a host")]
    Url {
        /// Its id.
        id: String,
        /// The URL.
        url: String,
    },
}

/// All issuers of one server.
#[derive(Default)]
pub struct Issuers {
    all: Vec<Trusted>,
    known: Mutex<HashMap<KeyDigest, Known>>,
}

/// One issuer.
struct Trusted {
    id: String,
    rules: Rules,
    keys: KeySource,
    mapping: Mapping,
}

/// A token that was checked.
struct Known {
    person: Arc<Person>,
    until: Duration,
}

impl Issuers {
    /// Those of `config`; nothing is asked of them before the first token comes.
    ///
    /// # Errors
    /// [`IssuerError`] names the issuer.
    pub fn open(config: &Config) -> Result<Self, IssuerError> {
        signature::install();
        let all = config
            .issuers
            .iter()
            .map(|issuer| Trusted::new(issuer, config));
        Ok(Self {
            all: all.collect::<Result<_, _>>()?,
            known: Mutex::default(),
        })
    }

    /// Whether a token could be believed at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Who shows this token.
    ///
    /// # Errors
    /// [`Refused`]; the log says why, for whoever sets the issuer up.
    pub async fn identify(&self, token: &str, at: Moment) -> Result<Arc<Person>, Refused> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refused::Wrong);
        }
        let digest = KeyDigest::of(token);
        if let Some(person) = self.remembered(&digest, at.now) {
            return still_good(person, at.unix_s);
        }
        let person = self.check(token, at).await.map_err(|why| {
            tracing::info!(%why, "a token was refused");
            Refused::from(why)
        })?;
        self.remember(digest, &person, at.now);
        Ok(person)
    }

    async fn check(&self, token: &str, at: Moment) -> Result<Arc<Person>, Wrong> {
        let unproven = token::peek(token)?;
        let issuer = self
            .all
            .iter()
            .find(|found| found.rules.is_from(&unproven.issuer));
        let issuer = issuer.ok_or(Wrong::Issuer)?;
        if !issuer.rules.takes(unproven.algorithm) {
            return Err(Wrong::Algorithm);
        }
        let kid = unproven.kid.as_deref();
        let key = issuer.keys.key(kid, unproven.algorithm, at.now).await?;
        let claims = token::verify(token, &key, unproven.algorithm, &issuer.rules, at.unix_s)?;
        Ok(Arc::new(Person {
            id: person_id(&issuer.id, &claims.subject),
            roles: issuer.mapping.roles(&claims.all),
            expires_s: claims.expires_s.saturating_add(issuer.rules.leeway_s),
        }))
    }

    fn remembered(&self, digest: &KeyDigest, now: Duration) -> Option<Arc<Person>> {
        let known = self.known();
        let found = known.get(digest).filter(|found| now < found.until);
        found.map(|found| Arc::clone(&found.person))
    }

    fn remember(&self, digest: KeyDigest, person: &Arc<Person>, now: Duration) {
        let mut known = self.known();
        if known.len() >= TOKENS_REMEMBERED_MAX {
            known.retain(|_, found| now < found.until);
        }
        // Still full: each of these is checked again, which costs time and nothing else.
        if known.len() >= TOKENS_REMEMBERED_MAX {
            known.clear();
        }
        let person = Arc::clone(person);
        let until = now.saturating_add(TOKEN_REMEMBERED);
        known.insert(digest, Known { person, until });
    }

    fn known(&self) -> MutexGuard<'_, HashMap<KeyDigest, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trusted {
    fn new(issuer: &Issuer, config: &Config) -> Result<Self, IssuerError> {
        let of_it = config
            .claims
            .iter()
            .filter(|claim| claim.issuer == issuer.id);
        Ok(Self {
            id: issuer.id.clone(),
            rules: Rules::new(issuer),
            keys: KeySource::new(&issuer.id, Fetcher::new(issuer)?),
            mapping: Mapping::new(of_it),
        })
    }
}

/// Whether what a client shows as its key is in the form of a token: three parts of base64, the first a JSON object.
#[must_use]
pub fn is_token(shown: &str) -> bool {
    shown.starts_with("ey") && shown.bytes().filter(|byte| *byte == b'.').count() == 2
}

fn still_good(person: Arc<Person>, unix_s: i64) -> Result<Arc<Person>, Refused> {
    match person.expires_s > unix_s {
        true => Ok(person),
        false => Err(Refused::Expired),
    }
}

/// A subject is the issuer's to choose; one that would not do as a name is known by its digest.
fn person_id(issuer: &str, subject: &str) -> Arc<str> {
    let id = format!("{issuer}:{subject}");
    if id.len() <= NAME_BYTES_MAX && id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return id.into();
    }
    let digest = KeyDigest::of(subject).to_string();
    let (short, _) = digest.split_at(32);
    format!("{issuer}:sha256-{short}").into()
}

impl From<Wrong> for Refused {
    fn from(why: Wrong) -> Self {
        match why {
            Wrong::Expired => Self::Expired,
            Wrong::Away => Self::Away,
            _ => Self::Wrong,
        }
    }
}

impl fmt::Debug for Issuers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.all.iter().map(|issuer| &issuer.id);
        f.debug_list().entries(ids).finish()
    }
}

#[cfg(test)]
mod tests;
