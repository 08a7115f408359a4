//! The log: an authorized caller changes its levels at run time, and every JSON line is one object.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Map, Value};
use tempfile::TempDir;
use testkit::process::{Process, rollcall, serve};
use testkit::programs::run;
use testkit::{signals, until};

const TOKEN: &str = "AAAA-hunter2-AAAA";
const CALLED: &str = "called the roll";

/// Runs `rollcall log`, and returns whether it succeeded, and its one line.
async fn log(admin: SocketAddr, tokens: Option<&Path>, levels: &[&str]) -> (bool, String) {
    let mut command = rollcall();
    command.args(["log", "--admin", &admin.to_string()]).args(levels);
    // The level in the environment configures a node. The command must not read it as a requested change.
    command.env("ROLLCALL_LOG", "debug");
    if let Some(tokens) = tokens {
        command.env("ROLLCALL_ADMIN_TOKEN_FILE", tokens);
    }
    let (well, said) = tokio::task::spawn_blocking(move || run(&mut command)).await.unwrap();
    assert_eq!(said.matches('\n').count(), 1, "the output is one line: {said}");
    (well, said.trim_end().to_owned())
}

#[tokio::test]
async fn log_levels_are_read_and_changed_with_a_token() {
    let folder = TempDir::new().unwrap();
    let (tokens, wrong) = (folder.path().join("tokens"), folder.path().join("wrong"));
    fs::write(&tokens, format!("ops: {TOKEN}\n")).unwrap();
    fs::write(&wrong, "ops: BBBB-hunter2-BBBB\n").unwrap();
    let mut command = serve();
    command.args(["--identity", "query", "--admin-token-file"]).arg(&tokens);
    let node = Process::launch(&mut command);
    node.is_ready().await;
    let told = |line: &str| (true, line.to_owned());
    assert_eq!(log(node.admin, Some(&tokens), &[]).await, told("info"));
    assert_eq!(node.ask("/a/users").await.status(), 200);

    for (tokens, why) in [(None, "requires a token"), (Some(wrong.as_path()), "invalid token")] {
        for levels in [&[][..], &["debug"]] {
            let (well, said) = log(node.admin, tokens, levels).await;
            assert!(!well && said.contains(why), "{said}");
        }
    }
    for nonsense in ["inof", "", "rollcall=loud", "info,,", &"a=debug,".repeat(1000)] {
        let (well, said) = log(node.admin, Some(&tokens), &[nonsense]).await;
        assert!(!well && said.len() < 400, "{nonsense}: {said}");
        assert_eq!(log(node.admin, Some(&tokens), &[]).await, told("info"), "nothing has changed");
    }
    let url = format!("http://{}/_/log", node.admin);
    let put = |body: Vec<u8>| reqwest::Client::new().put(&url).bearer_auth(TOKEN).body(body).send();
    for senseless in [vec![b'a'; 100 << 10], vec![0xff, 0xfe], b"inof".to_vec()] {
        let refused = put(senseless).await.unwrap();
        assert_eq!(refused.status().as_u16(), 400);
        assert_eq!(refused.headers()["content-type"], "application/problem+json");
    }
    let denied = reqwest::Client::new().delete(&url).bearer_auth(TOKEN).send().await.unwrap();
    assert_eq!(denied.status().as_u16(), 405);
    assert_eq!(denied.headers()["allow"].to_str().unwrap(), "GET,HEAD,PUT");
    assert!(!node.log().contains(CALLED), "nothing has changed");

    let levels = "info,rollcall::roll_call=debug";
    assert_eq!(log(node.admin, Some(&tokens), &[levels]).await, told(levels));
    assert_eq!(log(node.admin, Some(&tokens), &[]).await, told(levels));
    assert_eq!(node.ask("/a/users").await.status(), 200);
    until("the node logs roll calls", || async { node.log().contains(CALLED) }).await;
    let changed = node
        .log()
        .lines()
        .find(|line| line.contains("changed the log levels"))
        .expect("the node logs the change")
        .to_owned();
    assert!(changed.contains("by=ops") && changed.contains(levels), "{changed}");
    assert_eq!(log(node.admin, Some(&tokens), &["off"]).await, told("off"));
    let before = node.log();
    assert_eq!(node.ask("/a/users").await.status(), 200);
    assert_eq!(log(node.admin, Some(&tokens), &["info"]).await, told("info"));
    until("the node logs the second change", || async { node.log().len() > before.len() }).await;
    assert_eq!(node.log().matches(CALLED).count(), before.matches(CALLED).count());
    assert!(!node.log().contains("hunter2"));
}

#[tokio::test]
async fn without_tokens_log_levels_are_readable_locally_only() {
    let mut command = serve();
    command.args(["--identity", "query", "--log", "warn,rollcall=info"]);
    let node = Process::launch(&mut command);
    assert_eq!(log(node.admin, None, &[]).await, (true, "warn,rollcall=info".to_owned()));
    let (well, said) = log(node.admin, None, &["debug"]).await;
    assert!(!well && said.contains("--admin-token-file"), "{said}");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (well, said) = log(nobody, None, &[]).await;
    assert!(!well && said.contains("cannot be reached"), "{said}");
}

#[tokio::test]
async fn every_json_log_line_is_one_object() {
    let mut command: Command = serve();
    command.args(["--identity", "query", "--log", "debug", "--drain", "1s"]).env("ROLLCALL_LOG_FORMAT", "json");
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut parsed: Vec<Map<String, Value>> = Vec::new();
    let starting = loop {
        let line = lines.next().unwrap().unwrap();
        parsed.push(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")));
        let last = parsed.last().unwrap();
        if last["message"] == "starting" {
            break last.clone();
        }
    };
    let reading = std::thread::spawn(move || lines.map(Result::unwrap).collect::<Vec<_>>());
    let public = starting["listen"].as_str().unwrap();
    let url = format!("http://{public}/a%22%1b%5B31m%0Ab%7D/users");
    let asking = || async { reqwest::get(&url).await.is_ok_and(|answer| answer.status() == 400) };
    until("the node answers", asking).await;
    let url = format!("http://{public}/caf%C3%A9%22%7D%7B/users");
    let request = || reqwest::Client::new().get(&url).header("x-request-id", "find-me").send();
    until("the roll call succeeds", || async { request().await.is_ok_and(|answer| answer.status() == 200) }).await;
    signals::terminate(&child);
    let rest = reading.join().unwrap();
    child.wait().unwrap();
    parsed.extend(rest.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))));
    for line in &parsed {
        for name in ["timestamp", "level", "target", "message"] {
            assert!(line[name].is_string(), "{line:?}");
        }
        assert!(
            line.values().all(|value| !value.is_object() && !value.is_array()),
            "every field is a scalar: {line:?}"
        );
    }
    let called = parsed.iter().find(|line| line["message"] == CALLED).expect("the log has the roll call");
    assert_eq!(called["request_id"], "find-me");
    assert_eq!(called["room"], "caf\u{e9}\"}{");
    assert_eq!(called["complete"], true);
    assert_eq!(called["rows"], 0);
    assert_eq!(parsed.last().unwrap()["message"], "stopped");
}
