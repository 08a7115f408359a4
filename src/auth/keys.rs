//! The keys that verify tokens: parsed from a file or from a JWKS.
//!
//! Owns the requirements for a key (kind, minimum length) and the algorithms that it accepts. The key decides the algorithm,
//! never the token: otherwise an attacker could sign with a public key as if it were an HMAC secret. Performs no I/O:
//! [`super::reload`] and [`super::jwks`] supply the bytes.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

/// The length of the shortest hash (RFC 7518, 3.2).
const MIN_SECRET_BYTES: usize = 32;
/// The length of an RSA modulus of 2048 bits.
const MIN_MODULUS_BYTES: usize = 256;
/// The minimum length of an RSA public key with that modulus, encoded as DER.
const MIN_RSA_DER_BYTES: usize = MIN_MODULUS_BYTES + 12;
/// The beginning of the first line of a PEM block.
const PEM: &str = "-----BEGIN ";
/// The object identifiers of the curves, encoded as DER (RFC 5480).
const P256: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
const P384: &[u8] = b"\x06\x05\x2b\x81\x04\x00\x22";
/// The reason for a token whose algorithm the key does not accept.
pub(super) const WRONG_ALGORITHM: &str = "the key does not accept the algorithm of the token";
/// The first bytes of public keys that are not PEM: JWKS, SSH, DER, and DER in base64. A public key that is used as an HMAC
/// secret would let anyone sign tokens.
const PUBLIC_KEY_PREFIXES: [&[u8]; 8] = [b"{", b"ssh-", b"\x30\x81", b"\x30\x82", b"MII", b"MFkw", b"MHYw", b"MCow"];
/// Keys of a set after this number are ignored.
const MAX_KEYS: usize = 100;

/// The reason why a file or a JWKS has no usable key. Never contains the key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    #[error("the secret has {0} bytes; it needs at least 32 (`openssl rand -base64 48` makes one)")]
    SecretTooShort(usize),
    #[error("this looks like a public key or a set of keys, not a secret: pass a key as PEM, and a set by --jwks")]
    NoSecret,
    #[error("this is a private key: pass the public key instead (`openssl pkey -pubout`)")]
    Private,
    #[error("this is a certificate: pass its public key (`openssl x509 -noout -pubkey`)")]
    Certificate,
    #[error("the file has more than one PEM block: pass several keys as a set, by --jwks")]
    Several,
    #[error("the PEM block is not a public key of RSA (2048 bits or more), P-256, P-384 or Ed25519")]
    Unsupported,
    #[error("it is not a JSON object with a list `keys`")]
    NotASet,
    #[error("none of its keys is a public key for signatures of RSA (2048 bits or more), P-256, P-384 or Ed25519")]
    NoneUsable,
}

/// The keys that verify tokens.
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<VerificationKey>,
    /// Tokens name their key by `kid`.
    named: bool,
}

/// One key, and the algorithms that it accepts.
#[derive(Debug)]
pub struct VerificationKey {
    id: Option<String>,
    pub algorithms: Vec<Algorithm>,
    pub key: DecodingKey,
}

/// The result of the search for a token's key.
#[derive(Debug)]
pub enum KeyMatch<'a> {
    Key(&'a VerificationKey),
    /// No key has this `kid`. A newer set may have one.
    Unknown,
    /// The token is invalid with any set. The text is the reason.
    Rejected(&'static str),
}

#[derive(Deserialize)]
struct JwkSetDocument {
    keys: Vec<Value>,
}

impl KeySet {
    /// The one key of a file: a public key as PEM, or otherwise a secret.
    ///
    /// # Errors
    /// When the key is unsupported or too short.
    pub fn of_file(contents: &[u8]) -> Result<Self, Error> {
        let text = String::from_utf8_lossy(contents);
        let key = if text.contains(PEM) { public(&text)? } else { secret(contents.trim_ascii_end())? };
        Ok(Self { keys: vec![key], named: false })
    }

    /// The keys of a JWKS (RFC 7517). Ignores keys that are not usable, and shared secrets, because a set is public.
    ///
    /// # Errors
    /// When it is not a JWKS, or has no usable key.
    pub fn of_jwks(contents: &[u8]) -> Result<Self, Error> {
        let JwkSetDocument { keys } = serde_json::from_slice(contents).map_err(|_| Error::NotASet)?;
        let keys = keys.into_iter().take(MAX_KEYS).filter_map(|key| serde_json::from_value(key).ok());
        let keys: Vec<VerificationKey> = keys.filter_map(|key: Jwk| of_jwk(&key)).collect();
        if keys.is_empty() { Err(Error::NoneUsable) } else { Ok(Self { keys, named: true }) }
    }

    /// The key for a token with this header.
    pub fn find(&self, id: Option<&str>, algorithm: Algorithm) -> KeyMatch<'_> {
        let named = |key: &&VerificationKey| !self.named || id.is_none() || key.id.as_deref() == id;
        let mut candidates = self.keys.iter().filter(named).peekable();
        if id.is_none() && self.keys.len() > 1 {
            return KeyMatch::Rejected("the token has no kid, and the JWKS has several keys");
        }
        if candidates.peek().is_none() {
            return KeyMatch::Unknown;
        }
        let found = candidates.find(|key| key.algorithms.contains(&algorithm));
        found.map_or(KeyMatch::Rejected(WRONG_ALGORITHM), KeyMatch::Key)
    }

    /// All algorithms that some key accepts, for the log.
    pub fn algorithms(&self) -> Vec<Algorithm> {
        let mut all = Vec::new();
        for algorithm in self.keys.iter().flat_map(|key| &key.algorithms) {
            if !all.contains(algorithm) {
                all.push(*algorithm);
            }
        }
        all
    }
}

