//! Clients of a cluster with `--identity jwt`: the accepted ones, their rooms, and the codes of the refusals.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use rollcall::auth::keys::KeySet;
use rollcall::auth::reload::Reloadable;
use rollcall::auth::verifier::{KeySource, TokenRules, TokenVerifier};
use rollcall::auth::{AccessPolicy, ApiAuth, IdentityMode};
use rollcall::edge::socketio::{SocketIoConfig, Transports};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::client::Client;
use testkit::cluster::{Cluster, Index};
use testkit::issuer::{Issuer, claims, from_now, verifier};
use testkit::{PATIENCE, text, until};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

const SECRET: &[u8; 32] = b"0123456789abcdef0123456789abcdef";
const OTHER_SECRET: &[u8; 32] = b"fedcba9876543210fedcba9876543210";

fn token(more: &Value) -> String {
    Issuer::secret("HS256", SECRET).token(&claims(more))
}

fn jwt_access(verifier: TokenVerifier) -> AccessPolicy {
    AccessPolicy { identity: IdentityMode::Jwt { verifier, grace: Duration::ZERO }, callers: ApiAuth::Anyone }
}

async fn cluster(count: usize) -> Cluster {
    Cluster::admitting(
        count,
        Index::memory(),
        SocketIoConfig::default(),
        jwt_access(verifier(SECRET, TokenRules::default())),
    )
    .await
}

/// The payload of a client that shows this token.
fn with(token: &str) -> String {
    json!({"token": token, "room": "Maths"}).to_string()
}

/// The code, and the whole message, by which a client is refused.
async fn refusal(address: SocketAddr, query: &str, auth: &str) -> (String, String) {
    let message = Client::with(address, query, auth).await.err().expect("the node refuses the client");
    (message.split_once(": ").expect("a code and an advice").0.to_owned(), message)
}

