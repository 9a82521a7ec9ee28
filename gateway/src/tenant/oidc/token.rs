//! A token: what it says, and whether it may be believed.

use std::collections::HashSet;

use hansa_config::schema::issuer::Issuer;
use jsonwebtoken::dangerous::insecure_decode_claims;
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::{Map, Value};

/// What tokens of an issuer must be.
pub(super) struct Rules {
    issuers: HashSet<String>,
    audiences: HashSet<String>,
    algorithms: Vec<Algorithm>,
    pub(super) leeway_s: i64,
}

/// What a token says before anyone knows whether it is genuine: enough to find the key that would prove it.
pub(super) struct Unproven {
    pub(super) issuer: String,
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<String>,
}

/// What a genuine token says.
#[derive(Debug)]
pub(super) struct Claims {
    pub(super) subject: String,
    /// First second, since the epoch, at which it no longer works.
    pub(super) expires_s: i64,
    pub(super) all: Map<String, Value>,
}

/// Why a token is not believed; said in the log alone, without anything of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Wrong {
    #[error("it is no token")]
    Malformed,
    #[error("no [[issuer]] has its `iss` as url")]
    Issuer,
    #[error("its `alg` is not one of issuer.algorithms")]
    Algorithm,
    #[error("its issuer publishes no key with its `kid` for its `alg`")]
    NoKey,
    #[error("its signature is wrong")]
    Signature,
    #[error("its `aud` is none of issuer.audiences")]
    Audience,
    #[error("it lacks one of `iss`, `sub`, `aud` and `exp`, or has it in a wrong form")]
    Incomplete,
    #[error("its time is over")]
    Expired,
    #[error("its time has not come")]
    Early,
    #[error("the keys of its issuer cannot be fetched")]
    Away,
}

impl Rules {
    pub(super) fn new(issuer: &Issuer) -> Self {
        let url = issuer.url.trim_end_matches('/');
        let algorithms = issuer.algorithms.iter();
        Self {
            // Some end their name with a slash; a URL of the config never does.
            issuers: HashSet::from([url.to_owned(), format!("{url}/")]),
            audiences: issuer.audiences.iter().cloned().collect(),
            algorithms: algorithms.filter_map(|name| allowed(name)).collect(),
            leeway_s: issuer.leeway_s.into(),
        }
    }

    /// Whether a token that names this issuer is to be judged by these rules.
    pub(super) fn is_from(&self, issuer: &str) -> bool {
        self.issuers.contains(issuer)
    }

    pub(super) fn takes(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }
}

/// The algorithm of that name. What signs with a shared secret is none: a public key must never serve as one.
fn allowed(name: &str) -> Option<Algorithm> {
    let known = hansa_config::schema::issuer::ALGORITHMS.contains(&name);
    known.then(|| name.parse().ok()).flatten()
}

/// What a token says, unproven.
pub(super) fn peek(token: &str) -> Result<Unproven, Wrong> {
    #[derive(Deserialize)]
    struct Peeked {
        iss: String,
    }
    let header = decode_header(token).map_err(|error| match error.kind() {
        // `none`, and whatever else is not in the list of this program.
        ErrorKind::Json(_) | ErrorKind::UnsupportedAlgorithm => Wrong::Algorithm,
        _ => Wrong::Malformed,
    })?;
    // What must be understood, and is not by this program.
    if header.crit.is_some() {
        return Err(Wrong::Malformed);
    }
    let peeked: Peeked = insecure_decode_claims(token).map_err(|_| Wrong::Malformed)?;
    Ok(Unproven {
        issuer: peeked.iss,
        algorithm: header.alg,
        kid: header.kid,
    })
}

/// What a token says, if `key` has signed it and all that the rules ask holds at this moment.
pub(super) fn verify(
    token: &str,
    key: &DecodingKey,
    algorithm: Algorithm,
    rules: &Rules,
    unix_s: i64,
) -> Result<Claims, Wrong> {
    if !rules.takes(algorithm) {
        return Err(Wrong::Algorithm);
    }
    let mut validation = Validation::new(algorithm);
    validation.set_required_spec_claims(&["iss", "sub", "aud", "exp"]);
    validation.iss = Some(rules.issuers.clone());
    validation.aud = Some(rules.audiences.clone());
    // Judged below by the server's clock; the crate would read one of its own.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    let token =
        decode::<Map<String, Value>>(token, key, &validation).map_err(|error| why(&error))?;
    let all = token.claims;
    let expires_s = seconds(all.get("exp")).ok_or(Wrong::Incomplete)?;
    if expires_s.saturating_add(rules.leeway_s) <= unix_s {
        return Err(Wrong::Expired);
    }
    if let Some(begins) = all.get("nbf") {
        let begins_s = seconds(Some(begins)).ok_or(Wrong::Incomplete)?;
        if begins_s.saturating_sub(rules.leeway_s) > unix_s {
            return Err(Wrong::Early);
        }
    }
    let subject = all.get("sub").and_then(Value::as_str);
    let subject = subject.filter(|subject| !subject.is_empty());
    Ok(Claims {
        subject: subject.ok_or(Wrong::Incomplete)?.to_owned(),
        expires_s,
        all,
    })
}

fn why(error: &Error) -> Wrong {
    match error.kind() {
        ErrorKind::InvalidSignature => Wrong::Signature,
        ErrorKind::InvalidAudience => Wrong::Audience,
        ErrorKind::InvalidIssuer => Wrong::Issuer,
        ErrorKind::InvalidAlgorithm => Wrong::Algorithm,
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) => Wrong::Incomplete,
        _ => Wrong::Malformed,
    }
}

/// Seconds since the epoch; some write them with a fraction.
fn seconds(value: Option<&Value>) -> Option<i64> {
    let value = value?;
    let whole = value.as_i64();
    // Beyond 2^53 no fraction is left, and no token lives as long.
    whole.or_else(|| value.as_f64().filter(|s| s.abs() < 9e15).map(|s| s as i64))
}
