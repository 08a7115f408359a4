//! `KeySource` over a JWKS URL whose server answers, rotates its keys, hangs, sends invalid answers, floods or dies.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use reqwest::Url;
use rollcall::auth::jwks::{Jwks, JwksIntervals};
use rollcall::auth::verifier::{KeySource, TokenRules, TokenVerifier};
use rollcall::auth::{AccessPolicy, ApiAuth, AuthError, IdentityMode};
use rollcall::edge::socketio::SocketIoConfig;
use serde_json::{Value, json};
use testkit::client::{Client, open};
use testkit::cluster::{Cluster, Index};
use testkit::issuer::{Issuer, claims};
use testkit::{PATIENCE, listen_anywhere, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Intervals short enough for a test, with an immediate fetch for an unknown key.
const SHORT_INTERVALS: JwksIntervals = JwksIntervals {
    refresh: Duration::from_millis(50),
    retry: Duration::from_millis(50),
    early: Duration::ZERO,
    timeout: Duration::from_millis(500),
};
const NEVER: Duration = Duration::from_secs(3600);

#[derive(Clone)]
enum Mode {
    Answers(String),
    Says(&'static str),
    /// Accepts the request, and never answers.
    Hangs,
    /// Sends an answer without an end.
    Floods,
    /// Sends one byte per pause, so that the body never ends.
    Drips,
    HangsUp,
}

/// The JWKS server of a test.
struct Source {
    url: Url,
    mode: Arc<Mutex<Mode>>,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Source {
    fn start(mode: Mode) -> Self {
        Self::on(listen_anywhere(), mode)
    }

    fn on(listener: TcpListener, mode: Mode) -> Self {
        let url = format!("http://{}/keys?secret=hush", listener.local_addr().unwrap()).parse().unwrap();
        let (mode, asked) = (Arc::new(Mutex::new(mode)), Arc::new(AtomicUsize::new(0)));
        let task = tokio::spawn({
            let (mode, asked) = (Arc::clone(&mode), Arc::clone(&asked));
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    asked.fetch_add(1, Ordering::SeqCst);
                    let mode = mode.lock().unwrap().clone();
                    tokio::spawn(answer(stream, mode));
                }
            }
        });
        Self { url, mode, asked, task }
    }

    fn becomes(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Waits for two more requests, since the first one may have begun before this call.
    async fn fetched_again(&self) {
        let before = self.asked();
        until("the node fetches the JWKS again", || async { self.asked() >= before + 2 }).await;
    }

    fn verifier(&self, pace: JwksIntervals) -> TokenVerifier {
        let jwks = Jwks::new(self.url.clone(), pace).unwrap();
        let verifier = TokenVerifier::new(KeySource::Url(jwks), TokenRules::default());
        tokio::spawn(verifier.clone().refresh_keys());
        verifier
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut stream: TcpStream, mode: Mode) {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request).await;
    match mode {
        Mode::Answers(body) => {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
        }
        Mode::Says(all) => {
            let _ = stream.write_all(all.as_bytes()).await;
        }
        Mode::Hangs => sleep(NEVER).await,
        Mode::Floods => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"keys\":[").await;
            while stream.write_all(&[b' '; 65_536]).await.is_ok() {}
        }
        Mode::Drips => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await;
            while stream.write_all(b" ").await.is_ok() {
                sleep(Duration::from_millis(20)).await;
            }
        }
        Mode::HangsUp => {}
    }
}

fn set(keys: &[Value]) -> Mode {
    Mode::Answers(json!({"keys": keys}).to_string())
}

