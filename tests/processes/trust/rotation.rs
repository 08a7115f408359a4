//! Certificates and tokens of the mesh that change while nodes run: every answer stays complete, and revoked
//! credentials fail on new and on open connections.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rollcall::mesh::answers::PeerError;
use rollcall::mesh::channel::{PeerChannel, connect_tcp};
use rollcall::mesh::proto::LookupSocketsRequest;
use rollcall::mesh::security::Security;
use testkit::caching_peer::CachingPeer;
use testkit::client::Client;
use testkit::pki::{Authority, Folder, Time};
use testkit::process::{Process, ServeCommand, complete};
use testkit::redis_server::RedisServer;
use testkit::{mesh_client, until};
use tokio::task::JoinHandle;
use tonic::Code;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const OTHER_TOKEN: &str = "fedcba9876543210fedcba9876543210";

fn lookup() -> LookupSocketsRequest {
    LookupSocketsRequest { room: "a".into(), ..Default::default() }
}

/// Calls the roll on every node in a loop, and fails if an answer is not complete or lists other sockets.
struct Asking {
    done: Arc<AtomicBool>,
    task: JoinHandle<usize>,
}

impl Asking {
    fn begin(nodes: &Arc<[Process; 2]>, client: &Client) -> Self {
        let (done, nodes, expected) = (Arc::new(AtomicBool::new(false)), Arc::clone(nodes), complete(&[&client.id]));
        let task = tokio::spawn({
            let done = Arc::clone(&done);
            async move {
                let mut answers = 0;
                while !done.load(Ordering::Relaxed) {
                    for node in nodes.iter() {
                        assert_eq!(node.roll("a").await, expected, "{}:\n{}", node.name, node.log());
                        answers += 1;
                    }
                }
                answers
            }
        });
        Self { done, task }
    }

    async fn end(self) {
        self.done.store(true, Ordering::Relaxed);
        assert!(self.task.await.unwrap() > 10);
    }
}

