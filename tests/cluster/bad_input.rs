//! Malformed input on every port. Each kind gets a clear answer or loses its connection, costs a bounded amount, and the
//! node continues. Well-formed requests with invalid values are in `lookups.rs` and `rest_errors.rs`.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use futures::future::join_all;
use futures::{SinkExt, StreamExt};
use rollcall::mesh::channel::PeerChannel;
use rollcall::mesh::node_status::MAX_STATUS_MEMBERS;
use rollcall::mesh::proto::mesh_service_client::MeshServiceClient;
use rollcall::mesh::proto::{AnnounceRequest, KnownMember, LookupSocketsRequest, LookupSocketsResponse, Status};
use rollcall::mesh::{MAX_LOOKUP_IDS, MAX_REQUEST_BYTES, NODE_ID_METADATA};
use rollcall::names::NodeId;
use serde_json::{Value, json};
use testkit::client::{Client, Socket, open};
use testkit::cluster::{Cluster, Index};
use testkit::{PATIENCE, mesh_client, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tonic::Code;

/// More than a node may read of unwanted input, and more than the kernel buffers.
const FLOOD: usize = 256 << 20;
/// The bytes that kernel buffers and the node may take of a flood before the node closes the connection.
const TAKEN_MOST: usize = 32 << 20;

/// Sends these bytes, and returns the answer up to the end of the connection.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The node may close before it has read everything, and reset before the answer was read.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the node ends the connection");
    answer
}

/// The status of an HTTP/1.1 answer.
fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.strip_prefix(b"HTTP/1.1 ")?;
    str::from_utf8(line.get(..3)?).ok()?.parse().ok()
}

/// A WebSocket whose client was let in.
async fn connected(address: SocketAddr, query: &str) -> Socket {
    let mut socket = open(address, query, "").await;
    loop {
        let message = timeout(PATIENCE, socket.next()).await.expect("an answer").expect("not closed").unwrap();
        if message.to_text().unwrap().starts_with("40") {
            return socket;
        }
    }
}

/// Reads until the node has ended the transport. Returns the texts that came before.
async fn ended(mut socket: Socket) -> Vec<String> {
    let mut texts = Vec::new();
    let reading = async {
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Text(text) = message {
                texts.push(text.to_string());
            }
        }
    };
    timeout(PATIENCE, reading).await.expect("the node ends the transport");
    texts
}

/// The code by which this handshake is refused.
async fn refusal(address: SocketAddr, query: &str, auth: &str) -> String {
    let message = Client::with(address, query, auth).await.err().expect("it is refused");
    message.split_once(": ").expect("a code and an advice").0.to_owned()
}

/// The node has nothing left of the earlier clients, accepts the next client, and lists it alone.
async fn goes_on(cluster: &Cluster) {
    let node = &cluster.nodes[0];
    until("nothing is left", || async { node.roster.size().sockets == 0 && node.roster.size().rooms == 0 }).await;
    let client = Client::connect(node.public, "foo", &["next"]).await.unwrap();
    let expected = BTreeSet::from([(client.id.clone(), "foo".to_owned())]);
    assert_eq!(cluster.users(0, "next").await, (true, expected));
    client.drop_connection();
}

fn mesh(cluster: &Cluster) -> MeshServiceClient<PeerChannel> {
    mesh_client(cluster.nodes[0].mesh)
}

