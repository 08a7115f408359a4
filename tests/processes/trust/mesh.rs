//! The closed mesh: members answer each other. A node outside the mesh gets no rows, appears in answers with a reason,
//! and causes one log line.

use std::fs;

use rollcall::mesh::proto::LookupSocketsRequest;
use testkit::client::Client;
use testkit::pki::{Authority, Folder, Issued, Time};
use testkit::process::{Process, ServeCommand, complete};
use testkit::redis_server::RedisServer;
use testkit::{mesh_client, until};
use tonic::{Code, Request};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const OTHER_TOKEN: &str = "fedcba9876543210fedcba9876543210";

fn here(authority: &Authority) -> Issued {
    authority.issue("127.0.0.1", Time::Now)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_with_one_ca_and_token_answer_and_forward_polls() {
    let redis = RedisServer::start_aged().await;
    let (authority, folders) = (Authority::new("mesh"), [(); 2].map(|()| Folder::new()));
    let start = |name, folder: &Folder| {
        let token = folder.write("token", TOKEN);
        let more = ["--transports", "websocket,polling", "--mesh-token-file", &token];
        ServeCommand::named(name)
            .redis(&redis)
            .with(&folder.mesh(&authority.pem, &here(&authority)))
            .with(&more)
            .ready()
    };
    let (one, other) = tokio::join!(start("one", &folders[0]), start("other", &folders[1]));
    let client = Client::connect(one.public, "foo", &["a"]).await.unwrap();
    for node in [&one, &other] {
        assert_eq!(node.roll("a").await, complete(&[&client.id]), "{}", node.name);
    }
    // One node has the polling session, and every request of the session arrives at the other node.
    let http = reqwest::Client::new();
    let url = |node: &Process, sid: &str| {
        format!("http://{}/socket.io/?EIO=4&transport=polling&id_user=bar&room=b{sid}", node.public)
    };
    let opened = http.get(url(&one, "")).send().await.unwrap().text().await.unwrap();
    let opened: serde_json::Value = serde_json::from_str(opened.strip_prefix('0').unwrap()).unwrap();
    let url = url(&other, &format!("&sid={}", opened["sid"].as_str().unwrap()));
    assert_eq!(http.post(&url).body("40").send().await.unwrap().text().await.unwrap(), "ok");
    until("the client is connected through the other node", || async {
        http.get(&url).send().await.unwrap().text().await.unwrap().contains("40{")
    })
    .await;
    assert_eq!(other.roll("b").await.sockets.len(), 1);
    for node in [&one, &other] {
        assert_eq!(node.logged("WARN"), Vec::<String>::new());
    }
}

/// Two nodes of one Redis that do not trust each other: neither gets a row of the other, and each logs it once.
async fn strangers(one: ServeCommand, other: ServeCommand, says: [&str; 2]) {
    let (one, other) = (one.ready().await, other.launch());
    let client = Client::connect(one.public, "foo", &["a"]).await.unwrap();
    until("the stranger is reported", || async {
        let roll = one.roll("a").await;
        assert_eq!(roll.sockets, [client.id.clone()].into(), "the stranger changes nothing else");
        roll.unanswered == Some("other=refused".to_owned())
    })
    .await;
    until("the stranger knows the other node, and gets no rows", || async {
        let answer = reqwest::get(format!("http://{}/a/users", other.public)).await.unwrap();
        // A node without any answer from a peer answers no roll call, not even with its own rows.
        let refused = answer.headers().get("rollcall-unanswered").is_some_and(|value| value == "one=refused");
        assert!(!answer.text().await.unwrap().contains(&client.id));
        refused
    })
    .await;
    for _ in 0..5 {
        one.roll("a").await;
    }
    for (node, says) in [(&one, says[0]), (&other, says[1])] {
        for says in says.split('|') {
            node.logs(says).await;
            assert_eq!(node.logged(says).len(), 1, "{}", node.log());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_ca_is_refused_on_both_ends() {
    let redis = RedisServer::start_aged().await;
    let folders = [(); 2].map(|()| Folder::new());
    let [one, other] = [("one", &folders[0]), ("other", &folders[1])].map(|(name, folder)| {
        let authority = Authority::new(name);
        ServeCommand::named(name).redis(&redis).with(&folder.mesh(&authority.pem, &here(&authority)))
    });
    let says = "mTLS handshake with a peer failed|rejected a mesh connection: mTLS handshake failed";
    strangers(one, other, [says, says]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_another_token_is_refused_on_both_ends() {
    let redis = RedisServer::start_aged().await;
    let folder = Folder::new();
    let [one, other] = [("one", TOKEN), ("other", OTHER_TOKEN)].map(|(name, token)| {
        ServeCommand::named(name).redis(&redis).with(&["--mesh-token-file", &folder.write(name, token)])
    });
    let says = "a peer rejected the mesh token or certificate of this node|rejected a mesh call without a valid token";
    strangers(one, other, [says, says]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_an_open_mesh_is_refused_by_a_closed_one() {
    let redis = RedisServer::start_aged().await;
    let folder = Folder::new();
    let closed = ServeCommand::named("one").redis(&redis).with(&["--mesh-token-file", &folder.write("token", TOKEN)]);
    let (closed, open) = (closed.ready().await, ServeCommand::named("other").redis(&redis).launch());
    let client = Client::connect(closed.public, "foo", &["a"]).await.unwrap();
    until("the node of the open mesh gets no rows", || async {
        let answer = reqwest::get(format!("http://{}/a/users", open.public)).await.unwrap();
        let refused = answer.headers().get("rollcall-unanswered").is_some_and(|value| value == "one=refused");
        assert!(!answer.text().await.unwrap().contains(&client.id));
        refused
    })
    .await;
    assert_eq!(closed.logged("rejected a mesh call without a valid token").len(), 1);
}

/// A node whose mesh is not configured, with this home directory.
fn unconfigured(name: &str, home: &str) -> ServeCommand {
    let command = ServeCommand::named(name).env("HOME", home);
    command.without_env("ROLLCALL_MESH_OPEN").without_env("XDG_STATE_HOME")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_one_user_share_a_token_that_others_lack() {
    let redis = RedisServer::start_aged().await;
    let home = tempfile::tempdir().unwrap();
    let start = |name| unconfigured(name, home.path().to_str().unwrap()).redis(&redis).ready();
    let (one, other) = tokio::join!(start("one"), start("other"));
    let client = Client::connect(one.public, "foo", &["a"]).await.unwrap();
    for node in [&one, &other] {
        assert_eq!(node.roll("a").await, complete(&[&client.id]), "{}", node.name);
    }
    let token = fs::read_to_string(home.path().join(".local/state/rollcall/mesh.token")).unwrap();
    let token = token.lines().last().unwrap();
    assert_eq!(token.len(), 64, "256 random bits in hexadecimal");
    let lookup = || LookupSocketsRequest { room: "a".to_owned(), ..Default::default() };
    let mut mesh = mesh_client(one.mesh);
    assert_eq!(mesh.lookup_sockets(lookup()).await.unwrap_err().code(), Code::Unauthenticated);
    let mut authorized = Request::new(lookup());
    authorized.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    assert_eq!(mesh.lookup_sockets(authorized).await.unwrap().into_inner().sockets.len(), 1);
    for node in [&one, &other] {
        assert!(!node.log().contains(token), "the log of {} has the token", node.name);
    }
}

#[test]
fn a_node_that_cannot_share_a_token_does_not_start() {
    let folder = Folder::new();
    let home = folder.write("home", "not a folder");
    for (command, says) in [
        (unconfigured("one", &home), "cannot create"),
        (unconfigured("one", "").without_env("HOME"), "neither HOME nor XDG_STATE_HOME is set"),
    ] {
        let said = command.refused();
        assert!(said.contains(says) && said.contains("--mesh-token-file FILE, or --mesh-open"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_unusable_mesh_credentials_does_not_start() {
    let folder = Folder::new();
    let (mesh, other) = (Authority::new("mesh"), Authority::new("other"));
    let good = here(&mesh);
    folder.mesh(&mesh.pem, &good);
    folder.write("short", "hunter2");
    folder.write("empty", "# no token\n");
    folder.write("expired.pem", &mesh.issue("127.0.0.1", Time::Past).certificate);
    let elsewhere = mesh.issue("node-7.internal", Time::Now);
    folder.write("elsewhere.pem", &elsewhere.certificate);
    folder.write("elsewhere.key", &elsewhere.key);
    folder.write("other.pem", &other.pem);
    folder.write("encrypted.key", &good.key.replace("BEGIN PRIVATE", "BEGIN ENCRYPTED PRIVATE"));
    let expired = mesh.issue("127.0.0.1", Time::Past);
    folder.write("expired.pem", &expired.certificate);
    folder.write("expired.key", &expired.key);
    for (files, says) in [
        (["ca.pem", "node.pem", "elsewhere.key"], "elsewhere.key is not that of the certificate in"),
        (["ca.pem", "elsewhere.pem", "elsewhere.key"], "elsewhere.pem: certificate not valid for name \"127.0.0.1\""),
        (["ca.pem", "expired.pem", "expired.key"], "expired.pem: certificate expired"),
        (["other.pem", "node.pem", "node.key"], "node.pem: UnknownIssuer"),
        (["nothing.pem", "node.pem", "node.key"], "cannot read"),
        (["ca.pem", "node.key", "node.key"], "no certificate in"),
        (["ca.pem", "node.pem", "encrypted.key"], "encrypted.key is encrypted"),
    ] {
        let [ca, certificate, key] = files.map(|file| folder.text(file));
        let flags = ["--mesh-ca", &ca, "--mesh-cert", &certificate, "--mesh-key", &key];
        let said = ServeCommand::named("one").with(&flags).refused();
        assert!(said.contains(says) && said.contains("cannot authenticate the mesh"), "{files:?}: {said}");
        assert_eq!(said.lines().filter(|line| line.contains("ERROR")).count(), 1, "{said}");
    }
    for (file, says) in [("short", "short is too short"), ("empty", "no token in"), ("nothing", "cannot read")] {
        let said = ServeCommand::named("one").with(&["--mesh-token-file", &folder.text(file)]).refused();
        assert!(said.contains(says) && !said.contains("hunter2"), "{said}");
    }
}
