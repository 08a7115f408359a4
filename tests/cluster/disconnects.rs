//! Clients that disconnect while their node waits on their behalf: their rows go at once. Redis hangs and one node does not
//! acknowledge, so no join is settled before the end of the test.

use std::net::SocketAddr;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use rollcall::edge::limits::Limits;
use rollcall::edge::socketio::{SocketIoConfig, Transports};
use serde_json::Value;
use testkit::client::{Socket, open};
use testkit::cluster::{Cluster, Index};
use testkit::proxy::{Callers, Mode, Proxy};
use testkit::{PATIENCE, listen_anywhere, text, until};
use tokio::time::timeout;
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::tungstenite::Message;

/// Joins wait for four fifths of this, which is longer than [`PATIENCE`].
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
const LEAVE: &str = "41";
const JOIN: &str = "42[\"join\",\"waiting\"]";

/// A node whose joins wait, and what keeps them waiting.
struct HungCluster {
    cluster: Cluster,
    proxy: Proxy,
}

impl HungCluster {
    /// `clients` connect before Redis hangs. The first node gets them.
    async fn start<T>(clients: impl AsyncFnOnce(SocketAddr) -> T) -> (Self, T) {
        let limits = Limits { connect_timeout: CONNECT_TIMEOUT, ..Limits::default() };
        let config = SocketIoConfig { transports: Transports::WebsocketAndPolling, ..SocketIoConfig::default() };
        let mut cluster = Cluster::bounded(2, Index::redis().await, config, limits).await;
        let mesh = listen_anywhere();
        let proxy = Proxy::start(mesh.local_addr().unwrap(), Callers::One(0)).await;
        cluster.add_behind(mesh, proxy.address).await;
        let node = &cluster.nodes[0];
        until("the first node knows both others", || async { node.membership.view().members.len() == 2 }).await;
        let clients = clients(node.public).await;
        proxy.set(0, Mode::Held);
        cluster.index.server().stop().await;
        (Self { cluster, proxy }, clients)
    }

    fn address(&self) -> SocketAddr {
        self.cluster.nodes[0].public
    }

    /// Whether the node itself lists a socket of the user, in an answer that is incomplete.
    async fn lists(&self, user: &str) -> bool {
        let response = self.cluster.get(0, "/waiting/users?deadline_ms=100").await;
        assert_eq!(response.headers()["rollcall-complete"], "false", "redis does not hang any more");
        let rows: Vec<Value> = response.json().await.unwrap();
        rows.iter().any(|row| row["id_user"] == user)
    }

    async fn is_listed(&self, user: &str) {
        until(&format!("{user} is listed"), || self.lists(user)).await;
    }

    async fn is_gone(&self, user: &str) {
        until(&format!("the row of {user} is gone"), || self.lists(user).map_not()).await;
    }

    async fn end(self) {
        self.cluster.index.server().resume();
        self.proxy.set(0, Mode::Open);
        self.cluster.stop().await;
    }
}

/// Negates the output of a future.
trait MapNot: Future<Output = bool> + Sized {
    async fn map_not(self) -> bool {
        !self.await
    }
}

impl<F: Future<Output = bool>> MapNot for F {}

/// A client that was let in to a room of its own.
async fn connected(address: SocketAddr, user: &str) -> Socket {
    let mut socket = open(address, &format!("id_user={user}&room=home"), "").await;
    loop {
        let message = timeout(PATIENCE, socket.next()).await.expect("an answer").expect("not closed").unwrap();
        if message.to_text().unwrap().starts_with("40") {
            return socket;
        }
    }
}

async fn write_together(socket: &mut Socket, messages: impl IntoIterator<Item = Message>) {
    for message in messages {
        socket.feed(message).await.unwrap();
    }
    socket.flush().await.unwrap();
}

/// In one thread, so that the node handles all packets of one write before the task of the join runs.
#[tokio::test]
async fn a_client_that_leaves_during_a_join_is_removed_at_once() {
    let users = ["packet", "packet-later", "frame", "dropped", "reset"];
    let (hung, clients) = HungCluster::start(async |address| {
        let mut clients = Vec::new();
        for user in users {
            clients.push(connected(address, user).await);
        }
        clients
    })
    .await;
    let [mut packet, mut packet_later, mut frame, mut dropped, mut reset] =
        clients.try_into().unwrap_or_else(|_| panic!("one client per user"));

    for socket in [&mut packet_later, &mut dropped, &mut reset] {
        socket.send(Message::text(JOIN)).await.unwrap();
    }
    for user in ["packet-later", "dropped", "reset"] {
        hung.is_listed(user).await;
    }
    write_together(&mut packet, [Message::text(JOIN), Message::text(LEAVE)]).await;
    write_together(&mut frame, [Message::text(JOIN), Message::Close(None)]).await;
    packet_later.send(Message::text(LEAVE)).await.unwrap();
    let MaybeTlsStream::Plain(stream) = reset.get_ref() else { panic!("the tests speak plain TCP") };
    stream.set_zero_linger().unwrap();
    drop((dropped, reset));
    for user in users {
        hung.is_gone(user).await;
    }
    hung.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_during_its_connect_is_removed_at_once() {
    let (hung, ()) = HungCluster::start(async |_| ()).await;
    let connecting = async |user: &str| open(hung.address(), &format!("id_user={user}&room=waiting"), "").await;
    let mut sockets = Vec::new();
    for user in ["packet", "frame", "dropped"] {
        sockets.push(connecting(user).await);
        hung.is_listed(user).await;
    }
    let dropped = sockets.pop();
    sockets[0].send(Message::text(LEAVE)).await.unwrap();
    sockets[1].send(Message::Close(None)).await.unwrap();
    drop(dropped);
    for user in ["packet", "frame", "dropped"] {
        hung.is_gone(user).await;
    }
    hung.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_polling_client_that_closes_while_it_waits_is_removed_at_once() {
    let (hung, ()) = HungCluster::start(async |_| ()).await;
    let http = reqwest::Client::new();
    for packet in ["1", LEAVE] {
        let user = format!("polling-{packet}");
        let base = format!("http://{}/socket.io/?EIO=4&transport=polling", hung.address());
        let open = http.get(format!("{base}&id_user={user}&room=waiting")).send().await.unwrap().text().await.unwrap();
        let open: Value = serde_json::from_str(open.strip_prefix('0').expect("an open packet")).unwrap();
        let url = format!("{base}&sid={}", text(&open, "sid"));
        http.post(&url).body("40").send().await.unwrap();
        hung.is_listed(&user).await;
        // Official clients always have a poll in progress.
        let poll = tokio::spawn(async move {
            let http = reqwest::Client::new();
            while http.get(&url).send().await.is_ok_and(|answer| answer.status() == 200) {}
        });
        let url = format!("{base}&sid={}", text(&open, "sid"));
        http.post(&url).body(packet).send().await.unwrap();
        hung.is_gone(&user).await;
        poll.abort();
    }
    hung.end().await;
}
