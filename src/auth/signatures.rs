//! Verification of token signatures by ring.
//!
//! Owns the list of algorithms, and the adapter from `jsonwebtoken` to ring, which TLS uses as well: one implementation of
//! cryptography in the program is enough. Signs nothing.

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::signature::{Error as SignatureError, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use ring::hmac;
use ring::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};

// Global to the process: `jsonwebtoken` has one implementation of cryptography for all verifiers.
static RING_PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
    verifier_factory: |algorithm, key| Ok(Box::new(RingVerifier::new(*algorithm, key)?)),
    key_utils: KeyUtils::new_unimplemented(),
};

/// Verifies signatures of one algorithm with one key.
struct RingVerifier {
    algorithm: Algorithm,
    scheme: SignatureScheme,
    key: DecodingKey,
}

enum SignatureScheme {
    Hmac(hmac::Algorithm),
    Rsa(&'static RsaParameters),
    Curve(&'static dyn VerificationAlgorithm),
}

/// Makes `jsonwebtoken` use ring in this process. Further calls have no effect.
pub fn install() {
    // Fails if it is installed already.
    let _ = RING_PROVIDER.install_default();
}

impl RingVerifier {
    fn new(algorithm: Algorithm, key: &DecodingKey) -> Result<Self> {
        if key.family() != algorithm.family() {
            return Err(ErrorKind::InvalidAlgorithm.into());
        }
        let scheme = match algorithm {
            Algorithm::HS256 => SignatureScheme::Hmac(hmac::HMAC_SHA256),
            Algorithm::HS384 => SignatureScheme::Hmac(hmac::HMAC_SHA384),
            Algorithm::HS512 => SignatureScheme::Hmac(hmac::HMAC_SHA512),
            Algorithm::RS256 => SignatureScheme::Rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
            Algorithm::RS384 => SignatureScheme::Rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
            Algorithm::RS512 => SignatureScheme::Rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
            Algorithm::PS256 => SignatureScheme::Rsa(&signature::RSA_PSS_2048_8192_SHA256),
            Algorithm::PS384 => SignatureScheme::Rsa(&signature::RSA_PSS_2048_8192_SHA384),
            Algorithm::PS512 => SignatureScheme::Rsa(&signature::RSA_PSS_2048_8192_SHA512),
            Algorithm::ES256 => SignatureScheme::Curve(&signature::ECDSA_P256_SHA256_FIXED),
            Algorithm::ES384 => SignatureScheme::Curve(&signature::ECDSA_P384_SHA384_FIXED),
            Algorithm::EdDSA => SignatureScheme::Curve(&signature::ED25519),
            _ => return Err(ErrorKind::UnsupportedAlgorithm.into()),
        };
        Ok(Self { algorithm, scheme, key: key.clone() })
    }
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), SignatureError> {
        let checked = match (&self.scheme, self.key.kind()) {
            (SignatureScheme::Hmac(algorithm), DecodingKeyKind::SecretOrDer(secret)) => {
                hmac::verify(&hmac::Key::new(*algorithm, secret), message, signature)
            }
            (SignatureScheme::Rsa(parameters), DecodingKeyKind::RsaModulusExponent { n, e }) => {
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
            (SignatureScheme::Rsa(parameters), DecodingKeyKind::SecretOrDer(der)) => {
                UnparsedPublicKey::new(*parameters, der).verify(message, signature)
            }
            (SignatureScheme::Curve(algorithm), DecodingKeyKind::SecretOrDer(point)) => {
                UnparsedPublicKey::new(*algorithm, point).verify(message, signature)
            }
            (SignatureScheme::Hmac(_) | SignatureScheme::Curve(_), DecodingKeyKind::RsaModulusExponent { .. }) => {
                return Err(SignatureError::new());
            }
        };
        checked.map_err(|_unspecified| SignatureError::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