async fn read_again(nodes: &[Process; 2], times: usize) {
    for node in nodes {
        until(&format!("{} has read its files {times} times", node.name), || async {
            node.logged("reloaded files; using the new version").len() >= times
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_ca_replaces_the_old_without_an_incomplete_answer() {
    let redis = RedisServer::start_aged().await;
    let (old, new, folders) = (Authority::new("old"), Authority::new("new"), [(); 2].map(|()| Folder::new()));
    let start = |name, folder: &Folder| {
        ServeCommand::named(name).redis(&redis).with(&folder.mesh(&old.pem, &old.issue("127.0.0.1", Time::Now))).ready()
    };
    let (one, other) = tokio::join!(start("one", &folders[0]), start("other", &folders[1]));
    let nodes = Arc::new([one, other]);
    let client = Client::connect(nodes[0].public, "foo", &["a"]).await.unwrap();
    // A thief has a certificate of the old CA, and keeps a connection open.
    let thief = Folder::new();
    thief.mesh(&old.pem, &old.issue("127.0.0.1", Time::Now));
    let mesh = nodes[0].mesh.to_string();
    let mut stolen =
        PeerChannel::secured(&mesh.as_str().into(), connect_tcp, thief.security("127.0.0.1:1")).unwrap().client();
    assert_eq!(stolen.lookup_sockets(lookup()).await.unwrap().into_inner().sockets.len(), 1);

    let patient = CachingPeer::of(nodes[0].mesh, "a", thief.security("127.0.0.1:1")).await;
    patient.revalidate_repeatedly().await;

    let asking = Asking::begin(&nodes, &client);
    // The order of docs/SECURITY.md: both CAs, then the new certificates, then only the new CA.
    for folder in &folders {
        folder.write("ca.pem", &format!("{}{}", old.pem, new.pem));
    }
    read_again(&nodes, 1).await;
    for folder in &folders {
        let issued = new.issue("127.0.0.1", Time::Now);
        // A reload between the two writes finds a key that does not match, and the node keeps the previous version.
        folder.write("node.key", &issued.key);
        folder.write("node.pem", &issued.certificate);
    }
    read_again(&nodes, 2).await;
    assert_eq!(
        stolen.lookup_sockets(lookup()).await.unwrap().into_inner().sockets.len(),
        1,
        "the old certificate is valid until the old CA is removed"
    );
    for folder in &folders {
        folder.write("ca.pem", &new.pem);
    }
    read_again(&nodes, 3).await;
    let refused = stolen.lookup_sockets(lookup()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "the open connection is refused");
    assert_eq!(patient.revalidate().await, Err(PeerError::Refused), "the open stream is refused");
    let mut again =
        PeerChannel::secured(&mesh.as_str().into(), connect_tcp, thief.security("127.0.0.1:1")).unwrap().client();
    assert!(again.lookup_sockets(lookup()).await.is_err(), "a new connection is refused");
    asking.end().await;
    assert_eq!(nodes[0].logged("rejected a mesh call without a valid certificate").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_token_replaces_the_old_without_an_incomplete_answer() {
    let redis = RedisServer::start_aged().await;
    let folders = [(); 2].map(|()| Folder::new());
    let start = |name, folder: &Folder| {
        ServeCommand::named(name).redis(&redis).with(&["--mesh-token-file", &folder.write("token", TOKEN)]).ready()
    };
    let (one, other) = tokio::join!(start("one", &folders[0]), start("other", &folders[1]));
    let nodes = Arc::new([one, other]);
    let client = Client::connect(nodes[0].public, "foo", &["a"]).await.unwrap();
    let told = async |token: &str| {
        let mut request = tonic::Request::new(lookup());
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        mesh_client(nodes[1].mesh).lookup_sockets(request).await.map_err(|status| status.code()).map(drop)
    };
    assert_eq!(told(TOKEN).await, Ok(()));
    assert_eq!(told(OTHER_TOKEN).await, Err(Code::Unauthenticated));
    let (stolen, thief) = (folders[1].path("token"), Folder::new());
    fs::copy(stolen, thief.path("token")).unwrap();
    let _other_client = Client::connect(nodes[1].public, "bar", &["b"]).await.unwrap();
    let patient =
        CachingPeer::of(nodes[1].mesh, "b", Security::open(None, Some(thief.path("token")), None).unwrap()).await;
    patient.revalidate_repeatedly().await;
    let asking = Asking::begin(&nodes, &client);
    for (times, tokens) in [
        (1, format!("{TOKEN}\n{OTHER_TOKEN}\n")),
        (2, format!("{OTHER_TOKEN}\n{TOKEN}\n")),
        (3, OTHER_TOKEN.to_owned()),
    ] {
        for folder in &folders {
            folder.write("token", &tokens);
        }
        read_again(&nodes, times).await;
    }
    assert_eq!(told(TOKEN).await, Err(Code::Unauthenticated));
    assert_eq!(told(OTHER_TOKEN).await, Ok(()));
    assert_eq!(patient.revalidate().await, Err(PeerError::Refused), "the open stream is refused");
    asking.end().await;
    let refusals = nodes[0].logged("rejected a mesh call");
    assert_eq!(refusals.len(), 0, "the calling node uses its new token from then on: {refusals:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_files_leave_the_previous_version_in_use() {
    let redis = RedisServer::start_aged().await;
    let (authority, folders) = (Authority::new("mesh"), [(); 2].map(|()| Folder::new()));
    let start = |name, folder: &Folder| {
        let flags = folder.mesh(&authority.pem, &authority.issue("127.0.0.1", Time::Now));
        ServeCommand::named(name)
            .redis(&redis)
            .with(&flags)
            .with(&["--mesh-token-file", &folder.write("token", TOKEN)])
            .ready()
    };
    let (one, other) = tokio::join!(start("one", &folders[0]), start("other", &folders[1]));
    let nodes = Arc::new([one, other]);
    let client = Client::connect(nodes[0].public, "foo", &["a"]).await.unwrap();
    let asking = Asking::begin(&nodes, &client);
    let foreign = Authority::new("foreign");
    for (file, contents, says) in [
        ("ca.pem", foreign.pem.clone(), "would not accept"),
        ("ca.pem", "garbage".to_owned(), "no certificate in"),
        ("node.pem", authority.issue("127.0.0.1", Time::Past).certificate, "no certificate in"),
        ("token", "hunter2".to_owned(), "too short"),
    ] {
        for folder in &folders {
            folder.write(file, &contents);
        }
        for node in nodes.iter() {
            node.logs(says).await;
        }
    }
    for node in nodes.iter() {
        assert!(node.logged("keeping the previous version").len() >= 3, "{}", node.log());
        assert!(!node.log().contains("hunter2"));
        assert_eq!(node.logged("reloaded files").len(), 0, "{}", node.log());
    }
    asking.end().await;
}
