//! A token issuer, honest or forging: keys of every supported algorithm, their public forms, and tokens with any header.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use rollcall::auth::keys::KeySet;
use rollcall::auth::reload::Reloadable;
use rollcall::auth::verifier::{KeySource, TokenRules, TokenVerifier};
use serde_json::{Value, json};
use tempfile::TempDir;

pub const RSA_PEM: &str = include_str!("../keys/rsa.pem");
pub const RSA_PUBLIC_PEM: &str = include_str!("../keys/rsa.public.pem");
pub const RSA_1024_PUBLIC_PEM: &str = include_str!("../keys/rsa-1024.public.pem");
/// A curve that is not supported. Its points have the length of P-256 points, so that the length cannot reject it.
pub const SECP256K1_PUBLIC_PEM: &str = include_str!("../keys/secp256k1.public.pem");

/// A signing key and its algorithm.
pub struct Issuer {
    pub algorithm: &'static str,
    key: Key,
    public_pem: String,
}

enum Key {
    Secret(hmac::Key),
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// The time `seconds` from now, as seconds since 1970.
pub fn from_now(seconds: i64) -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap() + seconds
}

/// Claims of a token for user `foo` that expires in an hour. `more` adds or replaces claims.
pub fn claims(more: &Value) -> Value {
    let mut claims = json!({"sub": "foo", "exp": from_now(3600)});
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    claims
}

impl Issuer {
    pub fn secret(algorithm: &'static str, secret: &[u8]) -> Self {
        let digest = match algorithm {
            "HS256" => hmac::HMAC_SHA256,
            "HS384" => hmac::HMAC_SHA384,
            _ => hmac::HMAC_SHA512,
        };
        Self { algorithm, key: Key::Secret(hmac::Key::new(digest, secret)), public_pem: String::new() }
    }

    pub fn rsa(algorithm: &'static str) -> Self {
        let encoding: &'static dyn RsaEncoding = match algorithm {
            "RS256" => &RSA_PKCS1_SHA256,
            "RS384" => &RSA_PKCS1_SHA384,
            "RS512" => &RSA_PKCS1_SHA512,
            "PS256" => &RSA_PSS_SHA256,
            "PS384" => &RSA_PSS_SHA384,
            _ => &RSA_PSS_SHA512,
        };
        let body: String = RSA_PEM.lines().filter(|line| !line.starts_with("-----")).collect();
        let pair = RsaKeyPair::from_pkcs8(&BASE64_STANDARD.decode(body).unwrap()).unwrap();
        Self { algorithm, key: Key::Rsa(pair, encoding), public_pem: RSA_PUBLIC_PEM.to_owned() }
    }

    pub fn es256() -> Self {
        Self::ecdsa("ES256", &rcgen::PKCS_ECDSA_P256_SHA256, &ECDSA_P256_SHA256_FIXED_SIGNING)
    }

    pub fn es384() -> Self {
        Self::ecdsa("ES384", &rcgen::PKCS_ECDSA_P384_SHA384, &ECDSA_P384_SHA384_FIXED_SIGNING)
    }

    pub fn ed25519() -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let key = Key::Ed25519(Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pair.serialize_der()).unwrap());
        Self { algorithm: "EdDSA", key, public_pem: pair.public_key_pem() }
    }

    fn ecdsa(
        algorithm: &'static str,
        generated_for: &'static rcgen::SignatureAlgorithm,
        signing: &'static EcdsaSigningAlgorithm,
    ) -> Self {
        let pair = rcgen::KeyPair::generate_for(generated_for).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(signing, &pair.serialize_der(), &SystemRandom::new()).unwrap();
        Self { algorithm, key: Key::Ecdsa(key), public_pem: pair.public_key_pem() }
    }

    pub fn public_pem(&self) -> &str {
        assert!(!self.public_pem.is_empty(), "a secret has no public key");
        &self.public_pem
    }

    /// The public key as an entry of a JWKS document.
    pub fn jwk(&self, id: &str) -> Value {
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match &self.key {
            Key::Secret(_) => panic!("a JWKS document has no secrets"),
            Key::Rsa(pair, _) => {
                let public = PublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({"kty": "RSA", "n": text(&public.n), "e": text(&public.e)})
            }
            Key::Ecdsa(pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "crv": format!("P-{}", x.len() * 8), "x": text(x), "y": text(y)})
            }
            Key::Ed25519(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": text(pair.public_key().as_ref())}),
        };
        jwk["kid"] = json!(id);
        jwk
    }

    pub fn token(&self, claims: &Value) -> String {
        self.with_head(&json!({"alg": self.algorithm, "typ": "JWT"}), claims)
    }

    pub fn named_token(&self, id: &str, claims: &Value) -> String {
        self.with_head(&json!({"alg": self.algorithm, "kid": id}), claims)
    }

    /// Signs with this key, even when `alg` or `kid` of the header name another one.
    pub fn with_head(&self, head: &Value, claims: &Value) -> String {
        let text = unsigned(head, claims);
        let random = SystemRandom::new();
        let message = text.as_bytes();
        let signature = match &self.key {
            Key::Secret(key) => hmac::sign(key, message).as_ref().to_vec(),
            Key::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(*encoding, &random, message, &mut signature).unwrap();
                signature
            }
            Key::Ecdsa(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Key::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        };
        format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }
}

/// Header and claims of a token, encoded, without a signature.
pub fn unsigned(head: &Value, claims: &Value) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(head), part(claims))
}

/// A verifier that reads this key from a file.
pub fn verifier(key: impl AsRef<[u8]>, rules: TokenRules) -> TokenVerifier {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, key).unwrap();
    let keys = Reloadable::open(vec![file], |contents| Ok(KeySet::of_file(&contents[0])?)).unwrap();
    TokenVerifier::new(KeySource::File(keys), rules)
}