/// An HMAC needs a secret that is at least as long as its hash (RFC 7518, 3.2).
fn secret(secret: &[u8]) -> Result<VerificationKey, Error> {
    if PUBLIC_KEY_PREFIXES.iter().any(|start| secret.trim_ascii_start().starts_with(start)) {
        return Err(Error::NoSecret);
    }
    let algorithms = match secret.len() {
        ..MIN_SECRET_BYTES => return Err(Error::SecretTooShort(secret.len())),
        MIN_SECRET_BYTES..48 => vec![Algorithm::HS256],
        48..64 => vec![Algorithm::HS256, Algorithm::HS384],
        _ => AlgorithmFamily::Hmac.algorithms().to_vec(),
    };
    Ok(VerificationKey { id: None, algorithms, key: DecodingKey::from_secret(secret) })
}

fn public(pem: &str) -> Result<VerificationKey, Error> {
    if pem.contains("PRIVATE KEY-----") {
        return Err(Error::Private);
    }
    if pem.contains("CERTIFICATE-----") {
        return Err(Error::Certificate);
    }
    if pem.matches(PEM).count() > 1 {
        return Err(Error::Several);
    }
    let readers = [DecodingKey::from_rsa_pem, DecodingKey::from_ec_pem, DecodingKey::from_ed_pem];
    let key = readers.iter().find_map(|read| read(pem.as_bytes()).ok()).ok_or(Error::Unsupported)?;
    let length = key.try_get_as_bytes().map_err(|_| Error::Unsupported)?.len();
    let algorithms = match (key.family(), length) {
        (AlgorithmFamily::Rsa, MIN_RSA_DER_BYTES..) => AlgorithmFamily::Rsa.algorithms().to_vec(),
        (AlgorithmFamily::Ec, 65) if has_curve(pem, P256) => vec![Algorithm::ES256],
        (AlgorithmFamily::Ec, 97) if has_curve(pem, P384) => vec![Algorithm::ES384],
        (AlgorithmFamily::Ed, 32) => vec![Algorithm::EdDSA],
        _ => return Err(Error::Unsupported),
    };
    Ok(VerificationKey { id: None, algorithms, key })
}

/// Whether the key in this PEM is of this curve. Its length does not prove it: other curves have points of the same length.
fn has_curve(pem: &str, curve: &[u8]) -> bool {
    let body: String = pem.lines().map(str::trim).filter(|line| !line.starts_with("-----")).collect();
    BASE64_STANDARD.decode(body).is_ok_and(|der| der.windows(curve.len()).any(|part| part == curve))
}

fn of_jwk(jwk: &Jwk) -> Option<VerificationKey> {
    let Jwk { common, algorithm } = jwk;
    let signs = common.public_key_use.as_ref().is_none_or(|r#use| *r#use == PublicKeyUse::Signature);
    let verifies = common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
    if !(signs && verifies) {
        return None;
    }
    let (key, takes) = match algorithm {
        AlgorithmParameters::RSA(rsa) => {
            let (modulus, exponent) = (whole_number(&rsa.n)?, whole_number(&rsa.e)?);
            let long_enough = modulus.len() >= MIN_MODULUS_BYTES;
            let key = DecodingKey::from_rsa_raw_components(&modulus, &exponent);
            long_enough.then_some((key, AlgorithmFamily::Rsa.algorithms()))?
        }
        AlgorithmParameters::EllipticCurve(point) => {
            let (length, takes): (_, &[Algorithm]) = match point.curve {
                EllipticCurve::P256 => (32, &[Algorithm::ES256]),
                EllipticCurve::P384 => (48, &[Algorithm::ES384]),
                _ => return None,
            };
            let fits = [&point.x, &point.y].iter().all(|part| decoded(part).is_some_and(|part| part.len() == length));
            (DecodingKey::from_ec_components(&point.x, &point.y).ok().filter(|_| fits)?, takes)
        }
        AlgorithmParameters::OctetKeyPair(point) if point.curve == EllipticCurve::Ed25519 => {
            let fits = decoded(&point.x)?.len() == 32;
            (DecodingKey::from_ed_components(&point.x).ok().filter(|_| fits)?, &[Algorithm::EdDSA][..])
        }
        _ => return None,
    };
    let algorithms = match common.key_algorithm {
        None => takes.to_vec(),
        Some(only) => vec![Algorithm::try_from(only).ok().filter(|only| takes.contains(only))?],
    };
    Some(VerificationKey { id: common.key_id.clone(), algorithms, key })
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(text).ok()
}

/// Without leading zeros: some sets have them, and ring does not accept them.
fn whole_number(text: &str) -> Option<Vec<u8>> {
    let bytes = decoded(text)?;
    Some(bytes.into_iter().skip_while(|byte| *byte == 0).collect())
}