async fn lookup(cluster: &Cluster, request: LookupSocketsRequest) -> Result<LookupSocketsResponse, tonic::Status> {
    mesh(cluster).lookup_sockets(request).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_with_too_large_a_head_is_answered_431_and_closed() {
    let cluster = Cluster::start(1, Index::memory()).await;
    let upgrade = "Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let path = "/socket.io/?EIO=4&transport=websocket&id_user=foo&room=a";
    // A head that comes in one piece is looked at before it is measured, so only twice the limit is sure to be too much.
    let large = "x".repeat(80 << 10);
    let long_query = format!("GET {path}&x={large} HTTP/1.1\r\n{upgrade}\r\n");
    let long_header = format!("GET {path} HTTP/1.1\r\n{upgrade}Cookie: {large}\r\n\r\n");
    let many_headers = format!("GET {path} HTTP/1.1\r\n{upgrade}{}\r\n", "X-Again: 1\r\n".repeat(200));
    for head in [long_query, long_header, many_headers] {
        let answer = exchange(cluster.nodes[0].public, head.as_bytes()).await;
        assert_eq!(status(&answer), Some(431), "{}", String::from_utf8_lossy(&answer));
    }
    // Nearly as much is a handshake like any other.
    let query = format!("id_user=foo&room=a&x={}", "x".repeat(30 << 10));
    Client::with(cluster.nodes[0].public, &query, "").await.unwrap().drop_connection();
    goes_on(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_auth_payload_of_more_than_a_message_ends_the_transport() {
    let cluster = Cluster::start(1, Index::memory()).await;
    let address = cluster.nodes[0].public;
    let auth = |bytes: usize| json!({"id_user": "foo", "room": "a", "padding": "x".repeat(bytes)}).to_string();
    let texts = ended(open(address, "", &auth(64 << 10)).await).await;
    assert!(!texts.iter().any(|text| text.starts_with("40{")), "it was let in");
    Client::with(address, "", &auth(60 << 10)).await.unwrap().drop_connection();
    goes_on(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_auth_payload_is_refused() {
    let cluster = Cluster::start(1, Index::memory()).await;
    let address = cluster.nodes[0].public;
    // JavaScript can send half a surrogate pair, which no UTF-8 decoder accepts.
    for auth in [r#"{"id_user":"\ud800"}"#, r#"{"id_user":"bar""#, r#"{"id_user":"bar"} and more"#, "{]"] {
        assert_eq!(refusal(address, "id_user=foo&room=a", auth).await, "id_user_invalid", "{auth}");
    }
    goes_on(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_or_malformed_packet_ends_the_transport() {
    let cluster = Cluster::start(1, Index::memory()).await;
    let large = format!("42[\"join\",\"{}\"]", "x".repeat(64 << 10));
    let deep = format!("42[\"join\",{}", "[".repeat(60 << 10));
    for packet in [large, "49".to_owned(), "4".to_owned(), "9".to_owned(), "42[".to_owned()] {
        let mut socket = connected(cluster.nodes[0].public, "id_user=foo&room=a").await;
        let _ = socket.send(Message::text(packet)).await;
        ended(socket).await;
        goes_on(&cluster).await;
    }
    // JSON that is none where an argument should be is an event that is refused; it must not exhaust the stack.
    let mut socket = connected(cluster.nodes[0].public, "id_user=foo&room=a").await;
    let _ = socket.send(Message::text(deep)).await;
    socket.close(None).await.unwrap();
    ended(socket).await;
    goes_on(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_of_too_many_attachments_ends_the_transport() {
    let cluster = Cluster::start(1, Index::memory()).await;
    let argument = r#"["join",{"_placeholder":true,"num":0}]"#;
    for count in ["17", "1000000", "18446744073709551615", "99999999999999999999999", "", "-1"] {
        let mut socket = connected(cluster.nodes[0].public, "id_user=foo&room=a").await;
        socket.send(Message::text(format!("45{count}-{argument}"))).await.unwrap();
        ended(socket).await;
    }
    goes_on(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attachments_of_more_than_a_message_in_all_end_the_transport() {
    let cluster = Cluster::start(1, Index::memory()).await;
    let attachment = Bytes::from(vec![0; 32 << 10]);
    let mut socket = connected(cluster.nodes[0].public, "id_user=foo&room=a").await;
    socket.send(Message::text(r#"4516-["join",{"_placeholder":true,"num":0}]"#)).await.unwrap();
    let mut taken = 0;
    while taken < FLOOD && socket.send(Message::binary(attachment.clone())).await.is_ok() {
        taken += attachment.len();
    }
    assert!(taken < TAKEN_MOST, "{taken} bytes were taken");
    ended(socket).await;
    goes_on(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fragments_of_a_message_are_collected_up_to_a_limit() {
    let cluster = Cluster::start(1, Index::memory()).await;
    let socket = connected(cluster.nodes[0].public, "id_user=foo&room=a").await;
    let tokio_tungstenite::MaybeTlsStream::Plain(mut stream) = socket.into_inner() else {
        panic!("the tests speak plain TCP")
    };
    // A text that never ends: frames of 16 KiB without FIN, masked with zeros.
    let mut frame = vec![0x01, 0xfe, 0x40, 0x00, 0, 0, 0, 0];
    frame.resize(frame.len() + (16 << 10), b'x');
    let mut taken = 0;
    while taken < FLOOD && stream.write_all(&frame).await.is_ok() {
        taken += frame.len();
        frame[0] = 0x00;
    }
    assert!(taken < TAKEN_MOST, "{taken} bytes were taken");
    goes_on(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_too_long_or_not_utf8_are_refused_with_their_error_code() {
    let cluster = Cluster::start(1, Index::memory()).await;
    let address = cluster.nodes[0].public;
    let (longest, too_long, two_bytes) = ("x".repeat(256), "x".repeat(257), "%C3%A9".repeat(129));
    for bad in [&too_long, &two_bytes, "%FF", "%C0%AF", "%ED%A0%80", "a%C3"] {
        assert_eq!(refusal(address, &format!("id_user={bad}&room=a"), "").await, "id_user_invalid", "{bad}");
        assert_eq!(refusal(address, &format!("id_user=foo&room=a&room={bad}"), "").await, "room_invalid", "{bad}");
    }
    for bad in [&too_long, &"é".repeat(129), "\u{7}", ""] {
        let auth = json!({"id_user": bad}).to_string();
        assert_eq!(refusal(address, "id_user=foo&room=a", &auth).await, "id_user_invalid", "{bad:?}");
        let auth = json!({"room": ["b", bad]}).to_string();
        assert_eq!(refusal(address, "id_user=foo&room=a", &auth).await, "room_invalid", "{bad:?}");
    }
    let client = Client::connect(address, &longest, &[&longest]).await.unwrap();
    assert_eq!(cluster.users(0, &longest).await.1, BTreeSet::from([(client.id.clone(), longest)]));
    client.drop_connection();
    goes_on(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_names_no_room_is_acknowledged_with_its_code() {
    let cluster = Cluster::start(1, Index::memory()).await;
    let client = Client::connect(cluster.nodes[0].public, "foo", &["a"]).await.unwrap();
    let long = json!("x".repeat(257));
    for argument in [&long, &json!("é".repeat(129)), &json!("\u{85}"), &json!({"room": "b"}), &json!(1e300)] {
        for answer in [client.emit("join", argument).await, client.emit("leave", argument).await] {
            assert_eq!(&answer["ok"], &json!(false), "{argument}");
            assert_eq!(&answer["code"], &json!("room_invalid"), "{argument}");
        }
    }
    assert_eq!(cluster.nodes[0].roster.size().rooms, 1);
    client.drop_connection();
    // Half a surrogate pair, which JavaScript can send and no name can be.
    let mut socket = connected(cluster.nodes[0].public, "id_user=foo&room=a").await;
    socket.send(Message::text(r#"427["join","\ud800"]"#)).await.unwrap();
    let answered = async {
        while let Some(Ok(message)) = socket.next().await {
            if message.to_text().is_ok_and(|text| text.starts_with("437[") && text.contains("room_invalid")) {
                return true;
            }
        }
        false
    };
    assert!(timeout(PATIENCE, answered).await.unwrap());
    drop(socket);
    goes_on(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_not_utf8_end_only_their_connection() {
    let cluster = Cluster::start(1, Index::memory()).await;
    let address = cluster.nodes[0].public;
    for target in [
        &b"/\xff/users"[..],
        b"/a/users?strict=\xff",
        b"/socket.io/?EIO=4&transport=websocket&id_user=\xff&room=a",
        b"/socket.io/?EIO=4&transport=websocket&id_user=foo&room=\xc3\x28",
    ] {
        let mut request = [b"GET ", target, b" HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n"].concat();
        request.extend(b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
        request.extend(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
        let answer = exchange(address, &request).await;
        assert_eq!(status(&answer), Some(400), "{}", target.escape_ascii());
    }
    // In a text frame: FIN and text, 4 bytes, masked with zeros.
    let socket = connected(address, "id_user=foo&room=a").await;
    let tokio_tungstenite::MaybeTlsStream::Plain(mut stream) = socket.into_inner() else {
        panic!("the tests speak plain TCP")
    };
    stream.write_all(&[0x81, 0x84, 0, 0, 0, 0, b'4', b'2', 0xff, 0xfe]).await.unwrap();
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the node ends the transport");
    goes_on(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_names_no_room_is_a_bad_request_on_every_route() {
    let cluster = Cluster::start(1, Index::memory()).await;
    let (two_bytes, too_long) = ("%C3%A9".repeat(129), "x".repeat(257));
    for room in ["%C3%28", "%C0%AF", "a%FF", "%ED%A0%80", "%7F", &two_bytes, &too_long] {
        for route in ["", "/users", "/rollcall"] {
            let response = cluster.get(0, &format!("/{room}{route}")).await;
            assert_eq!(response.status(), 400, "/{room}{route}");
            assert_eq!(response.headers()["content-type"], "application/problem+json");
            let detail = response.json::<Value>().await.unwrap()["detail"].as_str().unwrap().to_owned();
            assert!(detail.starts_with("the room's name "), "{detail}");
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_body_is_neither_awaited_nor_read() {
    let cluster = Cluster::start(1, Index::memory()).await;
    let chunk = vec![b'x'; 64 << 10];
    for (request, expected) in [
        ("GET /a/users", 200),
        ("GET /a/rollcall", 200),
        ("GET /a", 200),
        ("POST /a/users", 405),
        ("POST /nothing/at/all/here", 404),
        ("POST /socket.io/?EIO=4&transport=polling", 400),
        ("POST /socket.io/?EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAA", 400),
    ] {
        let mut stream = TcpStream::connect(cluster.nodes[0].public).await.unwrap();
        let head = format!("{request} HTTP/1.1\r\nHost: a\r\nContent-Length: {FLOOD}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 12];
        timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("answered before the body came").unwrap();
        assert_eq!(status(&answer), Some(expected), "{request}");
        let mut taken = 0;
        while taken < FLOOD && stream.write_all(&chunk).await.is_ok() {
            taken += chunk.len();
        }
        assert!(taken < TAKEN_MOST, "{taken} bytes were taken: {request}");
    }
    goes_on(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_takes_ten_thousand_of_the_longest_ids_and_no_more() {
    let cluster = Cluster::start(1, Index::memory()).await;
    let client = Client::connect(cluster.nodes[0].public, "foo", &["a"]).await.unwrap();
    let mut ids: Vec<String> = (1..MAX_LOOKUP_IDS).map(|number| format!("{number:064}")).collect();
    ids.push(client.id.clone());
    let ask = |ids: &[String], room: &str| LookupSocketsRequest {
        id_sockets: ids.to_vec(),
        room: room.into(),
        ..Default::default()
    };
    for room in ["", "a"] {
        let found = lookup(&cluster, ask(&ids, room)).await.unwrap();
        let found: Vec<_> = found.sockets.iter().map(|socket| (&*socket.id_socket, &*socket.id_user)).collect();
        assert_eq!(found, [(client.id.as_str(), "foo")]);
    }
    assert_eq!(lookup(&cluster, ask(&ids, "b")).await.unwrap().sockets, []);
    ids.push("one more".into());
    let status = lookup(&cluster, ask(&ids, "")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("10000"), "{status}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_over_the_limit_is_refused_before_it_is_read() {
    let cluster = Cluster::start(1, Index::memory()).await;
    let room = "x".repeat(MAX_REQUEST_BYTES);
    let status = lookup(&cluster, LookupSocketsRequest { room, ..Default::default() }).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    let said = Status { since: "x".repeat(MAX_REQUEST_BYTES), ..Default::default() };
    let status = mesh(&cluster).announce(AnnounceRequest { status: Some(said) }).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    goes_on(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_version_is_refused_and_a_future_one_gets_all_rows() {
    let cluster = Cluster::start(1, Index::memory()).await;
    let client = Client::connect(cluster.nodes[0].public, "foo", &["a"]).await.unwrap();
    let roster = &cluster.nodes[0].roster;
    let ask = |node: &NodeId, known: u64| LookupSocketsRequest {
        room: "a".into(),
        node_id: node.to_string(),
        known_version: Some(known),
        ..Default::default()
    };
    let before = roster.incarnation();
    let held = lookup(&cluster, ask(&before, 0)).await.unwrap();
    assert!(!held.unchanged, "0: the caller holds none");
    assert_eq!(held.sockets.len(), 1, "0: the caller holds none");
    for future in [held.version + 1, u64::MAX] {
        let answer = lookup(&cluster, ask(&before, future)).await.unwrap();
        assert!(!answer.unchanged);
        assert_eq!(answer.version, held.version);
        assert_eq!(answer.sockets, held.sockets);
    }
    roster.retire(&before);
    let now = roster.incarnation();
    assert_ne!(now, before);
    let status = lookup(&cluster, ask(&before, held.version)).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(status.metadata().get(NODE_ID_METADATA).unwrap().to_str().unwrap(), now.as_str());
    let answer = lookup(&cluster, ask(&now, 0)).await.unwrap();
    assert_eq!(answer.node_id.as_str(), now.as_str());
    assert_eq!(answer.sockets[0].id_socket.as_str(), client.id.as_str());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_mesh_port_ends_only_its_connection() {
    let cluster = Cluster::start(1, Index::memory()).await;
    let mut good = mesh(&cluster);
    let garbage: Vec<u8> = (0..200_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let oversized_frame = [0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1];
    // A request whose header block is no HPACK.
    let bad_headers = [0, 0, 4, 1, 4, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff];
    for bytes in [
        garbage.clone(),
        b"GET /a/users HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        [&preface[..16], b"nothing of HTTP/2"].concat(),
        [&preface[..], &garbage].concat(),
        [&preface[..], &settings, &oversized_frame].concat(),
        [&preface[..], &settings, &bad_headers].concat(),
    ] {
        exchange(cluster.nodes[0].mesh, &bytes).await;
    }
    // A client that sends nothing.
    let silent = [b"".as_slice(), &preface[..16]].map(|bytes| exchange(cluster.nodes[0].mesh, bytes));
    join_all(silent).await;
    // Half a preface, and then the end.
    let mut stream = TcpStream::connect(cluster.nodes[0].mesh).await.unwrap();
    stream.write_all(&preface[..16]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the node ends the connection");
    let ask = LookupSocketsRequest { room: "a".into(), ..Default::default() };
    assert!(good.lookup_sockets(ask.clone()).await.is_ok(), "on the connection that was there before");
    assert!(lookup(&cluster, ask).await.is_ok(), "and on a new one");
    goes_on(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_protocols_on_the_http_port_end_their_connection() {
    let cluster = Cluster::start(1, Index::memory()).await;
    for bytes in [
        &b"PRI * HTTP/2.0\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        // The beginning of a TLS handshake, of SSH, and of a Redis command.
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        // Two lengths: what smuggles a request past a proxy.
        b"POST /a/users HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"GET /a/users HTTP/9.9\r\nHost: a\r\n\r\n",
    ] {
        let answer = exchange(cluster.nodes[0].public, bytes).await;
        assert!(answer.is_empty() || status(&answer) == Some(400), "{}", answer.escape_ascii());
    }
    goes_on(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_with_an_invalid_name_is_an_invalid_argument() {
    let cluster = Cluster::start(1, Index::memory()).await;
    let mut client = mesh(&cluster);
    let status = || Status {
        node_id: "0123456789abcdef-1".into(),
        name: "stranger".into(),
        mesh: "127.0.0.1:1".into(),
        since: "2026-01-01T00:00:00Z".into(),
        sequence: 1,
        ..Default::default()
    };
    let member = |number: usize| KnownMember {
        node_id: format!("{number:016x}-1"),
        name: "m".into(),
        mesh: "127.0.0.1:1".into(),
        ..Default::default()
    };
    let with = |member: KnownMember| Status { members: vec![member], ..status() };
    let wrong = [
        None,
        Some(Status::default()),
        Some(Status { node_id: "me".into(), ..status() }),
        Some(Status { node_id: "0123456789abcdef-0".into(), ..status() }),
        Some(Status { node_id: "0123456789abcdef-18446744073709551616".into(), ..status() }),
        Some(Status { name: "two words".into(), ..status() }),
        Some(Status { name: "x".repeat(65), ..status() }),
        Some(with(KnownMember { node_id: "../../etc".into(), ..member(1) })),
        Some(with(KnownMember { name: "\n".into(), ..member(1) })),
        Some(Status { mesh: "x".repeat(301), ..status() }),
        Some(Status { since: "x".repeat(65), ..status() }),
        Some(Status { whole_under: "x".repeat(513), ..status() }),
        Some(with(KnownMember { mesh: "x".repeat(301), ..member(1) })),
        Some(Status { members: (0..=MAX_STATUS_MEMBERS).map(member).collect(), ..status() }),
    ];
    for status in wrong {
        let about = status.as_ref().map(|status| (status.node_id.clone(), status.members.len()));
        let answer = client.announce(AnnounceRequest { status }).await.expect_err("it makes no sense");
        assert_eq!(answer.code(), Code::InvalidArgument, "{about:?}");
        if about.is_some_and(|(_, members)| members > MAX_STATUS_MEMBERS) {
            assert!(answer.message().contains("at most 1000 members"), "{answer}");
        }
    }
    // A stranger that gives itself out as this node is not believed either.
    let own = cluster.nodes[0].roster.incarnation().to_string();
    let goodbye = Status { node_id: own.clone(), goodbye: true, sequence: u64::MAX, ..status() };
    let answer = client.announce(AnnounceRequest { status: Some(goodbye) }).await.unwrap().into_inner();
    let said = answer.status.unwrap();
    assert_eq!(said.node_id, own);
    assert!(!said.goodbye);
    assert_eq!(said.members.len(), 0);
    goes_on(&cluster).await;
    cluster.stop().await;
}
