//! Keys themselves: made of chance, shown once, kept as digests.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

/// What every key begins with, so that scanners of repositories and logs can find one that leaked.
const PREFIX: &str = "hk-";

/// A key in clear, to be shown to whoever asked for it, once. `Debug` does not show it.
pub struct Secret(String);

/// SHA-256 of a key. A key holds 244 random bits, so a fast digest is as good as a slow one: there is nothing to guess.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyDigest([u8; 32]);

impl Secret {
    /// A new one from the system's source of chance.
    #[must_use]
    pub fn new() -> Self {
        let halves = [Uuid::new_v4(), Uuid::new_v4()].map(Uuid::simple);
        Self(format!("{PREFIX}{}{}", halves[0], halves[1]))
    }

    /// In clear.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    #[must_use]
    pub fn digest(&self) -> KeyDigest {
        KeyDigest::of(&self.0)
    }
}

impl Default for Secret {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl KeyDigest {
    /// That of a key.
    #[must_use]
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// The digest that 64 hexadecimal digits stand for.
    #[must_use]
    pub fn parse(hex: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(hex.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// Whether two are the same, in a time that does not depend on where they differ.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// One that differs from it in every bit.
    pub(super) fn opposite(&self) -> Self {
        Self(self.0.map(|byte| !byte))
    }

    /// Some 64 bits of it.
    #[must_use]
    pub fn short(&self) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[..8]);
        u64::from_be_bytes(bytes)
    }
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_and_are_not_shown_by_accident() {
        let (one, other) = (Secret::new(), Secret::new());
        assert_ne!(one.reveal(), other.reveal());
        assert_eq!(one.reveal().len(), 67);
        assert!(!format!("{one:?}").contains(&one.reveal()[3..]));
    }

    #[test]
    fn a_digest_reads_back_and_nothing_else_does() {
        let digest = Secret::new().digest();
        assert_eq!(KeyDigest::parse(&digest.to_string()), Some(digest));
        let upper = digest.to_string().to_uppercase();
        assert_eq!(KeyDigest::parse(&upper), Some(digest));
        for wrong in ["", "abc", &"g".repeat(64), &"ü".repeat(32)] {
            assert_eq!(KeyDigest::parse(wrong), None, "{wrong}");
        }
        // As `printf %s abc | sha256sum` has it.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(KeyDigest::of("abc").to_string(), abc);
    }
}
