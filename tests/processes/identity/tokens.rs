//! The checks of the token verifier, with valid, expired, malformed and forged tokens.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use rollcall::auth::claims::Claims;
use rollcall::auth::verifier::{LEEWAY, TokenRules, TokenVerifier};
use rollcall::auth::{AuthError, MAX_TOKEN_BYTES};
use serde_json::{Value, json};
use testkit::issuer::{Issuer, RSA_PUBLIC_PEM, claims, from_now, unsigned, verifier};

const SECRET: &[u8; 64] = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const LEEWAY_SECONDS: i64 = LEEWAY as i64;

fn issuers() -> Vec<(Issuer, Vec<u8>)> {
    let secrets = ["HS256", "HS384", "HS512"].map(|by| (Issuer::secret(by, SECRET), SECRET.to_vec()));
    let rsa = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"].map(Issuer::rsa);
    let public = rsa.into_iter().chain([Issuer::es256(), Issuer::es384(), Issuer::ed25519()]);
    let public = public.map(|issuer| {
        let pem = issuer.public_pem().as_bytes().to_vec();
        (issuer, pem)
    });
    secrets.into_iter().chain(public).collect()
}

fn hmac_pair() -> (Issuer, TokenVerifier) {
    (Issuer::secret("HS256", SECRET), verifier(SECRET, TokenRules::default()))
}

async fn invalid(verifier: &TokenVerifier, token: &str, what: &str) {
    let checked = verifier.verify(token).await;
    assert!(matches!(checked, Err(AuthError::Invalid(_))), "{what}: {checked:?}");
}

async fn accepted(verifier: &TokenVerifier, token: &str) -> Claims {
    verifier.verify(token).await.unwrap()
}

#[tokio::test]
async fn every_algorithm_is_accepted_with_its_own_key_only() {
    let issuers = issuers();
    for (key_of, key) in &issuers {
        let verifier = verifier(key, TokenRules::default());
        for (issuer, signed_with) in &issuers {
            let token = issuer.token(&claims(&json!({})));
            let what = format!("{} with the key of {}", issuer.algorithm, key_of.algorithm);
            if key == signed_with {
                assert_eq!(accepted(&verifier, &token).await.user.as_str(), "foo", "{what}");
            } else {
                invalid(&verifier, &token, &what).await;
            }
            // A head that names the algorithm of the key does not make a signature of another algorithm valid.
            if key_of.algorithm != issuer.algorithm {
                let head = json!({"alg": key_of.algorithm});
                invalid(&verifier, &issuer.with_head(&head, &claims(&json!({}))), &format!("{what}, renamed")).await;
            }
        }
    }
}

#[tokio::test]
async fn a_public_key_is_never_an_hmac_secret() {
    let ec = Issuer::es256();
    for pem in [RSA_PUBLIC_PEM, ec.public_pem()] {
        let verifier = verifier(pem, TokenRules::default());
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = BASE64_STANDARD.decode(&body).unwrap();
        for secret in [pem.as_bytes(), pem.trim_end().as_bytes(), body.as_bytes(), &der, &der[26..]] {
            for algorithm in ["HS256", "HS384", "HS512"] {
                let forged = Issuer::secret(algorithm, secret).token(&claims(&json!({})));
                invalid(&verifier, &forged, algorithm).await;
            }
        }
    }
}

#[tokio::test]
async fn a_token_without_a_signature_is_refused_in_any_form() {
    for (issuer, key) in issuers() {
        let verifier = verifier(key, TokenRules::default());
        let genuine = issuer.token(&claims(&json!({})));
        let (message, signature) = genuine.rsplit_once('.').unwrap();
        for none in ["none", "None", "NONE", "nOnE", "", " none", "null"] {
            let claimed = unsigned(&json!({"alg": none}), &claims(&json!({})));
            for forged in [format!("{claimed}."), claimed.clone(), format!("{claimed}.{signature}")] {
                invalid(&verifier, &forged, none).await;
            }
        }
        for head in [json!({}), json!({"alg": null}), json!({"alg": ["none"]}), json!({"typ": "JWT"})] {
            invalid(&verifier, &format!("{}.", unsigned(&head, &claims(&json!({})))), &head.to_string()).await;
        }
        for forged in [message.to_owned(), format!("{message}."), format!("{message}.."), format!("{genuine}.")] {
            invalid(&verifier, &forged, issuer.algorithm).await;
        }
    }
}

