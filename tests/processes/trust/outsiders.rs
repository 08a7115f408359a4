//! Attacks on the mesh port: connections without valid credentials, and impostors that claim the address of a node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rollcall::mesh::channel::{PeerChannel, connect_tcp};
use rollcall::mesh::proto::polling_service_client::PollingServiceClient;
use rollcall::mesh::proto::{AnnounceRequest, ForwardRequest, KnownMember, LookupSocketsRequest, Status};
use testkit::client::Client;
use testkit::pki::{self, Authority, Folder, Time};
use testkit::process::{Process, ServeCommand};
use testkit::redis_server::RedisServer;
use testkit::{PATIENCE, mesh_client, until};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// The connection preface of an HTTP/2 client with an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn lookup() -> LookupSocketsRequest {
    LookupSocketsRequest { room: "a".into(), ..Default::default() }
}

/// Sends the HTTP/2 preface, and returns all bytes that the peer sends before it closes.
async fn heard(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Vec<u8> {
    let _ = stream.write_all(PREFACE).await;
    let mut heard = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut heard)).await.expect("the node ends the connection");
    heard
}

async fn from(source: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

async fn with_certificates(authority: &Authority, folder: &Folder) -> Process {
    ServeCommand::named("one")
        .with(&folder.mesh(&authority.pem, &authority.issue("127.0.0.1", Time::Now)))
        .ready()
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_a_mesh_certificate_is_refused_and_logged() {
    let (authority, folder) = (Authority::new("mesh"), Folder::new());
    let node = with_certificates(&authority, &folder).await;
    let expired = authority.issue("127.0.0.1", Time::Past);
    // The forged certificate comes from another CA with the same name.
    let forged = Authority::new("mesh").issue("127.0.0.1", Time::Now);
    let cases = [(None, "CertificateRequired"), (Some(&expired), "expired"), (Some(&forged), "BadSignature")];
    for ((shown, says), number) in cases.into_iter().zip(1..) {
        let source = [127, 0, 1, number];
        for _ in 0..3 {
            if let Ok(stream) = pki::connect(source, node.mesh, shown).await {
                assert_eq!(heard(stream).await, b"", "{says}");
            }
        }
        let peer = format!("client=127.0.1.{number}:");
        node.logs(&peer).await;
        let [line] = &node.logged(&peer)[..] else { panic!("{}", node.log()) };
        assert!(line.contains("rejected a mesh connection: mTLS handshake failed"), "{line}");
    }
    for _ in 0..3 {
        // A connection without TLS gets a TLS alert at most.
        assert!(heard(from([127, 0, 1, 9], node.mesh).await).await.len() < 16);
    }
    node.logs("client=127.0.1.9:").await;
    assert_eq!(node.logged("client=127.0.1.9:").len(), 1);
    let mut member = PeerChannel::secured(&node.mesh.to_string().into(), connect_tcp, folder.security("127.0.0.1:1"))
        .unwrap()
        .client();
    assert!(member.lookup_sockets(lookup()).await.is_ok(), "a client with a member certificate gets an answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_token_no_service_of_the_mesh_answers() {
    let folder = Folder::new();
    let node = ServeCommand::named("one").with(&["--mesh-token-file", &folder.write("token", TOKEN)]).ready().await;
    let _client = Client::connect(node.public, "foo", &["a"]).await.unwrap();
    let link = || PeerChannel::new(&node.mesh.to_string().into(), connect_tcp).unwrap();
    let mut mesh = mesh_client(node.mesh);
    let mut answers = vec![mesh.lookup_sockets(lookup()).await.unwrap_err()];
    answers.push(mesh.announce(AnnounceRequest::default()).await.unwrap_err());
    answers.push(PollingServiceClient::new(link()).forward(ForwardRequest::default()).await.unwrap_err());
    answers.push(HealthClient::new(link()).check(HealthCheckRequest::default()).await.unwrap_err());
    let asked = tokio_stream::iter([ServerReflectionRequest::default()]);
    answers.push(ServerReflectionClient::new(link()).server_reflection_info(asked).await.unwrap_err());
    for given in ["Bearer fedcba9876543210fedcba9876543210", "Bearer ", TOKEN, "Basic eDp5"] {
        let mut request = tonic::Request::new(lookup());
        request.metadata_mut().insert("authorization", given.parse().unwrap());
        answers.push(mesh.lookup_sockets(request).await.unwrap_err());
    }
    for status in answers {
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
        assert!(!status.message().contains(TOKEN));
    }
    let mut request = tonic::Request::new(lookup());
    request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    assert_eq!(mesh.lookup_sockets(request).await.unwrap().into_inner().sockets.len(), 1);
    assert_eq!(node.logged("rejected a mesh call without a valid token").len(), 1);
}

/// An impostor that the index lists under this name, and that listens with this certificate or without TLS.
async fn impostor(
    redis: &RedisServer,
    number: usize,
    name: &str,
    shown: Option<&pki::Issued>,
    received: &Arc<AtomicUsize>,
) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mesh = listener.local_addr().unwrap();
    let (acceptor, received) = (shown.map(pki::acceptor), Arc::clone(received));
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            match &acceptor {
                None => {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                }
                Some(acceptor) => {
                    if let Ok(mut stream) = acceptor.accept(stream).await {
                        let mut said = [0; 1];
                        received.fetch_add(stream.read(&mut said).await.unwrap_or_default(), Ordering::Relaxed);
                    }
                }
            }
        }
    });
    let id = format!("{number:016x}-1");
    let entry =
        serde_json::json!({"name": name, "mesh": mesh.to_string(), "since": "2026-01-01T00:00:00Z", "draining": false});
    let mut commands = redis::pipe();
    commands.cmd("SET").arg(format!("rollcall:node:{id}")).arg(entry.to_string()).arg("PX").arg(60_000).ignore();
    commands.cmd("SADD").arg("rollcall:nodes").arg(&id).ignore();
    commands.query_async::<()>(&mut redis.connection().await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_impostor_without_the_certificate_receives_no_request() {
    let redis = RedisServer::start_aged().await;
    let (authority, folder) = (Authority::new("mesh"), Folder::new());
    let flags = folder.mesh(&authority.pem, &authority.issue("127.0.0.1", Time::Now));
    let node = ServeCommand::named("one").redis(&redis).with(&flags).ready().await;
    let received = Arc::new(AtomicUsize::new(0));
    let impostors = [
        ("expired", Some(authority.issue("127.0.0.1", Time::Past))),
        ("forged", Some(Authority::new("mesh").issue("127.0.0.1", Time::Now))),
        ("elsewhere", Some(authority.issue("127.0.0.2", Time::Now))),
        ("plain", None),
    ];
    for (number, (name, shown)) in impostors.iter().enumerate() {
        impostor(&redis, number, name, shown.as_ref(), &received).await;
    }
    for (name, _) in &impostors {
        let refused = format!("{name}=refused");
        until(&refused, || async { node.roll("a").await.unanswered.is_some_and(|said| said.contains(&refused)) }).await;
    }
    assert_eq!(received.load(Ordering::Relaxed), 0, "no impostor received a request");
    let says = "mTLS handshake with a peer failed";
    assert_eq!(node.logged(says).len(), impostors.len(), "{}", node.log());
    for what in ["certificate expired", "BadSignature", "not valid for name", "corrupt"] {
        assert_eq!(node.logged(says).iter().filter(|line| line.contains(what)).count(), 1, "{what}: {}", node.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_may_announce_only_its_own_host() {
    let (authority, folder, insider) = (Authority::new("mesh"), Folder::new(), Folder::new());
    let node = with_certificates(&authority, &folder).await;
    insider.mesh(&authority.pem, &authority.issue("127.0.0.2", Time::Now));
    let mesh = node.mesh.to_string();
    let mut member =
        PeerChannel::secured(&mesh.as_str().into(), connect_tcp, insider.security("127.0.0.2:1")).unwrap().client();
    let status = |mesh: &str| Status {
        node_id: "0123456789abcdef-1".into(),
        name: "insider".into(),
        mesh: mesh.into(),
        sequence: 1,
        ..Default::default()
    };
    for _ in 0..2 {
        let request = AnnounceRequest { status: Some(status("127.0.0.3:7001")) };
        assert_eq!(member.announce(request).await.unwrap_err().code(), Code::PermissionDenied);
    }
    assert_eq!(node.logged("rejected a status: the certificate of the peer does not name the host").len(), 1);
    let own = AnnounceRequest { status: Some(status("127.0.0.2:7001")) };
    let said = member.announce(own).await.unwrap().into_inner().status.unwrap();
    assert!(said.members.iter().any(|member| member.name == "insider"), "a member may announce its own host");
    // An announcement of another node at the host of the insider.
    let honest = PeerChannel::secured(&mesh.as_str().into(), connect_tcp, folder.security("127.0.0.1:1")).unwrap();
    let named = |id: &str, mesh: &str| Status { node_id: id.into(), ..status(mesh) };
    let first = AnnounceRequest { status: Some(named("00000000000000aa-1", "127.0.0.1:7001")) };
    honest.client().announce(first).await.unwrap();
    for incarnation in [1, 2] {
        let id = format!("00000000000000aa-{incarnation}");
        let taken = AnnounceRequest { status: Some(named(&id, "127.0.0.2:7001")) };
        assert_eq!(member.announce(taken).await.unwrap_err().code(), Code::PermissionDenied, "{id}");
    }
    // A statement about the other node, in a status of its own.
    let hearsay = |incarnation: u32| KnownMember {
        node_id: format!("00000000000000aa-{incarnation}"),
        name: "renamed".into(),
        mesh: "127.0.0.2:7001".into(),
        age_ms: Some(0),
        ..Default::default()
    };
    let lie = Status { members: vec![hearsay(1), hearsay(2)], sequence: 2, ..status("127.0.0.2:7001") };
    let told = member.announce(AnnounceRequest { status: Some(lie) }).await.unwrap().into_inner().status.unwrap();
    let known: Vec<_> = told.members.iter().filter(|member| member.node_id.starts_with("00000000000000aa")).collect();
    let [known] = known[..] else { panic!("one incarnation is known: {known:?}") };
    assert_eq!(known.node_id, "00000000000000aa-1");
    assert_eq!(known.mesh, "127.0.0.1:7001");
    for _ in 0..2 {
        let request = LookupSocketsRequest { node_id: "0123456789abcdef-1".into(), ..lookup() };
        assert_eq!(member.lookup_sockets(request).await.unwrap_err().code(), Code::FailedPrecondition);
    }
    assert_eq!(node.logged("rejected a request meant for another node").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_handshakes_do_not_block_other_peers() {
    let (authority, folder) = (Authority::new("mesh"), Folder::new());
    let node = with_certificates(&authority, &folder).await;
    // More connections than the node handshakes at once. Every second one sends the first byte of a handshake.
    let mut silent = Vec::new();
    for number in 0..600 {
        let mut stream = from([127, 0, 1, 1], node.mesh).await;
        if number % 2 == 0 {
            stream.write_all(b"\x16").await.unwrap();
        }
        silent.push(stream);
        if number % 100 == 99 {
            let link = PeerChannel::secured(&node.mesh.to_string().into(), connect_tcp, folder.security("127.0.0.1:1"))
                .unwrap();
            // A connect that takes longer than 400 ms fails.
            link.client().lookup_sockets(lookup()).await.expect("the node accepts a member meanwhile");
        }
    }
    let mut ended = 0;
    for mut stream in silent {
        let mut said = Vec::new();
        let _ =
            timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("the node closes each connection in time");
        ended += 1;
    }
    assert_eq!(ended, 600);
}
