//! The signatures of tokens, checked by ring.
//!
//! Owns which algorithms there are, and the bridge between the library that reads tokens and the cryptography that TLS
//! uses here already. Nothing is signed.

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::signature::{Error as Wrong, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use ring::hmac;
use ring::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};

static BY_RING: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
    verifier_factory: |algorithm, key| Ok(Box::new(Check::new(*algorithm, key)?)),
    key_utils: KeyUtils::new_unimplemented(),
};

/// One algorithm with one key.
struct Check {
    algorithm: Algorithm,
    by: By,
    key: DecodingKey,
}

enum By {
    Hmac(hmac::Algorithm),
    Rsa(&'static RsaParameters),
    Curve(&'static dyn VerificationAlgorithm),
}

/// Has tokens of this process checked by ring. Doing it again is fine.
pub fn install() {
    // It fails when it was done before.
    let _ = BY_RING.install_default();
}

impl Check {
    fn new(algorithm: Algorithm, key: &DecodingKey) -> Result<Self> {
        if key.family() != algorithm.family() {
            return Err(ErrorKind::InvalidAlgorithm.into());
        }
        let by = match algorithm {
            Algorithm::HS256 => By::Hmac(hmac::HMAC_SHA256),
            Algorithm::HS384 => By::Hmac(hmac::HMAC_SHA384),
            Algorithm::HS512 => By::Hmac(hmac::HMAC_SHA512),
            Algorithm::RS256 => By::Rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
            Algorithm::RS384 => By::Rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
            Algorithm::RS512 => By::Rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
            Algorithm::PS256 => By::Rsa(&signature::RSA_PSS_2048_8192_SHA256),
            Algorithm::PS384 => By::Rsa(&signature::RSA_PSS_2048_8192_SHA384),
            Algorithm::PS512 => By::Rsa(&signature::RSA_PSS_2048_8192_SHA512),
            Algorithm::ES256 => By::Curve(&signature::ECDSA_P256_SHA256_FIXED),
            Algorithm::ES384 => By::Curve(&signature::ECDSA_P384_SHA384_FIXED),
            Algorithm::EdDSA => By::Curve(&signature::ED25519),
            _ => return Err(ErrorKind::UnsupportedAlgorithm.into()),
        };
        Ok(Self { algorithm, by, key: key.clone() })
    }
}

impl Verifier<Vec<u8>> for Check {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Wrong> {
        let checked = match (&self.by, self.key.kind()) {
            (By::Hmac(algorithm), DecodingKeyKind::SecretOrDer(secret)) => {
                hmac::verify(&hmac::Key::new(*algorithm, secret), message, signature)
            }
            (By::Rsa(parameters), DecodingKeyKind::RsaModulusExponent { n, e }) => {
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
            (By::Rsa(parameters), DecodingKeyKind::SecretOrDer(der)) => {
                UnparsedPublicKey::new(*parameters, der).verify(message, signature)
            }
            (By::Curve(algorithm), DecodingKeyKind::SecretOrDer(point)) => {
                UnparsedPublicKey::new(*algorithm, point).verify(message, signature)
            }
            (By::Hmac(_) | By::Curve(_), DecodingKeyKind::RsaModulusExponent { .. }) => return Err(Wrong::new()),
        };
        checked.map_err(|_unspecified| Wrong::new())
    }
}

impl JwtVerifier for Check {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
