//! The name of all that a sequence's tokens depend on beside its prompt, its parameters and its seed.
//!
//! Two engines of equal name give the same tokens bit for bit, so one may go on with what the other began, and only those
//! may. A name is made of what was read (weights, tokenizer, template), of the code that computes, and of what that code
//! gave on a fixed trial: so a compiler, a library or a processor that rounds otherwise changes the name though nobody
//! thought of it.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use hansa_models::fingerprint::Fingerprint;

/// What [`Numerics::unrepeatable`] begins with.
const UNREPEATABLE: &str = "unrepeatable-";

/// The name: 32 hexadecimal digits. Equal names continue each other's sequences exactly, and no others do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Numerics(Arc<str>);

impl Numerics {
    /// The name of an engine of this version that is made of `parts`, each with what it is.
    #[must_use]
    pub fn of(parts: &[(&str, &str)]) -> Self {
        let mut all = Fingerprint::default();
        all.add(env!("CARGO_PKG_VERSION").as_bytes());
        for (what, part) in parts {
            all.add(what.as_bytes());
            all.add(part.as_bytes());
        }
        Self(format!("{:032x}", all.finish()).into())
    }

    /// A name that no other engine has, nor this one after a restart: its results depend on the company of a sequence, so
    /// nobody can go on with them exactly.
    #[must_use]
    pub fn unrepeatable() -> Self {
        let chance = RandomState::new().build_hasher().finish();
        Self(format!("{UNREPEATABLE}{chance:016x}").into())
    }

    /// Whether another engine can have this name.
    #[must_use]
    pub fn is_repeatable(&self) -> bool {
        !self.0.starts_with(UNREPEATABLE)
    }

    /// As it is told to others.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Numerics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_parts_have_equal_names_and_only_those() {
        let of = |weights, kv| Numerics::of(&[("weights", weights), ("kv", kv)]);
        assert_eq!(of("a", "f16"), of("a", "f16"));
        assert_ne!(of("a", "f16"), of("b", "f16"));
        assert_ne!(of("a", "f16"), of("a", "f32"));
        assert_ne!(of("a", "f16"), Numerics::of(&[("weights", "af16")]));
        assert_eq!(of("a", "f16").as_str().len(), 32);
        assert!(of("a", "f16").is_repeatable());
    }

    #[test]
    fn what_cannot_be_repeated_equals_nothing() {
        let (one, other) = (Numerics::unrepeatable(), Numerics::unrepeatable());
        assert_ne!(one, other);
        assert!(!one.is_repeatable());
    }
}
