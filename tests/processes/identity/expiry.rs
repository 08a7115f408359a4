//! Sockets whose token expires: the node removes their rows and closes their transport so that official clients
//! reconnect. Sockets with a valid token stay.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use rollcall::auth::verifier::{LEEWAY, TokenRules};
use rollcall::auth::{AccessPolicy, ApiAuth, IdentityMode};
use rollcall::edge::socketio::{SocketIoConfig, Transports};
use serde_json::json;
use testkit::client::{Client, Socket, open};
use testkit::cluster::{Cluster, Index};
use testkit::issuer::{Issuer, claims, from_now, verifier};
use testkit::{PATIENCE, text, until};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

const SECRET: &[u8; 32] = b"0123456789abcdef0123456789abcdef";
/// The lifetime of a short token in seconds: enough to connect and to be listed, even if the machine stalls for a while.
const SHORT_LIFETIME: i64 = 8;
/// socketioxide acknowledges a connect before it has finished it, and ignores a second connect until then. No event
/// reports that it has finished.
const CONNECT_DELAY: Duration = Duration::from_millis(500);

/// The payload of a client whose token expires after `seconds`, with the leeway.
fn auth(seconds: i64) -> String {
    let claims = claims(&json!({"exp": from_now(seconds - LEEWAY as i64)}));
    json!({"token": Issuer::secret("HS256", SECRET).token(&claims), "room": "Maths"}).to_string()
}

async fn cluster(grace: Duration, transports: Transports) -> Cluster {
    let identity = IdentityMode::Jwt { verifier: verifier(SECRET, TokenRules::default()), grace };
    let access = AccessPolicy { identity, callers: ApiAuth::Anyone };
    Cluster::admitting(1, Index::memory(), SocketIoConfig { transports, ..SocketIoConfig::default() }, access).await
}

/// Reads until a packet with this prefix, and answers pings.
async fn hear(socket: &mut Socket, prefix: &str) {
    let heard = async {
        loop {
            let message = socket.next().await.expect("not closed").unwrap();
            match message.to_text().unwrap() {
                "2" => socket.send(Message::text("3")).await.unwrap(),
                text if text.starts_with(prefix) => return,
                _ => {}
            }
        }
    };
    timeout(PATIENCE, heard).await.expect("a packet in time");
}

/// All messages until the transport closes.
async fn rest(mut socket: Socket) -> Vec<String> {
    let mut heard = Vec::new();
    let ended = async {
        while let Some(Ok(message)) = socket.next().await {
            heard.push(message.into_text().map(|text| text.to_string()).unwrap_or_default());
        }
    };
    timeout(PATIENCE, ended).await.expect("the node closes the transport");
    heard
}

async fn sockets(cluster: &Cluster) -> usize {
    let (complete, users) = cluster.users(0, "Maths").await;
    assert!(complete);
    users.len()
}

async fn connected(address: SocketAddr, seconds: i64) -> Socket {
    let mut socket = open(address, "", &auth(seconds)).await;
    hear(&mut socket, "40{").await;
    socket
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_ends_with_its_token_and_its_client_reconnects() {
    let cluster = cluster(Duration::ZERO, Transports::Websocket).await;
    let address = cluster.nodes[0].public;
    let (short, long) = (auth(SHORT_LIFETIME), Client::with(address, "", &auth(3600)).await.unwrap());
    let mut socket = open(address, "", &short).await;
    hear(&mut socket, "40{").await;
    assert_eq!(sockets(&cluster).await, 2);
    let heard = rest(socket).await;
    // The node removes the rows before it closes the transport.
    assert_eq!(cluster.users(0, "Maths").await.1, BTreeSet::from([(long.id.clone(), "foo".to_owned())]));
    assert!(heard.iter().all(|message| !message.starts_with("41") && !message.starts_with('1')), "{heard:?}");
    let again = Client::with(address, "", &short).await.err().expect("the node refuses the expired token");
    assert!(again.starts_with("token_expired: "), "{again}");
    assert!(Client::with(address, "", &auth(3600)).await.is_ok(), "a client with a new token connects");
    assert_eq!(long.join("Physics").await, json!({"ok": true}), "sockets with a valid token stay");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_grace_period_keeps_sockets_and_admits_no_new_ones() {
    let cluster = cluster(Duration::from_secs(3600), Transports::Websocket).await;
    let address = cluster.nodes[0].public;
    let short = auth(SHORT_LIFETIME);
    let client = Client::with(address, "", &short).await.unwrap();
    until("the token expires", || async {
        Client::with(address, "", &short).await.is_err_and(|message| message.starts_with("token_expired: "))
    })
    .await;
    assert_eq!(client.join("Physics").await, json!({"ok": true}));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_token_on_the_same_transport_extends_the_session() {
    let cluster = cluster(Duration::ZERO, Transports::Websocket).await;
    let address = cluster.nodes[0].public;
    let mut renewed = connected(address, SHORT_LIFETIME).await;
    sleep(CONNECT_DELAY).await;
    renewed.send(Message::text("41")).await.unwrap();
    renewed.send(Message::text(format!("40{}", auth(3600)))).await.unwrap();
    hear(&mut renewed, "40{").await;
    // The second socket has a token that expires after the first token. When it closes, the first token has expired.
    let later = connected(address, SHORT_LIFETIME + 1).await;
    rest(later).await;
    renewed.send(Message::text("427[\"join\",\"Physics\"]")).await.unwrap();
    hear(&mut renewed, "437[{\"ok\":true}]").await;
    assert_eq!(sockets(&cluster).await, 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_polling_session_also_ends_with_its_token() {
    let cluster = cluster(Duration::ZERO, Transports::WebsocketAndPolling).await;
    let address = cluster.nodes[0].public;
    let base = format!("http://{address}/socket.io/?EIO=4&transport=polling");
    let opened = cluster.http.get(&base).send().await.unwrap().text().await.unwrap();
    let sid = text(&serde_json::from_str(opened.strip_prefix('0').unwrap()).unwrap(), "sid");
    let url = format!("{base}&sid={sid}");
    cluster.http.post(&url).body(format!("40{}", auth(SHORT_LIFETIME))).send().await.unwrap();
    let (mut was_in, mut heard) = (false, String::new());
    let ended = async {
        loop {
            let response = cluster.http.get(&url).send().await.unwrap();
            if response.status() != 200 {
                break response.text().await.unwrap();
            }
            heard.push_str(&response.text().await.unwrap());
            was_in |= sockets(&cluster).await == 1;
            cluster.http.post(&url).body("3").send().await.unwrap();
        }
    };
    let ended = timeout(PATIENCE, ended).await.expect("the session ends");
    assert!(was_in && heard.contains("40{") && !heard.contains("41"), "{heard}");
    assert!(ended.contains("Session ID unknown"), "{ended}");
    assert_eq!(sockets(&cluster).await, 0);
    cluster.stop().await;
}
