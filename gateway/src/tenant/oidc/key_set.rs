//! The keys that an issuer publishes (a JSON web key set), those that can prove a signature.

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use crate::limits::ISSUER_KEYS_MAX;

/// The keys of one issuer.
#[derive(Default)]
pub(super) struct KeySet {
    keys: Vec<Published>,
}

struct Published {
    kid: Option<String>,
    /// `None` where the issuer does not say: any of its family.
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

/// It is no set of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no key set, or holds more than {ISSUER_KEYS_MAX} keys")]
pub(super) struct NoKeySet;

impl KeySet {
    /// The keys of a document. What this program cannot use is left out, since an issuer may publish keys for other uses.
    pub(super) fn parse(json: &[u8]) -> Result<Self, NoKeySet> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Value>,
        }
        let document: Document = serde_json::from_slice(json).map_err(|_| NoKeySet)?;
        if document.keys.len() > ISSUER_KEYS_MAX {
            return Err(NoKeySet);
        }
        let keys = document.keys.into_iter().filter_map(Published::read);
        let keys = keys.collect();
        Ok(Self { keys })
    }

    /// The key that would prove a token of that `kid` and algorithm. A token without `kid` needs a set with one such key.
    pub(super) fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Option<&DecodingKey> {
        let mut fit = self.keys.iter().filter(|key| {
            let named = kid.is_none() || key.kid.as_deref() == kid;
            named && key.fits(algorithm)
        });
        let (first, another) = (fit.next()?, fit.next());
        another.is_none().then_some(&first.key)
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }
}

impl Published {
    fn read(value: Value) -> Option<Self> {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let algorithm = match text("alg") {
            Some(name) => Some(name.parse().ok()?),
            None => None,
        };
        let kid = text("kid").map(str::to_owned);
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        // A shared secret proves nothing: whoever reads it here could sign with it.
        let is_public = key.family() != AlgorithmFamily::Hmac;
        is_public.then_some(Self {
            kid,
            algorithm,
            key,
        })
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        let said = self.algorithm.is_none_or(|own| own == algorithm);
        said && self.key.family() == algorithm.family()
    }
}
