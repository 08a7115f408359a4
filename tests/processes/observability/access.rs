//! Access to the admin port, for each listen address, each path and each kind of credential.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use reqwest::{Client, Method, Response, header};
use serde_json::Value;
use tempfile::TempDir;
use testkit::process::{Process, serve};
use testkit::until;

const TOKEN: &str = "AAAA-hunter2-AAAA";
const OTHER: &str = "BBBB-hunter2-BBBB";

/// A node whose admin port listens at `listen`.
fn node(listen: &str, tokens: Option<&Path>) -> Process {
    let mut command = serve();
    command.args(["--identity", "query", "--admin-listen", listen, "--log", "debug"]);
    if let Some(tokens) = tokens {
        command.arg("--admin-token-file").arg(tokens);
    }
    Process::launch(&mut command)
}

/// The address that a test connects to, also for a node that listens on every address.
fn dialled(node: &Process) -> SocketAddr {
    let mut address = node.admin;
    if address.ip().is_unspecified() {
        address.set_ip([127, 0, 0, 1].into());
    }
    address
}

async fn asked(node: &Process, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = Client::new().request(method, format!("http://{}{path}", dialled(node)));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

/// Requests an unknown path under `/_/`. Only an authorized caller gets a 404.
async fn answer(node: &Process, method: Method, headers: &[(&str, &str)]) -> (u16, String) {
    let response = asked(node, method, "/_/nothing", headers).await;
    let status = response.status().as_u16();
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    assert_eq!(response.headers().contains_key(header::WWW_AUTHENTICATE), status == 401);
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["status"], status);
    (status, problem["detail"].as_str().unwrap().to_owned())
}

const IN: u16 = 404;
const BEARER: (&str, &str) = ("authorization", "Bearer AAAA-hunter2-AAAA");
const WRONG: (&str, &str) = ("authorization", "Bearer AAAA-hunter2-AAAB");

/// Probes and metrics answer every caller, whatever its headers are.
async fn is_open(node: &Process) {
    for path in ["/livez", "/metrics"] {
        for headers in [&[][..], &[("host", "evil.example")], &[WRONG], &[("origin", "http://evil.example")]] {
            assert_eq!(asked(node, Method::GET, path, headers).await.status(), 200, "{path} {headers:?}");
        }
    }
    let denied = asked(node, Method::POST, "/livez", &[]).await;
    assert_eq!(denied.status().as_u16(), 405);
    assert_eq!(denied.headers()[header::ALLOW].to_str().unwrap(), "GET,HEAD");
}

#[tokio::test]
async fn without_tokens_only_local_reads_are_allowed() {
    for listen in ["127.0.0.1:0", "127.0.0.2:0", "[::1]:0"] {
        let node = node(listen, None);
        is_open(&node).await;
        let (own, port) = (format!("http://{}", node.admin), node.admin.port());
        let localhost = format!("LocalHost:{port}");
        for headers in
            [&[][..], &[("host", localhost.as_str())], &[("host", "[::1]")], &[("origin", own.as_str())], &[WRONG]]
        {
            assert_eq!(answer(&node, Method::GET, headers).await.0, IN, "{listen} {headers:?}");
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0", "10.0.0.1", ""] {
            let (status, detail) = answer(&node, Method::GET, &[("host", host)]).await;
            assert!(status == 403 && detail.contains("--admin-token-file"), "{host}: {status} {detail}");
        }
        for origin in ["http://evil.example", "http://localhost:1", "null", "file://", ""] {
            let (status, detail) = answer(&node, Method::GET, &[("origin", origin)]).await;
            assert!(status == 403 && detail.contains("another origin"), "{origin}: {status} {detail}");
        }
        for method in [Method::PUT, Method::POST, Method::DELETE, Method::OPTIONS, Method::PATCH] {
            let (status, detail) = answer(&node, method.clone(), &[BEARER]).await;
            assert!(status == 403 && detail.contains("--admin-token-file"), "{method}: {status} {detail}");
        }
    }
}

#[tokio::test]
async fn without_tokens_a_public_port_serves_probes_and_metrics_only() {
    let node = node("0.0.0.0:0", None);
    is_open(&node).await;
    for method in [Method::GET, Method::PUT] {
        for headers in [&[][..], &[("host", "localhost")], &[BEARER]] {
            let (status, detail) = answer(&node, method.clone(), headers).await;
            assert!(status == 403 && detail.contains("--admin-token-file"), "{headers:?}: {status} {detail}");
        }
    }
}

#[tokio::test]
async fn with_tokens_every_admin_route_requires_one() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tokens");
    fs::write(&file, format!("# operators\nops: {TOKEN}\nfriend: {OTHER}\n")).unwrap();
    for listen in ["127.0.0.1:0", "0.0.0.0:0"] {
        let node = node(listen, Some(&file));
        is_open(&node).await;
        let own = format!("http://{}", dialled(&node));
        for method in [Method::GET, Method::PUT] {
            assert_eq!(answer(&node, method.clone(), &[]).await.0, 401);
            assert_eq!(answer(&node, method.clone(), &[WRONG]).await.0, 401);
            assert_eq!(answer(&node, method.clone(), &[("authorization", "Basic b3BzOmh1bnRlcjI=")]).await.0, 401);
            assert_eq!(answer(&node, method.clone(), &[BEARER]).await.0, IN);
            assert_eq!(answer(&node, method.clone(), &[BEARER, ("host", "node-1.internal")]).await.0, IN);
            assert_eq!(answer(&node, method.clone(), &[BEARER, ("origin", &own)]).await.0, IN);
            let (status, detail) = answer(&node, method, &[BEARER, ("origin", "http://evil.example")]).await;
            assert!(status == 403 && detail.contains("another origin"), "{status} {detail}");
        }
        let in_query = asked(&node, Method::GET, &format!("/_/nothing?token={TOKEN}"), &[]).await;
        assert_eq!(in_query.status(), 401, "a token in the query is refused, since proxies log queries");
        assert!(!node.log().contains("hunter2"), "the node logs no token");
    }
}

#[tokio::test]
async fn a_token_removed_from_the_file_is_rejected() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tokens");
    fs::write(&file, format!("ops: {TOKEN}\n")).unwrap();
    let node = node("127.0.0.1:0", Some(&file));
    assert_eq!(answer(&node, Method::GET, &[BEARER]).await.0, IN);
    fs::write(&file, format!("ops: {OTHER}\n")).unwrap();
    until("the node refuses the old token", || async { answer(&node, Method::GET, &[BEARER]).await.0 == 401 }).await;
    let new = ("authorization", "Bearer BBBB-hunter2-BBBB");
    assert_eq!(answer(&node, Method::GET, &[new]).await.0, IN);
}