#[tokio::test]
async fn a_token_changed_anywhere_is_refused() {
    for (issuer, key) in [(Issuer::secret("HS256", SECRET), SECRET.to_vec()), {
        let issuer = Issuer::es256();
        let pem = issuer.public_pem().as_bytes().to_vec();
        (issuer, pem)
    }] {
        let verifier = verifier(key, TokenRules::default());
        let genuine = issuer.token(&claims(&json!({})));
        accepted(&verifier, &genuine).await;
        for place in 0..genuine.len() {
            let mut changed = genuine.clone().into_bytes();
            changed[place] ^= 1;
            let changed = String::from_utf8(changed).unwrap();
            invalid(&verifier, &changed, &format!("changed at {place}")).await;
            invalid(&verifier, &genuine[..place], &format!("cut at {place}")).await;
        }
        // The claims of one token with the signature of another token.
        let other = issuer.token(&claims(&json!({"sub": "bar"})));
        let (message, _) = other.rsplit_once('.').unwrap();
        let (_, signature) = genuine.rsplit_once('.').unwrap();
        invalid(&verifier, &format!("{message}.{signature}"), "another's signature").await;
    }
}

#[tokio::test]
async fn a_token_is_valid_in_its_time_with_some_leeway() {
    let (issuer, verifier) = hmac_pair();
    let token = |more: Value| issuer.token(&claims(&more));
    for good in [
        json!({"exp": from_now(5)}),
        json!({"exp": from_now(5 - LEEWAY_SECONDS)}),
        json!({"nbf": from_now(-5)}),
        json!({"nbf": from_now(LEEWAY_SECONDS - 5)}),
        json!({"iat": from_now(3600)}),
        json!({"exp": u64::MAX}),
    ] {
        let exp = claims(&good)["exp"].as_u64().unwrap();
        assert_eq!(accepted(&verifier, &token(good)).await.expires, exp);
    }
    for over in [from_now(-LEEWAY_SECONDS - 5), from_now(-86_400), 0] {
        assert_eq!(verifier.verify(&token(json!({"exp": over}))).await, Err(AuthError::Expired));
    }
    for wrong in [
        json!({"nbf": from_now(LEEWAY_SECONDS + 5)}),
        json!({"nbf": "soon"}),
        json!({"nbf": -1}),
        json!({"exp": from_now(60).to_string()}),
        json!({"exp": null}),
        json!({"exp": -1}),
        json!({"exp": {}}),
    ] {
        invalid(&verifier, &token(wrong.clone()), &wrong.to_string()).await;
    }
    invalid(&verifier, &issuer.token(&json!({"sub": "foo"})), "the token has no exp").await;
}

