//! Request ids: every answer has one, and the log lines of the request contain it.

use reqwest::header::HeaderMap;
use serde_json::Value;
use testkit::process::{Process, serve};
use testkit::until;

const ID: &str = "x-request-id";

async fn asked(url: &str, headers: &[(&str, &[u8])]) -> (u16, HeaderMap, String) {
    let mut request = reqwest::Client::new().get(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = if status == 101 { String::new() } else { response.text().await.unwrap() };
    (status, headers, body)
}

fn id(headers: &HeaderMap) -> &str {
    assert_eq!(headers.get_all(ID).iter().count(), 1, "{headers:?}");
    headers[ID].to_str().unwrap()
}

#[tokio::test]
async fn every_answer_has_the_request_id_given_or_a_new_one() {
    let mut command = serve();
    command.args(["--identity", "query", "--transports", "websocket,polling"]);
    let node = Process::launch(&mut command);
    node.is_ready().await;
    let upgrade: [(&str, &[u8]); 4] = [
        ("connection", b"upgrade"),
        ("upgrade", b"websocket"),
        ("sec-websocket-version", b"13"),
        ("sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    for (port, path, status, more) in [
        (node.public, "/a/users", 200, &[][..]),
        (node.public, "/a", 200, &[]),
        (node.public, "/a/users?deadline_ms=0", 400, &[]),
        (node.public, "/a/b/c", 404, &[]),
        (node.public, "/socket.io/?EIO=4&transport=polling", 200, &[]),
        (node.public, "/socket.io/?EIO=4&transport=websocket", 101, &upgrade),
        (node.public, "/socket.io/?EIO=4&transport=polling&sid=none", 400, &[]),
        (node.admin, "/readyz", 200, &[]),
        (node.admin, "/_/log", 200, &[]),
        (node.admin, "/_/nothing", 404, &[]),
    ] {
        let url = format!("http://{port}{path}");
        let given: Vec<(&str, &[u8])> = more.iter().copied().chain([(ID, &b"Root=1-678_a.b:c"[..])]).collect();
        let (answered, headers, body) = asked(&url, &given).await;
        assert_eq!(answered, status, "{path}");
        assert_eq!(id(&headers), "Root=1-678_a.b:c", "{path}");
        let is_problem = headers.get("content-type").is_some_and(|of| of == "application/problem+json");
        if is_problem {
            let problem: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(problem["request_id"], "Root=1-678_a.b:c");
            assert_eq!(problem["status"], status);
        }
        assert!(is_problem || status < 400 || path.contains("sid="), "{path}: {headers:?}");
        let (_, headers, _) = asked(&url, more).await;
        let made = id(&headers).to_owned();
        assert!(made.len() == 16 && made.bytes().all(|byte| byte.is_ascii_hexdigit()), "{made}");
        for hostile in [&b"a b"[..], b"<b>", b"\xff\xfe", b"", &[b'a'; 129]] {
            let headers: Vec<(&str, &[u8])> = more.iter().copied().chain([(ID, hostile)]).collect();
            let (answered, headers, body) = asked(&url, &headers).await;
            assert_eq!(answered, status, "{path}");
            assert!(id(&headers).len() == 16 && id(&headers) != made, "each generated id is unique: {headers:?}");
            assert!(!body.contains("<b>"), "{body}");
        }
    }
}

#[tokio::test]
async fn a_problem_answered_to_head_has_no_body() {
    let mut command = serve();
    command.args(["--identity", "query"]);
    let node = Process::launch(&mut command);
    node.is_ready().await;
    let client = reqwest::Client::new();
    for _ in 0..3 {
        let url = format!("http://{}/a/b/c", node.public);
        let response = client.head(&url).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 404);
        assert_eq!(id(response.headers()).len(), 16);
        assert_eq!(response.text().await.unwrap(), "");
        let response = client.get(&url).send().await.unwrap();
        assert_eq!(response.json::<Value>().await.unwrap()["status"], 404);
    }
}

#[tokio::test]
async fn every_log_line_about_a_request_has_its_id() {
    let mut command = serve();
    command.args(["--identity", "query", "--log", "info,rollcall::roll_call=debug"]);
    let node = Process::launch(&mut command);
    node.is_ready().await;
    let url = format!("http://{}/a/users", node.public);
    asked(&url, &[(ID, b"the-one-i-look-for")]).await;
    let line = || node.log().lines().find(|line| line.contains("called the roll")).map(str::to_owned);
    until("the node logs the request", || async { line().is_some() }).await;
    let line = line().unwrap();
    assert!(line.ends_with(" request_id=\"the-one-i-look-for\""), "{line}");
}
