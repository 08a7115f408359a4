//! The errors of the REST API: each has its status and a problem document.

use serde_json::Value;
use testkit::cluster::{Cluster, Index};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_error_is_a_problem_document() {
    let cluster = Cluster::start(1, Index::memory()).await;
    let reserved = "/socket.io%2e/users";
    assert_eq!(cluster.get(0, reserved).await.status(), 200, "a name like any other");
    for (path, status) in [
        ("/%2e%2e%2f/users", 200),
        ("/_/users", 400),
        ("/%00/users", 400),
        ("/%FF/users", 400),
        ("/a/users?deadline_ms=0", 400),
        ("/a/users?deadline_ms=5001", 400),
        ("/a/users?deadline_ms=soon", 400),
        ("/a/users?strict=perhaps", 400),
        ("/a/users/b", 404),
        ("/_/assets/nothing", 404),
    ] {
        let response = cluster.get(0, path).await;
        assert_eq!(response.status(), status, "{path}");
        if status != 200 {
            assert_eq!(response.headers()["content-type"], "application/problem+json", "{path}");
            let problem: Value = response.json().await.unwrap();
            assert_eq!(problem["status"], status);
            assert!(!problem["detail"].as_str().unwrap().is_empty() && problem["title"].is_string());
        }
    }
    let long = format!("/{}/users", "x".repeat(257));
    assert_eq!(cluster.get(0, &long).await.status(), 400);
    let client = reqwest::Client::new();
    let url = format!("http://{}/a/users", cluster.nodes[0].public);
    let posted = client.post(&url).send().await.unwrap();
    assert_eq!(posted.status(), 405);
    assert_eq!(posted.headers()["content-type"], "application/problem+json");
    assert_eq!(posted.headers()["allow"], "GET,HEAD");
    let from = |origin: &'static str| client.get(&url).header("origin", origin).send();
    let allowed = from("https://allowed.example").await.unwrap();
    assert_eq!(allowed.headers()["access-control-allow-origin"], "https://allowed.example");
    let other = from("https://other.example").await.unwrap();
    assert!(other.headers().get("access-control-allow-origin").is_none());
    cluster.stop().await;
}
