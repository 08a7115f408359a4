//! `rollcall certs`: nodes accept the certificates that it creates, and it replaces no file without `--force`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use testkit::client::Client;
use testkit::pki::Folder;
use testkit::process::{ServeCommand, complete, rollcall};
use testkit::redis_server::RedisServer;

/// Runs `rollcall` to its end.
fn run(arguments: &[&str]) -> std::process::Output {
    rollcall().args(arguments).output().unwrap()
}

fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_with_generated_certificates_trust_each_other() {
    let (redis, folder) = (RedisServer::start_aged().await, Folder::new());
    let out = folder.text("certs");
    // The peers reach one node by its address, and the other node by its host name.
    let mut nodes = Vec::new();
    for (name, names) in [("one", "127.0.0.1"), ("other", "localhost,127.0.0.2")] {
        let output = run(&["certs", "--out", &out, names]);
        assert!(output.status.success(), "{}", said(&output));
        let said = String::from_utf8(output.stdout).unwrap();
        // The test uses the printed flags word by word.
        let line = said.lines().find(|line| line.starts_with("for ")).unwrap();
        let flags: Vec<&str> = line.split_once(": ").unwrap().1.split(' ').collect();
        assert_eq!(said.contains("created a CA"), nodes.is_empty(), "only the first run creates a CA");
        nodes.push(ServeCommand::named(name).redis(&redis).with(&flags));
    }
    let mut nodes = nodes.into_iter();
    let one = nodes.next().unwrap().ready().await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let reached = [format!("--mesh-advertise=localhost:{port}")];
    let other = nodes.next().unwrap().with(&reached).mesh_on(port).ready().await;
    let client = Client::connect(other.public, "foo", &["a"]).await.unwrap();
    for node in [&one, &other] {
        assert_eq!(node.roll("a").await, complete(&[&client.id]), "{}", node.name);
    }
}

#[test]
fn generated_keys_are_private_and_no_file_is_overwritten() {
    let folder = Folder::new();
    let out = folder.path("certs");
    let make = |arguments: &[&str]| run(&[&["certs", "--out", out.to_str().unwrap()], arguments].concat());
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    assert!(make(&["node-1.internal", "::1"]).status.success());
    let mut names: Vec<_> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["::1.key", "::1.pem", "ca.key", "ca.pem", "node-1.internal.key", "node-1.internal.pem"]);
    for name in names.iter().map(|name| name.to_str().unwrap()).filter(|name| name.ends_with(".key")) {
        assert_eq!(fs::metadata(out.join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    let before = (read("ca.pem"), read("ca.key"), read("node-1.internal.key"));
    // One of the two certificates exists: the command writes neither.
    let refused = make(&["node-2.internal", "node-1.internal"]);
    assert!(!refused.status.success() && said(&refused).contains("node-1.internal.pem exists already; --force"));
    assert!(!out.join("node-2.internal.pem").exists());
    assert!(make(&["--force", "node-1.internal"]).status.success());
    assert_eq!(read("ca.pem"), before.0);
    assert_eq!(read("ca.key"), before.1);
    assert_ne!(read("node-1.internal.key"), before.2);
    for (names, says) in [
        ("../evil", "neither a host name"),
        ("ca", "must not be `ca`"),
        ("", "neither a host name"),
        ("a,b c", "\"b c\""),
    ] {
        let refused = make(&[names]);
        assert_eq!(refused.status.code(), Some(2));
        assert!(said(&refused).contains(says) && said(&refused).lines().count() == 1, "{}", said(&refused));
    }
    fs::remove_file(out.join("ca.key")).unwrap();
    let refused = make(&["node-3.internal"]);
    assert!(!refused.status.success() && said(&refused).contains("is missing"), "{}", said(&refused));
    assert_eq!(read("ca.pem"), before.0);
    // A CA key that does not match the CA certificate is an error.
    let other = folder.path("other");
    assert!(run(&["certs", "--out", other.to_str().unwrap(), "x"]).status.success());
    fs::copy(other.join("ca.key"), out.join("ca.key")).unwrap();
    let refused = make(&["node-3.internal"]);
    assert!(!refused.status.success() && said(&refused).contains("the CA cannot be used"), "{}", said(&refused));
    assert!(!out.join("node-3.internal.pem").exists());
}
