//! Signatures of tokens, checked by ring, which does the server's TLS already.
//!
//! Nothing here signs, and nothing takes a shared secret.

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::signature::{self, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use ring::signature as known;
use ring::signature::{
    RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};

/// What the crate of tokens calls.
static RING: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(unsupported()),
    verifier_factory: verifier,
    key_utils: KeyUtils {
        rsa_pub_components_from_private_key: |_| Err(unsupported()),
        rsa_pub_components_from_public_key: |_| Err(unsupported()),
        ec_pub_components_from_private_key: |_, _| Err(unsupported()),
        ed_pub_components_from_private_key: |_, _| Err(unsupported()),
        compute_digest: |_, _| Err(unsupported()),
    },
};

/// Makes ring check the signatures of this process; calling it again changes nothing.
pub(super) fn install() {
    // The one that was installed before is this one.
    let _ = RING.install_default();
}

fn unsupported() -> Error {
    ErrorKind::UnsupportedAlgorithm.into()
}

struct Checked {
    algorithm: Algorithm,
    key: DecodingKey,
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    Ok(Box::new(Checked {
        algorithm: *algorithm,
        key: key.clone(),
    }))
}

impl JwtVerifier for Checked {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl Verifier<Vec<u8>> for Checked {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let checked = match self.key.kind() {
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                let key = RsaPublicKeyComponents {
                    n: without_zeros(n),
                    e: without_zeros(e),
                };
                let rsa = rsa(self.algorithm).ok_or_else(signature::Error::new)?;
                key.verify(rsa, message, signature)
            }
            DecodingKeyKind::SecretOrDer(point) => {
                let curve = curve(self.algorithm).ok_or_else(signature::Error::new)?;
                UnparsedPublicKey::new(curve, point).verify(message, signature)
            }
        };
        checked.map_err(|_| signature::Error::new())
    }
}

/// RSA keys of 2,048 bits and more.
fn rsa(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    match algorithm {
        Algorithm::RS256 => Some(&known::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::RS384 => Some(&known::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::RS512 => Some(&known::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::PS256 => Some(&known::RSA_PSS_2048_8192_SHA256),
        Algorithm::PS384 => Some(&known::RSA_PSS_2048_8192_SHA384),
        Algorithm::PS512 => Some(&known::RSA_PSS_2048_8192_SHA512),
        _ => None,
    }
}

fn curve(algorithm: Algorithm) -> Option<&'static dyn VerificationAlgorithm> {
    match algorithm {
        Algorithm::ES256 => Some(&known::ECDSA_P256_SHA256_FIXED),
        Algorithm::ES384 => Some(&known::ECDSA_P384_SHA384_FIXED),
        Algorithm::EdDSA => Some(&known::ED25519),
        _ => None,
    }
}

/// Numbers as ring wants them; some issuers write a zero before a high bit.
fn without_zeros(number: &[u8]) -> &[u8] {
    let first = number.iter().position(|byte| *byte != 0);
    number
        .get(first.unwrap_or(number.len())..)
        .unwrap_or_default()
}
