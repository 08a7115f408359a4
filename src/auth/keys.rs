//! The keys that tokens are checked with.
//!
//! Owns what is a key and what is too weak or secret to be one, and for each which algorithms it takes: the key decides
//! that, never the token. A secret takes no signatures of public keys, and a public key is nobody's secret. Pure: bytes
//! in, keys out; where they come from is [`super::verifier`]'s and [`super::jwks`]'s.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

/// The shortest secret, in bytes: as long as the shortest hash (RFC 7518, 3.2).
const MIN_SECRET_BYTES: usize = 32;
/// The shortest modulus of RSA, in bytes.
const MIN_MODULUS_BYTES: usize = 256;
/// What the public key of that length has at least when it is written as DER.
const MIN_RSA_DER_BYTES: usize = MIN_MODULUS_BYTES + 12;
/// What the line before a key begins with.
const PEM: &str = "-----BEGIN ";
/// The curves, as DER names them (RFC 5480).
const P256: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
const P384: &[u8] = b"\x06\x05\x2b\x81\x04\x00\x22";
/// What public keys begin with that are not PEM: sets, SSH's, DER, and DER in base64. Whoever mistakes one for a secret
/// lets everybody sign.
const PUBLIC_KEY_PREFIXES: [&[u8]; 8] = [b"{", b"ssh-", b"\x30\x81", b"\x30\x82", b"MII", b"MFkw", b"MHYw", b"MCow"];
/// The most keys of a set that are looked at.
const MAX_KEYS: usize = 100;

/// Why there are no keys in it. Never says what there was.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    #[error("the secret has {0} bytes, and it takes 32 at least (`openssl rand -base64 48` makes one)")]
    SecretTooShort(usize),
    #[error(
        "this looks like a public key or a set of them, which is no secret: pass a key as PEM, and a set by --jwks"
    )]
    NoSecret,
    #[error("this is a private key, which does not belong here: pass the public one (`openssl pkey -pubout`)")]
    Private,
    #[error("this is a certificate: pass its public key (`openssl x509 -noout -pubkey`)")]
    Certificate,
    #[error("there is more than one PEM block in it: pass several keys as a set, by --jwks")]
    Several,
    #[error("the PEM is no public key of RSA (2048 bits or more), P-256, P-384 or Ed25519")]
    Unsupported,
    #[error("it is not a JSON object with a list `keys`")]
    NotASet,
    #[error("none of its keys is a public key for signatures of RSA (2048 bits or more), P-256, P-384 or Ed25519")]
    NoneUsable,
}

/// Keys that tokens may be signed with.
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<VerificationKey>,
    /// Tokens name their key by `kid`.
    named: bool,
}

/// One key, and what it takes.
#[derive(Debug)]
pub struct VerificationKey {
    id: Option<String>,
    pub algorithms: Vec<Algorithm>,
    pub key: DecodingKey,
}

/// What became of the search for a token's key.
#[derive(Debug)]
pub enum KeyMatch<'a> {
    Key(&'a VerificationKey),
    /// No key has that name; a newer set may have one.
    Unknown,
    /// Nothing that a newer set would mend.
    Not(&'static str),
}

#[derive(Deserialize)]
struct JwkSetDocument {
    keys: Vec<Value>,
}

impl KeySet {
    /// The one key of a file: a public key as PEM, or else a secret.
    ///
    /// # Errors
    /// When it is not fit to be one.
    pub fn of_file(contents: &[u8]) -> Result<Self, Error> {
        let text = String::from_utf8_lossy(contents);
        let key = if text.contains(PEM) { public(&text)? } else { secret(contents.trim_ascii_end())? };
        Ok(Self { keys: vec![key], named: false })
    }

    /// The keys of a JWKS (RFC 7517). Those that cannot be used here are passed over, and shared secrets are among
    /// them: a set is public.
    ///
    /// # Errors
    /// When it is no set, or there is none that can be used.
    pub fn of_jwks(contents: &[u8]) -> Result<Self, Error> {
        let JwkSetDocument { keys } = serde_json::from_slice(contents).map_err(|_| Error::NotASet)?;
        let keys = keys.into_iter().take(MAX_KEYS).filter_map(|key| serde_json::from_value(key).ok());
        let keys: Vec<VerificationKey> = keys.filter_map(|key: Jwk| of_jwk(&key)).collect();
        if keys.is_empty() { Err(Error::NoneUsable) } else { Ok(Self { keys, named: true }) }
    }

    /// The key that a token with this head was signed with.
    pub fn find(&self, id: Option<&str>, algorithm: Algorithm) -> KeyMatch<'_> {
        let named = |key: &&VerificationKey| !self.named || id.is_none() || key.id.as_deref() == id;
        let mut candidates = self.keys.iter().filter(named).peekable();
        if id.is_none() && self.keys.len() > 1 {
            return KeyMatch::Not("it names no key, and there are several");
        }
        if candidates.peek().is_none() {
            return KeyMatch::Unknown;
        }
        let found = candidates.find(|key| key.algorithms.contains(&algorithm));
        found.map_or(KeyMatch::Not("its key takes no such signatures"), KeyMatch::Key)
    }

    /// For the log: every algorithm that is taken.
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

/// A hash wants a secret that is as long as itself.
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
        (AlgorithmFamily::Ec, 65) if names(pem, P256) => vec![Algorithm::ES256],
        (AlgorithmFamily::Ec, 97) if names(pem, P384) => vec![Algorithm::ES384],
        (AlgorithmFamily::Ed, 32) => vec![Algorithm::EdDSA],
        _ => return Err(Error::Unsupported),
    };
    Ok(VerificationKey { id: None, algorithms, key })
}

/// Whether the key in this PEM names this curve. There are others with points of the same length.
fn names(pem: &str, curve: &[u8]) -> bool {
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

/// Some sets have zeros before a number, which ring does not take.
fn whole_number(text: &str) -> Option<Vec<u8>> {
    let bytes = decoded(text)?;
    Some(bytes.into_iter().skip_while(|byte| *byte == 0).collect())
}