#[tokio::test]
async fn a_configured_issuer_and_audience_are_required() {
    let issuer = Issuer::secret("HS256", SECRET);
    let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    let named = TokenRules {
        issuers: texts(&["us", "them"]),
        audiences: texts(&["rollcall", "chat"]),
        ..TokenRules::default()
    };
    let strict = verifier(SECRET, named);
    let plain = verifier(SECRET, TokenRules::default());
    let token = |more: Value| issuer.token(&claims(&more));
    for good in [json!({"iss": "us", "aud": "rollcall"}), json!({"iss": "them", "aud": ["mail", "chat"]})] {
        assert_eq!(accepted(&strict, &token(good)).await.user.as_str(), "foo");
    }
    for wrong in [
        json!({}),
        json!({"iss": "us"}),
        json!({"aud": "rollcall"}),
        json!({"iss": "Us", "aud": "rollcall"}),
        json!({"iss": "us/", "aud": "rollcall"}),
        json!({"iss": "us", "aud": "rollcal"}),
        json!({"iss": "us", "aud": []}),
        json!({"iss": "us", "aud": 7}),
        json!({"iss": null, "aud": "rollcall"}),
        json!({"iss": "us", "aud": ["mail"]}),
    ] {
        invalid(&strict, &token(wrong.clone()), &wrong.to_string()).await;
    }
    assert_eq!(accepted(&plain, &token(json!({"iss": "anybody"}))).await.user.as_str(), "foo");
    for other_audience in [json!({"aud": "mail"}), json!({"aud": ["mail"]}), json!({"aud": []}), json!({"aud": 7})] {
        invalid(&plain, &token(other_audience.clone()), &other_audience.to_string()).await;
    }
}

#[tokio::test]
async fn a_token_cannot_supply_its_own_key_or_extensions() {
    let (issuer, verifier) = hmac_pair();
    let forger = Issuer::rsa("RS256");
    for more in [
        json!({"jwk": forger.jwk("own")}),
        json!({"jku": "http://127.0.0.1:1/jwks.json"}),
        json!({"x5u": "http://127.0.0.1:1/chain.pem"}),
        json!({"kid": "../../../dev/null"}),
        json!({"kid": "' OR 1=1 --"}),
    ] {
        let mut head = json!({"alg": "RS256"});
        head.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        invalid(&verifier, &forger.with_head(&head, &claims(&json!({}))), &more.to_string()).await;
        // The same header beside a genuine signature changes nothing.
        head["alg"] = json!("HS256");
        assert_eq!(accepted(&verifier, &issuer.with_head(&head, &claims(&json!({})))).await.user.as_str(), "foo");
    }
    let head = json!({"alg": "HS256", "crit": ["exp"]});
    invalid(&verifier, &issuer.with_head(&head, &claims(&json!({}))), "crit").await;
}

#[tokio::test]
async fn oversized_and_malformed_tokens_are_refused_at_once() {
    let (issuer, verifier) = hmac_pair();
    let padded = |bytes: usize| issuer.token(&claims(&json!({"pad": "x".repeat(bytes)})));
    let longest = padded(5_900);
    assert!(longest.len() > MAX_TOKEN_BYTES - 300 && longest.len() <= MAX_TOKEN_BYTES);
    accepted(&verifier, &longest).await;
    for too_long in [padded(6_200), padded(1 << 20)] {
        assert_eq!(verifier.verify(&too_long).await, Err(AuthError::Invalid("the token is too long")));
    }
    let deep = BASE64_URL_SAFE_NO_PAD.encode(format!("{{\"alg\":\"HS256\",\"x\":{}", "[".repeat(3_000)));
    for nothing in ["", ".", "..", "...", "a", "a.b.c", "a.b.c.d.e", "\u{0}", "é.é.é", "Bearer a.b.c", &deep] {
        invalid(&verifier, nothing, nothing).await;
        invalid(&verifier, &format!("{nothing}.e30."), nothing).await;
    }
    // Claims that are not a JSON object, with a valid signature.
    for claims in [json!("foo"), json!(["foo"]), json!(null), json!(7)] {
        invalid(&verifier, &issuer.token(&claims), &claims.to_string()).await;
    }
}

#[tokio::test]
async fn another_claim_can_be_the_user() {
    let issuer = Issuer::secret("HS256", SECRET);
    let verifier = verifier(SECRET, TokenRules { user_claim: "email".to_owned(), ..TokenRules::default() });
    let token = issuer.token(&claims(&json!({"email": "foo@example.org"})));
    assert_eq!(accepted(&verifier, &token).await.user.as_str(), "foo@example.org");
    invalid(&verifier, &issuer.token(&claims(&json!({}))), "the token has no email claim").await;
}
