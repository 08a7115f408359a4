//! API access to roll calls: each access mode with every kind of credential that a caller can present.

use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Method, Response};
use rollcall::auth::reload::Reloadable;
use rollcall::auth::tokens::NamedTokens;
use rollcall::auth::verifier::TokenRules;
use rollcall::auth::{AccessPolicy, ApiAuth, IdentityMode};
use rollcall::edge::socketio::SocketIoConfig;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::cluster::{Cluster, Index};
use testkit::issuer::{Issuer, claims, from_now, verifier};
use testkit::until;

const SECRET: &[u8; 32] = b"0123456789abcdef0123456789abcdef";
const ONE: &str = "one-token-of-the-dashboard";
const OTHER: &str = "another/token+of~the.billing==";
const ROUTES: [&str; 2] = ["users", "rollcall"];

async fn cluster(access: AccessPolicy) -> Cluster {
    Cluster::admitting(1, Index::memory(), SocketIoConfig::default(), access).await
}

async fn by_jwt() -> Cluster {
    let verifier = verifier(SECRET, TokenRules::default());
    let identity = IdentityMode::Jwt { verifier: verifier.clone(), grace: Duration::ZERO };
    cluster(AccessPolicy { identity, callers: ApiAuth::Jwt(verifier) }).await
}

fn token(more: &Value) -> String {
    Issuer::secret("HS256", SECRET).token(&claims(more))
}

async fn call(cluster: &Cluster, path: &str, authorization: Option<&str>) -> Response {
    let mut request = cluster.http.get(format!("http://{}{path}", cluster.nodes[0].public));
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    request.send().await.unwrap()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).map_or("", |value| value.to_str().unwrap())
}

/// Checks the cache headers of a problem, and returns its status, its challenge and its members.
async fn problem(response: Response) -> (u16, String, Value) {
    let headers = response.headers().clone();
    let status = response.status().as_u16();
    assert_eq!(header(&headers, "content-type"), "application/problem+json");
    assert_eq!(header(&headers, "cache-control"), "no-store");
    assert_eq!(header(&headers, "vary"), "authorization");
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["status"], status);
    (status, header(&headers, "www-authenticate").to_owned(), problem)
}

async fn is_refused(cluster: &Cluster, path: &str, authorization: Option<&str>, status: u16, challenge: &str) {
    let (refused, said, problem) = problem(call(cluster, path, authorization).await).await;
    assert_eq!(refused, status, "{path} {authorization:?}: {problem}");
    assert_eq!(said.as_str(), challenge, "{path} {authorization:?}: {problem}");
}

