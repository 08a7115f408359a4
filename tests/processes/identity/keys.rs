//! Accepted keys (secrets, PEM, JWKS) and the errors for other contents.

use jsonwebtoken::Algorithm;
use rollcall::auth::keys::{Error, KeySet};
use serde_json::json;
use testkit::issuer::{Issuer, RSA_1024_PUBLIC_PEM, RSA_PEM, RSA_PUBLIC_PEM, SECP256K1_PUBLIC_PEM};

fn refused(contents: impl AsRef<[u8]>) -> Error {
    KeySet::of_file(contents.as_ref()).expect_err("the key set is invalid")
}

#[test]
fn a_secret_supports_the_hashes_it_is_long_enough_for() {
    use Algorithm::{HS256, HS384, HS512};
    for (length, algorithms) in
        [(32, vec![HS256]), (47, vec![HS256]), (48, vec![HS256, HS384]), (64, vec![HS256, HS384, HS512])]
    {
        for end in ["", "\n", "\r\n"] {
            let keys = KeySet::of_file(format!("{}{end}", "x".repeat(length)).as_bytes()).unwrap();
            assert_eq!(keys.algorithms(), algorithms, "{length} {end:?}");
        }
    }
    assert!(KeySet::of_file(&[0xff; 32]).is_ok(), "a secret may be binary");
    for (short, length) in [("", 0), ("\n", 0), ("hunter2\n", 7), ("0123456789abcdef0123456789abcde\n", 31)] {
        assert_eq!(refused(short), Error::SecretTooShort(length));
    }
}

#[test]
fn a_public_key_or_known_text_is_not_taken_as_a_secret() {
    let ec = Issuer::es256();
    let body = |pem: &str| pem.lines().filter(|line| !line.starts_with("-----")).collect::<Vec<_>>().join("\n");
    let set = json!({"keys": [ec.jwk("a")]}).to_string();
    for public in [
        set,
        body(RSA_PUBLIC_PEM),
        body(ec.public_pem()),
        body(Issuer::es384().public_pem()),
        body(Issuer::ed25519().public_pem()),
        format!("ssh-ed25519 {}", "A".repeat(68)),
    ] {
        assert_eq!(refused(&public), Error::NoSecret, "{public}");
    }
    assert_eq!(refused([&[0x30, 0x82, 0x01, 0x22][..], &[7; 290]].concat()), Error::NoSecret);
}

#[test]
fn a_pem_that_is_not_a_public_key_is_refused_by_its_kind() {
    let certificate = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap().cert.pem();
    assert_eq!(refused(RSA_PEM), Error::Private);
    assert_eq!(refused(format!("{RSA_PUBLIC_PEM}{RSA_PEM}")), Error::Private);
    assert_eq!(refused(certificate), Error::Certificate);
    assert_eq!(refused(format!("{RSA_PUBLIC_PEM}{}", Issuer::es256().public_pem())), Error::Several);
    let cut = RSA_PUBLIC_PEM.replace("IDAQAB", "");
    for unfit in [
        RSA_1024_PUBLIC_PEM,
        SECP256K1_PUBLIC_PEM,
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        "-----BEGIN ",
        &cut,
    ] {
        assert_eq!(refused(unfit), Error::Unsupported, "{unfit}");
    }
    for error in [Error::Private, Error::Certificate, Error::Several, Error::Unsupported, Error::NoSecret] {
        assert_eq!(error.to_string().lines().count(), 1);
    }
}

#[test]
fn only_usable_public_keys_of_a_set_are_taken() {
    let (rsa, ec, ed) = (Issuer::rsa("RS256"), Issuer::es256(), Issuer::ed25519());
    let with = |mut jwk: serde_json::Value, key: &str, value: serde_json::Value| {
        jwk[key] = value;
        jwk
    };
    let secret = json!({"kty": "oct", "kid": "s", "k": "A".repeat(64)});
    let unusable = [
        secret,
        with(ec.jwk("e"), "use", json!("enc")),
        with(ec.jwk("e"), "key_ops", json!(["sign"])),
        with(ec.jwk("e"), "alg", json!("RS256")),
        with(ec.jwk("e"), "alg", json!("HS256")),
        with(ec.jwk("e"), "crv", json!("secp256k1")),
        with(ec.jwk("e"), "crv", json!("P-384")),
        with(ec.jwk("e"), "x", json!("AAAA")),
        with(ed.jwk("o"), "crv", json!("X25519")),
        with(ed.jwk("o"), "x", json!("AAAA")),
        with(rsa.jwk("r"), "n", json!("AQAB")),
        json!({"kty": "RSA"}),
        json!("a key"),
        json!(null),
    ];
    for jwk in &unusable {
        assert_eq!(
            KeySet::of_jwks(json!({"keys": [jwk]}).to_string().as_bytes()).err(),
            Some(Error::NoneUsable),
            "{jwk}"
        );
    }
    let mut all = unusable.to_vec();
    all.extend([ed.jwk("o"), with(rsa.jwk("r"), "alg", json!("RS512"))]);
    let keys = KeySet::of_jwks(json!({"keys": all, "more": 1}).to_string().as_bytes()).unwrap();
    assert_eq!(keys.algorithms(), [Algorithm::EdDSA, Algorithm::RS512]);
    for nothing in ["", "[]", "{}", "null", r#"{"keys":{}}"#, "<html>", "\u{0}"] {
        assert_eq!(KeySet::of_jwks(nothing.as_bytes()).err(), Some(Error::NotASet), "{nothing}");
    }
}
