//! Long-polling clients, request by request: their answers, their disconnects, and attacks with session ids that an
//! attacker may know. The official clients are in `clients/polling.test.js`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::{SinkExt, StreamExt};
use rollcall::edge::socketio::{SocketIoConfig, Transports};
use rollcall::mesh::channel::{PeerChannel, connect_tcp};
use rollcall::mesh::proto::polling_service_client::PollingServiceClient;
use rollcall::mesh::proto::{Asked, ForwardRequest};
use serde_json::{Value, json};
use testkit::client::{Client, Socket};
use testkit::cluster::{Cluster, Index};
use testkit::{PATIENCE, text, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::{Error, Message};
use tonic::Code;

const POLLING: SocketIoConfig = SocketIoConfig {
    transports: Transports::WebsocketAndPolling,
    max_rooms: 64,
    ping_interval: Duration::from_secs(25),
    ping_timeout: Duration::from_secs(20),
};
const UNKNOWN: &str = r#"{"code":1,"message":"Session ID unknown"}"#;
/// A poll that takes longer waits for something that has not happened yet.
const MOMENT: Duration = Duration::from_millis(100);
const SEPARATOR: char = '\u{1e}';

/// A session as its client has it. Cheap to clone.
#[derive(Clone)]
struct Session {
    http: reqwest::Client,
    /// Its session id.
    signed_id: String,
}

/// Status and body.
type Answer = (u16, String);

impl Session {
    fn of(signed_id: &str) -> Self {
        Self { http: reqwest::Client::new(), signed_id: signed_id.to_owned() }
    }

    async fn open(address: SocketAddr, query: &str) -> Self {
        let url = format!("http://{address}/socket.io/?EIO=4&transport=polling&{query}");
        let response = reqwest::get(url).await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["cache-control"], "no-store");
        let body = response.text().await.unwrap();
        let packet: Value = serde_json::from_str(body.strip_prefix('0').expect("an open packet")).unwrap();
        assert_eq!(packet["upgrades"], json!(["websocket"]));
        Self::of(&text(&packet, "sid"))
    }

    /// A session whose client was let in and has answered the first ping, and its `socket.id`.
    async fn connect(address: SocketAddr, user: &str, room: &str) -> (Self, String) {
        let session = Self::open(address, &format!("id_user={user}&room={room}")).await;
        session.say(address, "40").await;
        let (mut id, mut pinged) = (None, false);
        while id.is_none() || !pinged {
            let (status, body) = session.poll(address).await;
            assert_eq!(status, 200, "{body}");
            for packet in body.split(SEPARATOR) {
                pinged |= packet == "2";
                id = id.or(packet.strip_prefix("40").map(|packet| text(&serde_json::from_str(packet).unwrap(), "sid")));
            }
        }
        session.say(address, "3").await;
        (session, id.unwrap())
    }

    fn url(&self, address: SocketAddr) -> String {
        format!("http://{address}/socket.io/?EIO=4&transport=polling&sid={}&t=x", self.signed_id)
    }

    async fn post(&self, address: SocketAddr, payload: impl Into<reqwest::Body>) -> Answer {
        answer(self.http.post(self.url(address)).body(payload)).await
    }

    async fn poll(&self, address: SocketAddr) -> Answer {
        answer(self.http.get(self.url(address))).await
    }

    /// A poll for which there is nothing yet. Answers pings.
    async fn waits(&self, address: SocketAddr) -> JoinHandle<Answer> {
        loop {
            let session = self.clone();
            let poll = tokio::spawn(async move { session.poll(address).await });
            sleep(MOMENT).await;
            if !poll.is_finished() {
                return poll;
            }
            assert_eq!(poll.await.unwrap(), (200, "2".to_owned()));
            self.say(address, "3").await;
        }
    }

    async fn say(&self, address: SocketAddr, payload: &str) {
        assert_eq!(self.post(address, payload.to_owned()).await, (200, "ok".to_owned()), "{payload}");
    }

    /// Polls until a packet with this prefix comes, and returns the rest of it. Answers pings.
    async fn hear(&self, address: SocketAddr, prefix: &str) -> String {
        loop {
            let (status, body) = self.poll(address).await;
            assert_eq!(status, 200, "{body}");
            if body.split(SEPARATOR).any(|packet| packet == "2") {
                self.say(address, "3").await;
            }
            if let Some(rest) = body.split(SEPARATOR).find_map(|packet| packet.strip_prefix(prefix)) {
                return rest.to_owned();
            }
        }
    }

    async fn emit(&self, address: SocketAddr, event: &str, room: &str) -> Value {
        self.say(address, &format!("427{}", json!([event, room]))).await;
        serde_json::from_str::<Vec<Value>>(&self.hear(address, "437").await).unwrap().remove(0)
    }

    /// Requests an upgrade to WebSocket.
    async fn websocket(&self, address: SocketAddr) -> Result<Socket, u16> {
        let url = format!("ws://{address}/socket.io/?EIO=4&transport=websocket&sid={}", self.signed_id);
        match tokio_tungstenite::connect_async(url).await {
            Ok((socket, _)) => Ok(socket),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let answered = async {
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    timeout(PATIENCE, answered).await.expect("an answer")
}

fn unknown() -> Answer {
    (400, UNKNOWN.to_owned())
}

async fn listed(cluster: &Cluster, room: &str, expected: &[(&str, &str)]) {
    let expected: BTreeSet<_> = expected.iter().map(|(id, user)| ((*id).to_owned(), (*user).to_owned())).collect();
    for node in 0..cluster.nodes.len() {
        assert_eq!(cluster.users(node, room).await, (true, expected.clone()));
    }
}

/// Within a moment, and so not because of a heartbeat.
async fn gone(cluster: &Cluster) {
    let began = Instant::now();
    until("nothing is left", || async { cluster.nodes.iter().all(|node| node.roster.size().sockets == 0) }).await;
    assert!(began.elapsed() < POLLING.ping_timeout / 4);
}

/// Each character changed in one bit.
fn changed(text: &str) -> impl Iterator<Item = String> + '_ {
    (0..text.len()).map(|place| {
        let mut bytes = text.as_bytes().to_vec();
        bytes[place] ^= 1;
        String::from_utf8(bytes).unwrap()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_polling_client_gets_a_signed_session_id() {
    let cluster = Cluster::holding(1, Index::memory(), POLLING).await;
    let address = cluster.nodes[0].public;
    let (session, id) = Session::connect(address, "foo", "a").await;
    assert_eq!(id.len(), 16);
    assert_ne!(session.signed_id, id);
    listed(&cluster, "a", &[(&id, "foo")]).await;
    assert_eq!(session.emit(address, "join", "b").await, json!({"ok": true}));
    listed(&cluster, "b", &[(&id, "foo")]).await;
    assert_eq!(session.emit(address, "leave", "a").await, json!({"ok": true}));
    listed(&cluster, "a", &[]).await;
    // A client that leaves the namespace and enters it again on one transport keeps its session and its id.
    session.say(address, "41").await;
    gone(&cluster).await;
    session.say(address, "40").await;
    assert!(session.hear(address, "40").await.contains(&id));
    listed(&cluster, "a", &[(&id, "foo")]).await;
    let poll = session.waits(address).await;
    session.say(address, "1").await;
    assert_eq!(poll.await.unwrap().0, 200);
    gone(&cluster).await;
    assert_eq!(session.poll(address).await, unknown());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_cannot_be_used_with_an_id_that_was_guessed() {
    let cluster = Cluster::holding(2, Index::memory(), POLLING).await;
    let [address, other] = [0, 1].map(|node| cluster.nodes[node].public);
    let (victim, id) = Session::connect(address, "foo", "a").await;
    let (attacker, own) = Session::connect(address, "bar", "b").await;
    let (stranger, elsewhere) = Session::connect(other, "baz", "b").await;
    let mut forged = vec![
        id.clone(),
        format!("{id}."),
        attacker.signed_id.replace(&own, &id),
        stranger.signed_id.replace(&elsewhere, &id),
        victim.signed_id.split_once('.').unwrap().1.to_owned(),
        format!("{}.{}", stranger.signed_id.split_once('.').unwrap().0, victim.signed_id.split_once('.').unwrap().1),
        format!("{}=", victim.signed_id),
        format!("{}%00", victim.signed_id),
        victim.signed_id.replace('.', "%2E"),
        format!("&sid={}", victim.signed_id),
        String::new(),
    ];
    forged.extend((1..victim.signed_id.len()).step_by(7).map(|length| victim.signed_id[..length].to_owned()));
    forged.extend(changed(&victim.signed_id).step_by(5));
    // The victim waits for messages during the test, and receives only its own.
    let poll = victim.waits(address).await;
    for forged in forged {
        let attack = Session::of(&forged);
        for at in [address, other] {
            assert_eq!(attack.poll(at).await, unknown(), "steals messages with {forged:?}, or throws it out");
            for payload in ["42[\"join\",\"c\"]", "40", "41", "1", "3", "garbage", "451-[\"join\"]"] {
                assert_eq!(attack.post(at, payload).await, unknown(), "says {payload} with {forged:?}");
            }
            assert_eq!(attack.websocket(at).await.err(), Some(400), "takes over with {forged:?}");
        }
    }
    assert!(!poll.is_finished());
    listed(&cluster, "a", &[(&id, "foo")]).await;
    listed(&cluster, "c", &[]).await;
    victim.say(address, "427[\"join\",\"d\"]").await;
    assert_eq!(poll.await.unwrap(), (200, "437[{\"ok\":true}]".to_owned()));
    listed(&cluster, "d", &[(&id, "foo")]).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_session_id_of_a_websocket_opens_nothing() {
    let cluster = Cluster::holding(1, Index::memory(), POLLING).await;
    let address = cluster.nodes[0].public;
    let client = Client::connect(address, "foo", &["a"]).await.unwrap();
    let attack = Session::of(&client.id);
    assert_eq!(attack.poll(address).await, unknown());
    assert_eq!(attack.post(address, "1").await, unknown());
    assert_eq!(attack.websocket(address).await.err(), Some(400));
    listed(&cluster, "a", &[(&client.id, "foo")]).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_upgraded_to_websocket_keeps_its_socket_id() {
    let cluster = Cluster::holding(1, Index::memory(), POLLING).await;
    let address = cluster.nodes[0].public;
    let (session, id) = Session::connect(address, "foo", "a").await;
    let poll = session.waits(address).await;
    let mut socket = session.websocket(address).await.unwrap();
    socket.send(Message::text("2probe")).await.unwrap();
    let mut next = async || timeout(PATIENCE, socket.next()).await.expect("an answer").expect("not closed").unwrap();
    assert_eq!(next().await.to_text().unwrap(), "3probe");
    assert_eq!(poll.await.unwrap().0, 200, "the poll is let go");
    socket.send(Message::text("5")).await.unwrap();
    socket.send(Message::text("427[\"join\",\"b\"]")).await.unwrap();
    loop {
        let message = timeout(PATIENCE, socket.next()).await.expect("an answer").expect("not closed").unwrap();
        if message.to_text().unwrap() == "437[{\"ok\":true}]" {
            break;
        }
    }
    listed(&cluster, "b", &[(&id, "foo")]).await;
    assert_eq!(session.post(address, "1").await.0, 400, "polling is over");
    listed(&cluster, "b", &[(&id, "foo")]).await;
    drop(socket);
    gone(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_socket_io_2_connect_over_websocket_with_a_notice() {
    let cluster = Cluster::holding(1, Index::memory(), POLLING).await;
    let address = cluster.nodes[0].public;
    let url = format!("http://{address}/socket.io/?EIO=3&transport=polling&id_user=foo&room=a");
    let (status, body) = answer(reqwest::Client::new().get(url)).await;
    let refusal: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 400);
    assert_eq!(&refusal["code"], &json!(5));
    assert!(text(&refusal, "message").contains("transports: [\"websocket\"]"));
    let url = format!("ws://{address}/socket.io/?EIO=3&transport=websocket&id_user=foo&room=a");
    let (_socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    until("it is listed", || async { cluster.nodes[0].roster.size().sockets == 1 }).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_disconnects_while_polling_is_removed_at_once() {
    let cluster = Cluster::holding(2, Index::memory(), POLLING).await;
    let nodes = [0, 1].map(|node| cluster.nodes[node].public);
    for polled in nodes {
        let (session, id) = Session::connect(nodes[0], "foo", "a").await;
        let poll = session.waits(polled).await;
        listed(&cluster, "a", &[(&id, "foo")]).await;
        poll.abort();
        gone(&cluster).await;
        assert_eq!(session.poll(polled).await, unknown());
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_concurrent_polls_end_the_session_on_any_nodes() {
    let cluster = Cluster::holding(2, Index::memory(), POLLING).await;
    let nodes = [0, 1].map(|node| cluster.nodes[node].public);
    for second in nodes {
        let (session, _) = Session::connect(nodes[0], "foo", "a").await;
        let poll = session.waits(nodes[0]).await;
        assert_eq!(session.poll(second).await.0, 400);
        assert_eq!(poll.await.unwrap(), (200, "1".to_owned()));
        gone(&cluster).await;
        assert_eq!(session.poll(second).await, unknown());
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_stops_polling_is_removed_by_its_heartbeat() {
    let limits = SocketIoConfig {
        ping_interval: Duration::from_millis(300),
        ping_timeout: Duration::from_millis(500),
        ..POLLING
    };
    let cluster = Cluster::holding(1, Index::memory(), limits).await;
    let (session, id) = Session::connect(cluster.nodes[0].public, "foo", "a").await;
    listed(&cluster, "a", &[(&id, "foo")]).await;
    gone(&cluster).await;
    assert_eq!(session.poll(cluster.nodes[0].public).await, unknown());
    // Nor does one stay that opens a session and never enters.
    let session = Session::open(cluster.nodes[0].public, "id_user=foo&room=a").await;
    until("it is unknown", || async { session.poll(cluster.nodes[0].public).await == unknown() }).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_stays_away_for_a_ping_timeout_is_removed() {
    // Without this rule, the heartbeat would remove the client after a minute.
    let config =
        SocketIoConfig { ping_interval: Duration::from_secs(60), ping_timeout: Duration::from_secs(1), ..POLLING };
    let cluster = Cluster::holding(2, Index::memory(), config).await;
    let [near, far] = [0, 1].map(|node| cluster.nodes[node].public);
    let (stays, id) = Session::connect(near, "stays", "a").await;
    let (upgrades, upgraded_id) = Session::connect(near, "upgrades", "a").await;
    let mut websocket = upgrades.websocket(near).await.unwrap();
    websocket.send(Message::text("2probe")).await.unwrap();
    assert_eq!(websocket.next().await.unwrap().unwrap(), Message::text("3probe"));
    websocket.send(Message::text("5")).await.unwrap();
    let poll = stays.waits(far).await;
    // As a client that got an error from a balancer and opened a new session elsewhere.
    let (_leaves, _) = Session::connect(far, "leaves", "a").await;
    until("the client that stays away is removed", || async { cluster.users(0, "a").await.1.len() == 2 }).await;
    sleep(config.ping_timeout * 2).await;
    listed(&cluster, "a", &[(&id, "stays"), (&upgraded_id, "upgrades")]).await;
    poll.abort();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_or_malformed_payload_is_refused() {
    let cluster = Cluster::holding(1, Index::memory(), POLLING).await;
    let address = cluster.nodes[0].public;
    let (session, id) = Session::connect(address, "foo", "a").await;
    let (status, body) = session.post(address, vec![b'4'; (64 << 10) + 1]).await;
    assert_eq!(status, 413);
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["code"].clone(), json!(3));
    // Without a length that could be looked at first.
    let mut stream = TcpStream::connect(address).await.unwrap();
    let path = session.url(address).split_once(&address.to_string()).unwrap().1.to_owned();
    let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("8000\r\n{}\r\n", "4".repeat(0x8000));
    for _ in 0..3 {
        stream.write_all(chunk.as_bytes()).await.unwrap();
    }
    let mut status = [0; 12];
    timeout(PATIENCE, stream.read_exact(&mut status)).await.expect("an answer").unwrap();
    assert_eq!(&status, b"HTTP/1.1 413");
    assert_eq!(answer(session.http.put(session.url(address))).await.0, 400);
    listed(&cluster, "a", &[(&id, "foo")]).await;
    assert_eq!(session.post(address, "garbage").await.0, 400);
    gone(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polling_clients_of_a_stopping_node_reconnect_elsewhere() {
    let mut cluster = Cluster::holding(2, Index::memory(), POLLING).await;
    let address = cluster.nodes[0].public;
    let mut polls = Vec::new();
    for _ in 0..3 {
        let (session, _) = Session::connect(address, "foo", "a").await;
        polls.push(session.waits(address).await);
    }
    let (upgraded, _) = Session::connect(address, "foo", "a").await;
    let mut socket = upgraded.websocket(address).await.unwrap();
    socket.send(Message::text("2probe")).await.unwrap();
    socket.send(Message::text("5")).await.unwrap();
    assert_eq!(cluster.nodes[0].roster.size().sockets, 4);
    let began = Instant::now();
    cluster.nodes.remove(0).stop().await;
    assert!(began.elapsed() < Duration::from_secs(5), "it waited for polls: {:?}", began.elapsed());
    for poll in polls {
        assert_eq!(poll.await.unwrap(), unknown());
    }
    while let Some(Ok(message)) = timeout(PATIENCE, socket.next()).await.expect("it is closed") {
        assert!(!message.to_text().unwrap_or_default().starts_with("41"));
    }
    listed(&cluster, "a", &[]).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_pages_of_the_configured_origins_may_poll() {
    let cluster = Cluster::holding(1, Index::memory(), POLLING).await;
    let url = format!("http://{}/socket.io/?EIO=4&transport=polling&id_user=foo&room=a", cluster.nodes[0].public);
    let client = reqwest::Client::new();
    for (origin, allowed) in [("https://allowed.example", true), ("https://other.example", false)] {
        let response = client.get(&url).header("origin", origin).send().await.unwrap();
        assert_eq!(response.headers().contains_key("access-control-allow-origin"), allowed, "{origin}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polling_is_refused_without_its_flag() {
    let cluster = Cluster::start(1, Index::memory()).await;
    let url = format!("http://{}/socket.io/?EIO=4&transport=polling&id_user=foo&room=a", cluster.nodes[0].public);
    assert_eq!(answer(reqwest::Client::new().get(&url)).await.0, 400);
    assert_eq!(answer(reqwest::Client::new().get(format!("{url}&sid=FWHKDkMSQS-LgF51"))).await.0, 400);
    assert_eq!(cluster.nodes[0].roster.size().sockets, 0);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_of_a_session_may_arrive_on_another_node() {
    let cluster = Cluster::holding(4, Index::memory(), POLLING).await;
    let nodes: Vec<_> = cluster.nodes.iter().map(|node| node.public).collect();
    let session = Session::open(nodes[0], "id_user=foo&room=a").await;
    session.say(nodes[1], "40").await;
    let id = text(&serde_json::from_str(&session.hear(nodes[2], "40").await).unwrap(), "sid");
    listed(&cluster, "a", &[(&id, "foo")]).await;
    for turn in 0..20 {
        let [speaks, hears] = [turn % 4, (turn / 4) % 4].map(|node| nodes[node]);
        let poll = session.waits(hears).await;
        session.say(speaks, &format!("42{turn}[\"join\",\"b\"]")).await;
        assert_eq!(poll.await.unwrap(), (200, format!("43{turn}[{{\"ok\":true}}]")));
    }
    listed(&cluster, "b", &[(&id, "foo")]).await;
    assert_eq!(session.websocket(nodes[3]).await.err(), Some(400), "it cannot be handed on");
    let (status, body) = answer(session.http.get(session.url(nodes[3]).replace("=polling", "=websocket"))).await;
    assert!(status == 400 && body.contains("another node"), "{body}");
    listed(&cluster, "b", &[(&id, "foo")]).await;
    let poll = session.waits(nodes[2]).await;
    session.say(nodes[1], "1").await;
    assert_eq!(poll.await.unwrap().0, 200);
    gone(&cluster).await;
    assert_eq!(session.poll(nodes[3]).await, unknown());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_node_ends_its_own_sessions_on_every_node() {
    let mut cluster = Cluster::holding(3, Index::memory(), POLLING).await;
    let [stops, stays, last] = [0, 1, 2].map(|node| cluster.nodes[node].public);
    let (ends, _) = Session::connect(stops, "ends", "a").await;
    let ending = ends.waits(stays).await;
    let (goes_on, id) = Session::connect(stays, "goes on", "a").await;
    let going_on = goes_on.waits(stops).await;
    let began = Instant::now();
    cluster.nodes.remove(0).stop().await;
    assert!(began.elapsed() < Duration::from_secs(5), "it waited for polls: {:?}", began.elapsed());
    assert_eq!(ending.await.unwrap(), unknown());
    assert_eq!(ends.poll(last).await, unknown());
    assert_eq!(going_on.await.unwrap(), (200, "6".to_owned()));
    assert_eq!(goes_on.emit(last, "join", "b").await, json!({"ok": true}));
    listed(&cluster, "a", &[(&id, "goes on")]).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forwarded_polls_that_wait_do_not_block_other_requests() {
    const MANY: usize = 600;
    let cluster = Cluster::holding(2, Index::memory(), POLLING).await;
    let [here, there] = [0, 1].map(|node| cluster.nodes[node].public);
    let sessions: Vec<_> = join_all((0..MANY).map(|_| Session::connect(here, "foo", "a"))).await;
    let polls = join_all(sessions.iter().map(|(session, _)| session.waits(there))).await;
    assert!(polls.iter().all(|poll| !poll.is_finished()));
    let (complete, rows) = cluster.users(1, "a").await;
    assert!(complete);
    assert_eq!(rows.len(), MANY);
    for (session, _) in &sessions {
        session.say(there, "42[\"join\",\"b\"]").await;
    }
    assert_eq!(cluster.users(1, "b").await.1.len(), MANY);
    // All of them go at once.
    polls.iter().for_each(JoinHandle::abort);
    gone(&cluster).await;
    let (session, id) = Session::connect(here, "bar", "a").await;
    session.waits(there).await;
    listed(&cluster, "a", &[(&id, "bar")]).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mesh_forwards_to_sessions_only() {
    let cluster = Cluster::holding(1, Index::memory(), POLLING).await;
    let (session, id) = Session::connect(cluster.nodes[0].public, "foo", "a").await;
    let mut mesh = PollingServiceClient::new(link(&cluster));
    let mut forward = async |session: &str, asked: Asked| {
        let payload = b"1".to_vec();
        let request = ForwardRequest { session: session.to_owned(), asked: asked.into(), payload };
        mesh.forward(request).await.map(tonic::Response::into_inner).map_err(|status| status.code())
    };
    for wrong in [&id, "", "../../a/users", &session.signed_id[1..]] {
        assert_eq!(forward(wrong, Asked::Post).await.unwrap_err(), Code::InvalidArgument);
    }
    assert_eq!(forward(&session.signed_id, Asked::Unspecified).await.unwrap_err(), Code::InvalidArgument);
    let forged = session.signed_id.replace(&id, "0000000000000000");
    for asked in [Asked::Poll, Asked::Post, Asked::Release] {
        let answer = forward(&forged, asked).await.unwrap();
        assert_eq!(answer.status, 400);
        assert_eq!(String::from_utf8(answer.body).unwrap(), UNKNOWN.to_owned());
    }
    listed(&cluster, "a", &[(&id, "foo")]).await;
    assert_eq!(forward(&session.signed_id, Asked::Post).await.unwrap().status, 200);
    gone(&cluster).await;
    cluster.stop().await;

    let cluster = Cluster::start(1, Index::memory()).await;
    let mut mesh = PollingServiceClient::new(link(&cluster));
    let request = ForwardRequest { session: session.signed_id, asked: Asked::Poll.into(), payload: Vec::new() };
    assert_eq!(mesh.forward(request).await.unwrap_err().code(), Code::Unimplemented);
    cluster.stop().await;
}

fn link(cluster: &Cluster) -> PeerChannel {
    PeerChannel::new(&cluster.nodes[0].mesh.to_string().into(), connect_tcp).unwrap()
}
