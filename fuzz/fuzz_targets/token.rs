//! Reads arbitrary tokens, and files of tokens or keys. No token is accepted without a valid signature, whatever its header
//! says, and no changed token either. A file is accepted as a whole, or refused with a message of one line.
#![no_main]

use std::sync::OnceLock;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures::FutureExt as _;
use libfuzzer_sys::fuzz_target;
use ring::hmac;
use rollcall::auth::AuthError;
use rollcall::auth::keys::KeySet;
use rollcall::auth::tokens::NamedTokens;
use rollcall::auth::verifier::{KeySource, TokenRules, TokenVerifier};
use rollcall::auth::reload::Reloadable;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
/// The year 3000.
const EXPIRES: u64 = 32_503_680_000;

struct Issuer {
    verifier: TokenVerifier,
    genuine: String,
}

fn issuer() -> &'static Issuer {
    static ISSUER: OnceLock<Issuer> = OnceLock::new();
    ISSUER.get_or_init(|| {
        // The key is made from the secret, not from the file.
        let make = |_: &[Vec<u8>]| Ok(KeySet::of_file(SECRET)?);
        let keys = Reloadable::open(vec!["/dev/null".into()], make).expect("a key");
        let verifier = TokenVerifier::new(KeySource::File(keys), TokenRules::default());
        let claims = format!("{{\"sub\":\"foo\",\"exp\":{EXPIRES}}}");
        Issuer { verifier, genuine: sign(br#"{"alg":"HS256"}"#, claims.as_bytes()) }
    })
}

fn sign(head: &[u8], claims: &[u8]) -> String {
    let text = format!("{}.{}", BASE64_URL_SAFE_NO_PAD.encode(head), BASE64_URL_SAFE_NO_PAD.encode(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), text.as_bytes());
    format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

fn verify(token: &str) -> Result<String, AuthError> {
    let claims = issuer().verifier.verify(token).now_or_never().expect("a key from a file needs no wait");
    claims.map(|claims| {
        assert!((1..=256).contains(&claims.user.as_str().len()));
        claims.user.to_string()
    })
}

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let genuine = &issuer().genuine;
    assert_eq!(verify(genuine).as_deref(), Ok("foo"));
    // The input alone, and in place of each part of a genuine token.
    let parts: Vec<&str> = genuine.split('.').collect();
    let encoded = BASE64_URL_SAFE_NO_PAD.encode(data);
    for forged in [
        text.to_string(),
        format!("{text}.{}.{}", parts[1], parts[2]),
        format!("{}.{text}.{}", parts[0], parts[2]),
        format!("{}.{}.{text}", parts[0], parts[1]),
        format!("{encoded}.{}.{}", parts[1], parts[2]),
        format!("{}.{encoded}.{}", parts[0], parts[2]),
        format!("{encoded}.{}.", parts[1]),
    ] {
        assert!(forged == *genuine || verify(&forged).is_err(), "{forged}");
    }
    // Signed input must not cause a panic; the result may be anything.
    let _ = verify(&sign(br#"{"alg":"HS256"}"#, data));
    let _ = verify(&sign(data, format!("{{\"sub\":\"foo\",\"exp\":{EXPIRES}}}").as_bytes()));
    // The input as a file of keys, and as a file of tokens.
    let _ = (KeySet::of_file(data), KeySet::of_jwks(data));
    match NamedTokens::parse(data) {
        Ok(tokens) => {
            for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
                let (name, token) = line.split_once([':', ' ', '\t']).expect("each line is a name and a token");
                assert_eq!(tokens.name_of(token.trim()), Some(name.trim()));
            }
            assert_eq!(tokens.name_of(""), None);
        }
        Err(error) => assert_eq!(error.to_string().lines().count(), 1),
    }
});