/// Connects with this header, sends `40`, and returns the answer of the node.
async fn answer_to_header(address: SocketAddr, authorization: &str, auth: &str) -> String {
    let url = format!("ws://{address}/socket.io/?EIO=4&transport=websocket&room=Maths");
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert("authorization", authorization.parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    socket.send(Message::text(format!("40{auth}"))).await.unwrap();
    loop {
        let message = timeout(PATIENCE, socket.next()).await.unwrap().expect("not closed").unwrap();
        let message = message.to_text().unwrap().to_owned();
        if message.starts_with("40") || message.starts_with("44") {
            return message;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_names_the_user_of_a_client() {
    let cluster = cluster(2).await;
    let client = Client::with(cluster.nodes[0].public, "", &with(&token(&json!({})))).await.unwrap();
    let named = with(&token(&json!({"sub": "bar"})));
    let renamed = Client::with(cluster.nodes[1].public, "id_user=bar", &named).await.unwrap();
    let expected = [(client.id.clone(), "foo".to_owned()), (renamed.id.clone(), "bar".to_owned())];
    for node in 0..2 {
        assert_eq!(cluster.users(node, "Maths").await, (true, BTreeSet::from(expected.clone())));
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_has_a_code_and_no_details() {
    let cluster = cluster(1).await;
    let address = cluster.nodes[0].public;
    let genuine = token(&json!({}));
    let expired = token(&json!({"exp": from_now(-3600)}));
    let forged = Issuer::secret("HS256", OTHER_SECRET).token(&claims(&json!({})));
    let late = token(&json!({"nbf": from_now(3600)}));
    let other_audience = token(&json!({"aud": "mail"}));
    let limited = token(&json!({"rooms": ["Physics", "team-*"]}));
    for (query, auth, code) in [
        ("room=Maths", "{}".to_owned(), "token_missing"),
        ("room=Maths", json!({"token": null}).to_string(), "token_missing"),
        ("room=Maths&id_user=foo", String::new(), "token_missing"),
        ("room=Maths", json!({"token": ""}).to_string(), "token_invalid"),
        ("room=Maths", json!({"token": [genuine]}).to_string(), "token_invalid"),
        ("room=Maths", json!({"token": {"a": 1}}).to_string(), "token_invalid"),
        ("room=Maths", format!("{{\"token\":\"{genuine}"), "token_invalid"),
        ("", with(&forged), "token_invalid"),
        ("", with(&late), "token_invalid"),
        ("", with(&other_audience), "token_invalid"),
        ("", with(&"x".repeat(20_000)), "token_invalid"),
        ("", with(&expired), "token_expired"),
        ("id_user=bar", with(&genuine), "id_user_forbidden"),
        ("", json!({"token": genuine, "room": "Maths", "id_user": "Foo"}).to_string(), "id_user_forbidden"),
        ("id_user=foo&id_user=bar", with(&genuine), "id_user_invalid"),
        ("", with(&limited), "room_forbidden"),
        ("", json!({"token": limited, "room": ["Physics", "Maths"]}).to_string(), "room_forbidden"),
        ("", json!({"token": genuine}).to_string(), "room_missing"),
        ("room=_", json!({"token": genuine}).to_string(), "room_invalid"),
    ] {
        let (refused, message) = refusal(address, query, &auth).await;
        assert_eq!(refused, code, "{query} {auth}");
        for secret in ["signature", "HS256", "aud", "nbf", "kid", "issuer", "foo"] {
            assert!(!message.contains(secret), "{message}");
        }
    }
    // A forged token and a token for another audience get the same message, so that a refusal reveals nothing.
    let all = [refusal(address, "", &with(&forged)).await, refusal(address, "", &with(&other_audience)).await];
    assert_eq!(all[0], all[1]);
    assert_eq!(cluster.nodes[0].roster.size().sockets, 0);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_in_the_query_is_not_read() {
    let cluster = cluster(1).await;
    let genuine = token(&json!({}));
    for key in ["token", "access_token", "authorization", "auth"] {
        let query = format!("room=Maths&id_user=foo&{key}={genuine}");
        let (code, message) = refusal(cluster.nodes[0].public, &query, "").await;
        assert_eq!(code, "token_missing", "{key}");
        assert!(message.contains("auth payload") && message.contains("in the query is not read"), "{message}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_send_its_token_in_a_header() {
    let cluster = cluster(1).await;
    let address = cluster.nodes[0].public;
    let genuine = token(&json!({}));
    for scheme in ["Bearer", "bearer"] {
        assert!(answer_to_header(address, &format!("{scheme} {genuine}"), "").await.starts_with("40"));
    }
    for (header, auth, code) in [
        (format!("Bearer {genuine}"), with(&format!("{genuine}x")), "token_invalid"),
        (format!("Basic {genuine}"), String::new(), "token_missing"),
        (genuine.clone(), String::new(), "token_missing"),
        ("Bearer".to_owned(), String::new(), "token_missing"),
        ("Bearer x".to_owned(), String::new(), "token_invalid"),
    ] {
        let answer = answer_to_header(address, &header, &auth).await;
        assert!(answer.starts_with("44") && answer.contains(code), "{header}: {answer}");
    }
    // A token in the auth payload takes precedence over a token in the header.
    assert!(answer_to_header(address, "Bearer x", &with(&genuine)).await.starts_with("40"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_also_limits_later_joins() {
    let cluster = cluster(1).await;
    let limited = token(&json!({"rooms": ["Maths", "team-*"]}));
    let client = Client::with(cluster.nodes[0].public, "", &with(&limited)).await.unwrap();
    for room in ["Physics", "team", "maths", "*"] {
        let answer = client.join(room).await;
        assert_eq!(&answer["ok"], &json!(false), "{room}");
        assert_eq!(&answer["code"], &json!("room_forbidden"), "{room}");
        assert!(!text(&answer, "message").is_empty());
        assert_eq!(cluster.users(0, room).await, (true, BTreeSet::new()));
    }
    assert_eq!(client.join("team-7").await, json!({"ok": true}));
    assert_eq!(cluster.users(0, "team-7").await.1.len(), 1);
    assert_eq!(client.leave("Physics").await, json!({"ok": true}), "leaving a room without a join before is no error");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_key_file_is_reloaded_and_a_malformed_one_is_not() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, SECRET).unwrap();
    let keys = Reloadable::open(vec![file.clone()], |contents| Ok(KeySet::of_file(&contents[0])?)).unwrap();
    let access = jwt_access(TokenVerifier::new(KeySource::File(keys), TokenRules::default()));
    let cluster = Cluster::admitting(1, Index::memory(), SocketIoConfig::default(), access).await;
    let address = cluster.nodes[0].public;
    let (old, new) = (token(&json!({})), Issuer::secret("HS256", OTHER_SECRET).token(&claims(&json!({}))));
    let stays = Client::with(address, "", &with(&old)).await.unwrap();
    std::fs::write(&file, "too short").unwrap();
    assert_eq!(refusal(address, "", &with(&new)).await.0, "token_invalid");
    std::fs::write(&file, OTHER_SECRET).unwrap();
    until("the new key is in use", || async { Client::with(address, "", &with(&new)).await.is_ok() }).await;
    assert_eq!(refusal(address, "", &with(&old)).await.0, "token_invalid");
    assert_eq!(stays.join("Physics").await, json!({"ok": true}), "connected sockets stay");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polling_clients_may_send_their_token_to_any_node() {
    let limits = SocketIoConfig { transports: Transports::WebsocketAndPolling, ..SocketIoConfig::default() };
    let access = jwt_access(verifier(SECRET, TokenRules::default()));
    let cluster = Cluster::admitting(2, Index::memory(), limits, access).await;
    let [address, other] = [0, 1].map(|node| cluster.nodes[node].public);
    let genuine = token(&json!({}));
    let forged = Issuer::secret("HS256", OTHER_SECRET).token(&claims(&json!({})));
    for (header, auth, expected) in [
        (None, with(&genuine), "40"),
        (Some(&genuine), String::new(), "40"),
        (None, String::new(), "token_missing"),
        (None, with(&forged), "token_invalid"),
        (Some(&forged), String::new(), "token_invalid"),
    ] {
        let mut open = cluster.http.get(format!("http://{address}/socket.io/?EIO=4&transport=polling&room=Maths"));
        if let Some(token) = header {
            open = open.bearer_auth(token);
        }
        let opened = open.send().await.unwrap().text().await.unwrap();
        let sid = text(&serde_json::from_str(opened.strip_prefix('0').unwrap()).unwrap(), "sid");
        let url = format!("http://{other}/socket.io/?EIO=4&transport=polling&sid={sid}");
        cluster.http.post(&url).body(format!("40{auth}")).send().await.unwrap();
        let heard = async {
            loop {
                let body = cluster.http.get(&url).send().await.unwrap().text().await.unwrap();
                if let Some(answer) =
                    body.split('\u{1e}').find(|packet| packet.starts_with("40") || packet.starts_with("44"))
                {
                    break answer.to_owned();
                }
                cluster.http.post(&url).body("3").send().await.unwrap();
            }
        };
        let heard = timeout(PATIENCE, heard).await.expect("the node accepts or refuses the client");
        assert!(heard.contains(expected), "{heard}");
    }
    assert_eq!(cluster.nodes[0].roster.size().sockets, 2);
    cluster.stop().await;
}