const UNKNOWN: &str = "Bearer realm=\"rollcall\"";
const INVALID: &str = "Bearer realm=\"rollcall\", error=\"invalid_token\"";
const INSUFFICIENT: &str = "Bearer realm=\"rollcall\", error=\"insufficient_scope\"";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_access_ignores_tokens() {
    let cluster = cluster(AccessPolicy::default()).await;
    for route in ROUTES {
        for authorization in [None, Some("Bearer nonsense"), Some("Basic Zm9vOmJhcg==")] {
            let response = call(&cluster, &format!("/Maths/{route}"), authorization).await;
            assert_eq!(response.status(), 200, "{route} {authorization:?}");
            assert!(!header(response.headers(), "vary").contains("authorization"));
            assert_eq!(header(response.headers(), "cache-control"), "no-cache");
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_configured_token_may_call_the_roll_of_every_room() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tokens");
    std::fs::write(&file, format!("dashboard: {ONE}\nbilling: {OTHER}\n")).unwrap();
    let named = Reloadable::open(vec![file.clone()], |contents| Ok(NamedTokens::parse(&contents[0])?)).unwrap();
    let cluster = cluster(AccessPolicy { identity: IdentityMode::Query, callers: ApiAuth::Named(named) }).await;
    for route in ROUTES {
        let path = format!("/Maths/{route}");
        for token in [ONE, OTHER] {
            let response = call(&cluster, &path, Some(&format!("Bearer {token}"))).await;
            assert_eq!(response.status(), 200, "{path} {token}");
            assert_eq!(header(response.headers(), "cache-control"), "private, no-cache");
            assert_eq!(header(response.headers(), "vary"), "authorization");
        }
        for none in [None, Some("Basic Zm9vOmJhcg=="), Some(ONE), Some("Bearer")] {
            is_refused(&cluster, &path, none, 401, UNKNOWN).await;
        }
        for wrong in ["x", &ONE[1..], &format!("{ONE}x"), &ONE.to_uppercase(), "dashboard", &token(&json!({}))] {
            is_refused(&cluster, &path, Some(&format!("Bearer {wrong}")), 401, INVALID).await;
        }
        is_refused(&cluster, &format!("{path}?access_token={ONE}&token={ONE}"), None, 401, UNKNOWN).await;
    }
    // Authorization comes before validation, so that an unknown caller learns nothing about rooms or parameters.
    for path in ["/_/users", "/Maths/users?deadline_ms=never", "/%FF/users"] {
        is_refused(&cluster, path, None, 401, UNKNOWN).await;
        assert_eq!(call(&cluster, path, Some(&format!("Bearer {ONE}"))).await.status(), 400, "{path}");
    }
    // The page and its assets show no user, so they need no token.
    for path in ["/", "/Maths", "/_/assets/style.css"] {
        assert_eq!(call(&cluster, path, None).await.status(), 200, "{path}");
    }
    // An invalid token file changes nothing. A valid one adds its new tokens and revokes the tokens that it lacks.
    std::fs::write(&file, format!("dashboard: {ONE}\nbroken\n")).unwrap();
    assert_eq!(call(&cluster, "/Maths/users", Some(&format!("Bearer {OTHER}"))).await.status(), 200);
    std::fs::write(&file, format!("dashboard: {ONE}\nnew: a-new-token-of-a-caller\n")).unwrap();
    let status = async |token: &str| call(&cluster, "/Maths/users", Some(&format!("Bearer {token}"))).await.status();
    until("the new token is accepted", || async { status("a-new-token-of-a-caller").await == 200 }).await;
    assert_eq!(status(ONE).await.as_u16(), 200);
    assert_eq!(status(OTHER).await.as_u16(), 401);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_may_call_the_roll_of_its_rooms_only() {
    let cluster = by_jwt().await;
    let bearer = |more: Value| format!("Bearer {}", token(&more));
    for route in ROUTES {
        let all = bearer(json!({"roll_call": ["*"]}));
        let some = bearer(json!({"roll_call": ["Maths", "team-*"], "rooms": []}));
        for (path, authorization) in [("/Maths", &all), ("/Maths", &some), ("/team-7", &some), ("/team%2D7", &some)] {
            let response = call(&cluster, &format!("{path}/{route}"), Some(authorization)).await;
            assert_eq!(response.status(), 200, "{path}");
            assert_eq!(header(response.headers(), "cache-control"), "private, no-cache");
        }
        let path = format!("/Maths/{route}");
        let none = bearer(json!({"rooms": ["Maths"]}));
        for (path, authorization) in [
            (path.as_str(), &none),
            (&path, &bearer(json!({"roll_call": []}))),
            (&path, &bearer(json!({"roll_call": ["maths", "Mathsx*"]}))),
            (&format!("/Physics/{route}"), &some),
            (&format!("/team/{route}"), &some),
        ] {
            is_refused(&cluster, path, Some(authorization), 403, INSUFFICIENT).await;
        }
        is_refused(&cluster, &path, None, 401, UNKNOWN).await;
        for wrong in [
            bearer(json!({"roll_call": "*"})),
            bearer(json!({"roll_call": ["*"], "exp": from_now(-3600)})),
            bearer(json!({"roll_call": ["*"], "aud": "mail"})),
            format!("{all}x"),
            "Bearer a.b.c".to_owned(),
        ] {
            is_refused(&cluster, &path, Some(&wrong), 401, INVALID).await;
        }
        let (_, _, expired) = problem(call(&cluster, &path, Some(&bearer(json!({"exp": 1})))).await).await;
        assert_eq!(expired["detail"], "the token has expired; get a new one");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_304_is_sent_only_to_an_authorized_caller() {
    let cluster = by_jwt().await;
    let _seat = cluster.nodes[0].seat("socket", "foo", "Maths");
    let all = format!("Bearer {}", token(&json!({"roll_call": ["*"]})));
    let path = "/Maths/users";
    let tag = header(call(&cluster, path, Some(&all)).await.headers(), "etag").to_owned();
    assert!(!tag.is_empty());
    let held = |authorization: Option<String>| {
        let request =
            cluster.http.get(format!("http://{}{path}", cluster.nodes[0].public)).header("if-none-match", &tag);
        let request = authorization.into_iter().fold(request, |request, value| request.header("authorization", value));
        async { request.send().await.unwrap() }
    };
    let confirmed = held(Some(all)).await;
    assert_eq!(confirmed.status().as_u16(), 304);
    assert_eq!(header(confirmed.headers(), "vary"), "authorization");
    assert_eq!(held(None).await.status(), 401);
    assert_eq!(held(Some(format!("Bearer {}", token(&json!({}))))).await.status(), 403);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_an_allowed_origin_may_send_tokens_and_read_errors() {
    let cluster = by_jwt().await;
    let url = format!("http://{}/Maths/users", cluster.nodes[0].public);
    for (origin, allowed) in [("https://allowed.example", true), ("https://other.example", false)] {
        let preflight = cluster.http.request(Method::OPTIONS, &url).header("origin", origin);
        let preflight = preflight.header("access-control-request-method", "GET");
        let preflight = preflight.header("access-control-request-headers", "authorization").send().await.unwrap();
        let may = header(preflight.headers(), "access-control-allow-origin") == origin
            && header(preflight.headers(), "access-control-allow-headers").contains("authorization");
        assert_eq!(may, allowed, "{origin}");
        let refused = cluster.http.get(&url).header("origin", origin).send().await.unwrap();
        assert_eq!(refused.status(), 401);
        let vary: Vec<_> = refused.headers().get_all("vary").iter().map(|value| value.to_str().unwrap()).collect();
        assert!(vary.join(",").contains("origin") && vary.join(",").contains("authorization"), "{vary:?}");
        assert_eq!(header(refused.headers(), "access-control-allow-origin") == origin, allowed);
    }
    cluster.stop().await;
}
