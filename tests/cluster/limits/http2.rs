//! The limits of one HTTP/2 connection. A client gets HTTP/2 only over TLS, so these tests serve a port of their own with the
//! loop that serves every port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{Request, Version};
use bytes::Bytes;
use rollcall::auth::crypto::provider;
use rollcall::auth::tls::Tls;
use rollcall::edge::connections::ConnectionServer;
use rollcall::edge::connections::handle::ConnectionRegistry;
use rollcall::edge::limits::Limits;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use testkit::any_certificate::AnyCertificate;
use testkit::{PATIENCE, listen_anywhere, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_millis(500);
/// Far more than a stream and the kernel hold.
const LARGE: usize = 64 << 20;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

struct Large(Arc<Vec<u8>>);

impl AsRef<[u8]> for Large {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A port that answers `/large` with a large body and everything else with a small one.
struct Port {
    address: SocketAddr,
    /// Shared with every body under way.
    large: Large,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Port {
    fn open(limits: &Limits) -> Self {
        let listener = listen_anywhere();
        let address = listener.local_addr().unwrap();
        let large = Large(Arc::new(vec![b'x'; LARGE]));
        let body = Large(Arc::clone(&large.0));
        let answer = move || std::future::ready(Bytes::from_owner(Large(Arc::clone(&body.0))));
        let router =
            axum::Router::new().route("/large", axum::routing::get(answer)).fallback(|| std::future::ready("small"));
        let server = ConnectionServer::new(ConnectionRegistry::default(), PATIENCE, Duration::ZERO, limits);
        let tls = Tls::self_signed(vec!["localhost".to_owned()]).unwrap().acceptor;
        let stop = CancellationToken::new();
        let serving = tokio::spawn(server.serve(listener, Some(tls), router, stop.clone()));
        Self { address, large, stop, serving }
    }

    /// TLS to it, by which both agree on HTTP/2.
    async fn connect(&self) -> TlsStream<TcpStream> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate::default()))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    async fn client(&self) -> h2::client::SendRequest<Bytes> {
        let (client, connection) = h2::client::handshake(self.connect().await).await.unwrap();
        tokio::spawn(connection);
        client
    }

    async fn close(self) {
        self.stop.cancel();
        self.serving.abort();
        let _ = self.serving.await;
    }
}

fn get(path: &str) -> Request<()> {
    let request = Request::get(format!("https://localhost{path}")).version(Version::HTTP_2);
    request.body(()).unwrap()
}

/// The bytes that arrive until the other end closes.
async fn rest(stream: &mut TlsStream<TcpStream>) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the node ends the connection");
    rest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_headers_are_answered_431_and_some_are_fine() {
    let port = Port::open(&Limits::default());
    let mut client = port.client().await.ready().await.unwrap();
    for (count, status) in [(90, 200), (1000, 431)] {
        let mut request = get("/");
        for number in 0..count {
            request.headers_mut().insert(
                axum::http::HeaderName::from_bytes(format!("x-{number}").as_bytes()).unwrap(),
                axum::http::HeaderValue::from_static("1"),
            );
        }
        let (response, _) = client.send_request(request, true).unwrap();
        let response = timeout(PATIENCE, response).await.expect("it is answered").unwrap();
        assert_eq!(response.status(), status);
    }
    port.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_stream_is_reset_and_other_streams_continue() {
    let port = Port::open(&Limits { answer_timeout: SOON, ..Limits::default() });
    let mut client = port.client().await.ready().await.unwrap();
    let (response, _) = client.send_request(get("/large"), true).unwrap();
    let mut body = timeout(PATIENCE, response).await.unwrap().unwrap().into_body();
    // The client releases no capacity, so only one window arrives.
    let ended = async {
        loop {
            match body.data().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return error.reason(),
                None => return None,
            }
        }
    };
    let reason = timeout(PATIENCE, ended).await.expect("the node gives it up");
    assert_eq!(reason, Some(h2::Reason::CANCEL));
    // The test has one, and the route another.
    until("nothing of it is kept", || async { Arc::strong_count(&port.large.0) == 2 }).await;
    let (response, _) = client.ready().await.unwrap().send_request(get("/small"), true).unwrap();
    assert_eq!(timeout(PATIENCE, response).await.unwrap().unwrap().status(), 200);
    port.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_has_a_hundred_streams() {
    let port = Port::open(&Limits::default());
    let client = port.client().await;
    until("it has said so", || async { client.clone().current_max_send_streams() == 100 }).await;
    port.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_opened_only_to_be_reset_end_their_connection() {
    let port = Port::open(&Limits::default());
    let mut stream = port.connect().await;
    let mut bytes = [PREFACE, SETTINGS].concat();
    for number in 0..1000_u32 {
        let id = (2 * number + 1).to_be_bytes();
        // HEADERS with END_STREAM and END_HEADERS: GET, https, /, and an authority.
        bytes.extend([0, 0, 6, 1, 5].into_iter().chain(id).chain([0x82, 0x87, 0x84, 0x41, 1, b'a']));
        // RST_STREAM: CANCEL.
        bytes.extend([0, 0, 4, 3, 0].into_iter().chain(id).chain([0, 0, 0, 8]));
    }
    let _ = stream.write_all(&bytes).await;
    let answer = rest(&mut stream).await;
    // GOAWAY, the last stream, and ENHANCE_YOUR_CALM.
    let goaway = answer.windows(17).find(|frame| frame[..9] == [0, 0, frame[2], 7, 0, 0, 0, 0, 0]);
    assert_eq!(goaway.map(|frame| frame[16]), Some(11), "{answer:?}");
    let mut client = port.client().await.ready().await.unwrap();
    let (response, _) = client.send_request(get("/small"), true).unwrap();
    assert_eq!(timeout(PATIENCE, response).await.unwrap().unwrap().status(), 200, "others are not concerned");
    port.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_an_http2_preface_times_out() {
    let port = Port::open(&Limits { head_timeout: SOON, ..Limits::default() });
    for begins in [&b""[..], &PREFACE[..16]] {
        let mut stream = port.connect().await;
        stream.write_all(begins).await.unwrap();
        stream.flush().await.unwrap();
        let began = Instant::now();
        rest(&mut stream).await;
        assert!(began.elapsed() < PATIENCE / 2, "{begins:?}");
    }
    port.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_over_the_limit_is_refused_over_http2() {
    let port = Port::open(&Limits { connections: Some(1), ..Limits::default() });
    let mut first = port.client().await.ready().await.unwrap();
    let (response, _) = first.send_request(get("/small"), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
    let mut second = port.client().await.ready().await.unwrap();
    let (response, _) = second.send_request(get("/small"), true).unwrap();
    let response = timeout(PATIENCE, response).await.unwrap().unwrap();
    assert_eq!(response.status().as_u16(), 503);
    assert_eq!(response.headers()["retry-after"], "1");
    port.close().await;
}