/// All faults of a source.
fn faults() -> Vec<Mode> {
    let mut faults: Vec<Mode> = [
        "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/keys\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n{}",
        "SSH-2.0-OpenSSH_9.6\r\n",
    ]
    .map(Mode::Says)
    .into();
    let bodies = ["", "<html>busy</html>", "{}", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","kid":"a","k":"AAAA"}]}"#];
    faults.extend(bodies.map(|body| Mode::Answers(body.to_owned())));
    faults.extend([Mode::Answers(" ".repeat(1 << 20)), Mode::Hangs, Mode::Floods, Mode::Drips, Mode::HangsUp]);
    faults
}

async fn ready(verifier: &TokenVerifier) {
    until("the verifier has its keys", || async { verifier.is_ready() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_is_fetched_when_a_token_names_it() {
    let (old, new) = (Issuer::es256(), Issuer::rsa("RS256"));
    let source = Source::start(set(&[old.jwk("old")]));
    let verifier = source.verifier(JwksIntervals { refresh: NEVER, early: NEVER, ..JwksIntervals::default() });
    ready(&verifier).await;
    let (by_old, by_new) = (old.named_token("old", &claims(&json!({}))), new.named_token("new", &claims(&json!({}))));
    assert_eq!(verifier.verify(&by_old).await.unwrap().user.as_str(), "foo");
    source.becomes(set(&[old.jwk("old"), new.jwk("new")]));
    // Many clients present the new key at once. The verifier makes one request for all of them.
    let crowd = join_all((0..200).map(|_| verifier.verify(&by_new))).await;
    assert!(crowd.iter().all(Result::is_ok), "{crowd:?}");
    assert_eq!(source.asked(), 2);
    assert!(verifier.verify(&by_old).await.is_ok());
    // A known `kid` selects its own key, so a signature of another key is invalid without a fetch.
    for forged in [new.named_token("old", &claims(&json!({}))), old.named_token("new", &claims(&json!({})))] {
        assert!(matches!(verifier.verify(&forged).await, Err(AuthError::Invalid(_))));
    }
    assert_eq!(source.asked(), 2, "a known kid causes no fetch");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_key_is_no_longer_accepted() {
    let (old, new) = (Issuer::es256(), Issuer::es384());
    let source = Source::start(set(&[old.jwk("old")]));
    let verifier = source.verifier(SHORT_INTERVALS);
    ready(&verifier).await;
    let token = old.named_token("old", &claims(&json!({})));
    assert!(verifier.verify(&token).await.is_ok());
    source.becomes(set(&[new.jwk("new")]));
    until("the verifier rejects the removed key", || async {
        matches!(verifier.verify(&token).await, Err(AuthError::Invalid(_)))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_names_its_key_unless_there_is_only_one() {
    let (one, other) = (Issuer::es256(), Issuer::ed25519());
    let source = Source::start(set(&[one.jwk("one")]));
    let pace = JwksIntervals { refresh: NEVER, early: NEVER, ..JwksIntervals::default() };
    let verifier = source.verifier(pace);
    ready(&verifier).await;
    assert!(verifier.verify(&one.token(&claims(&json!({})))).await.is_ok());
    let several = Source::start(set(&[one.jwk("one"), other.jwk("other")]));
    let verifier = several.verifier(pace);
    ready(&verifier).await;
    assert!(matches!(verifier.verify(&one.token(&claims(&json!({})))).await, Err(AuthError::Invalid(_))));
    assert!(verifier.verify(&one.named_token("one", &claims(&json!({})))).await.is_ok());
    assert_eq!(source.asked(), 1);
    assert_eq!(several.asked(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_key_ids_do_not_cause_a_fetch_storm() {
    let issuer = Issuer::es256();
    let source = Source::start(set(&[issuer.jwk("one")]));
    let verifier = source.verifier(JwksIntervals { refresh: NEVER, early: NEVER, ..SHORT_INTERVALS });
    ready(&verifier).await;
    let attacks = (0..500).map(|number| {
        let (verifier, forged) =
            (verifier.clone(), issuer.named_token(&format!("made up {number}"), &claims(&json!({}))));
        async move { verifier.verify(&forged).await }
    });
    let denied = join_all(attacks).await;
    assert!(
        denied.iter().all(|denied| matches!(denied, Err(AuthError::Invalid(_) | AuthError::Unavailable))),
        "{denied:?}"
    );
    assert!(
        denied.iter().any(|denied| matches!(denied, Err(AuthError::Invalid(_)))),
        "the verifier makes one request for all of them"
    );
    // No further request is allowed now: the verifier answers `Unavailable` without a long wait.
    let began = Instant::now();
    let forged = issuer.named_token("made up", &claims(&json!({})));
    assert_eq!(verifier.verify(&forged).await, Err(AuthError::Unavailable));
    assert!(began.elapsed() < SHORT_INTERVALS.timeout * 3);
    assert_eq!(source.asked(), 2);
    assert!(
        verifier.verify(&issuer.named_token("one", &claims(&json!({})))).await.is_ok(),
        "a token with a known key is accepted"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_source_does_not_remove_its_keys() {
    let (issuer, next) = (Issuer::es256(), Issuer::es384());
    let source = Source::start(set(&[issuer.jwk("one")]));
    let verifier = source.verifier(SHORT_INTERVALS);
    ready(&verifier).await;
    let good = issuer.named_token("one", &claims(&json!({})));
    let unknown = next.named_token("next", &claims(&json!({})));
    for fault in faults() {
        source.becomes(fault);
        source.fetched_again().await;
        let began = Instant::now();
        assert!(verifier.verify(&good).await.is_ok());
        assert!(
            began.elapsed() < SHORT_INTERVALS.timeout / 2,
            "a token with a known key does not wait for a failed source"
        );
        // The key may be new, so the verifier cannot reject the token as invalid.
        assert_eq!(verifier.verify(&unknown).await, Err(AuthError::Unavailable));
        assert!(began.elapsed() < SHORT_INTERVALS.timeout * 3);
    }
    source.becomes(set(&[next.jwk("next")]));
    until("the new key is accepted", || async { verifier.verify(&unknown).await.is_ok() }).await;
    assert!(verifier.verify(&good).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_starts_without_its_source_and_rejects_tokens() {
    let issuer = Issuer::ed25519();
    let address = {
        let listener = listen_anywhere();
        listener.local_addr().unwrap()
    };
    let jwks = Jwks::new(format!("http://{address}/keys").parse().unwrap(), SHORT_INTERVALS).unwrap();
    let verifier = TokenVerifier::new(KeySource::Url(jwks), TokenRules::default());
    let identity = IdentityMode::Jwt { verifier: verifier.clone(), grace: Duration::ZERO };
    let access = AccessPolicy { identity, callers: ApiAuth::Jwt(verifier.clone()) };
    let cluster = Cluster::admitting(1, Index::memory(), SocketIoConfig::default(), access).await;
    let node = cluster.nodes[0].public;
    let token = issuer.named_token("one", &claims(&json!({"roll_call": ["*"]})));
    let auth = json!({"token": token, "room": "Maths"}).to_string();

    let handshake = cluster.get(0, "/socket.io/?EIO=4&transport=websocket").await;
    assert_eq!(handshake.status().as_u16(), 503);
    assert_eq!(handshake.headers()["retry-after"], "1");
    assert!(handshake.text().await.unwrap().contains("no key yet"));
    let users = || cluster.http.get(format!("http://{node}/Maths/users")).bearer_auth(&token).send();
    let refused = users().await.unwrap();
    assert_eq!(refused.status().as_u16(), 503);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(refused.headers()["content-type"], "application/problem+json");

    let listener = rollcall::edge::connections::listener::listen(address, false).unwrap();
    let source = Source::on(listener, set(&[issuer.jwk("one")]));
    ready(&verifier).await;
    let client = Client::with(node, "", &auth).await.unwrap();
    let rows: Vec<Value> = users().await.unwrap().json().await.unwrap();
    assert_eq!(rows, [json!({"id_socket": client.id, "id_user": "foo"})]);

    // The key may be new while the source is down: the node closes the transport without an error packet, and the
    // client tries again.
    source.becomes(Mode::HangsUp);
    source.fetched_again().await;
    let unknown = json!({"token": issuer.named_token("next", &claims(&json!({}))), "room": "Maths"}).to_string();
    let mut socket = open(node, "", &unknown).await;
    let ended = async {
        while let Some(Ok(message)) = socket.next().await {
            let message = message.into_text().unwrap_or_default();
            assert!(!message.starts_with("44") && !message.starts_with("41"), "{message}");
        }
    };
    timeout(PATIENCE, ended).await.expect("the node closes the transport");
    assert_eq!(client.join("Physics").await, json!({"ok": true}), "connected sockets stay");
    cluster.stop().await;
}
