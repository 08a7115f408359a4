//! Https for clients: REST over HTTP/2 and WebSocket over HTTP/1.1 on one port, and certificates that change at run time.

use std::net::SocketAddr;

use futures::{SinkExt, StreamExt};
use rustls::pki_types::ServerName;
use testkit::pki::trusting;
use testkit::pki::{Authority, Folder, Issued, Time};
use testkit::process::{Process, ServeCommand};
use testkit::until;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tonic::codegen::http::{HeaderMap, Request, StatusCode};

async fn connect(ca: &str, to: SocketAddr, protocols: &[&str]) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(to).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    trusting(ca, protocols).connect(name, stream).await.unwrap()
}

/// Sends a GET over HTTP/2, which ALPN must have chosen, and returns the answer.
async fn get(stream: TlsStream<TcpStream>, path: &str) -> (StatusCode, HeaderMap, Vec<u8>) {
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get(format!("https://localhost{path}")).body(()).unwrap();
    let (answer, _) = requests.send_request(request, true).unwrap();
    let (parts, mut body) = answer.await.unwrap().into_parts();
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        bytes.extend_from_slice(&chunk.unwrap());
    }
    connection.abort();
    (parts.status, parts.headers, bytes)
}

async fn serving(folder: &Folder, issued: &Issued) -> Process {
    let certificate = folder.write("public.pem", &issued.certificate);
    let key = folder.write("public.key", &issued.key);
    ServeCommand::named("one").with(&["--tls-cert", &certificate, "--tls-key", &key]).ready().await
}

fn localhost(authority: &Authority) -> Issued {
    authority.issue("localhost", Time::Now)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_requests_and_http1_websockets_share_one_port() {
    let (authority, folder) = (Authority::new("public"), Folder::new());
    let node = serving(&folder, &localhost(&authority)).await;
    let both = ["h2", "http/1.1"];
    let stream = connect(&authority.pem, node.public, &["http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let url = "wss://localhost/socket.io/?EIO=4&transport=websocket&id_user=foo&room=a";
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    socket.send(Message::text("40")).await.unwrap();
    let id = loop {
        let message = socket.next().await.unwrap().unwrap().into_text().unwrap();
        if let Some(answer) = message.strip_prefix("40") {
            let answer: serde_json::Value = serde_json::from_str(answer).unwrap();
            break answer["sid"].as_str().unwrap().to_owned();
        }
    };
    let (status, headers, body) = get(connect(&authority.pem, node.public, &both).await, "/a/users").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers["rollcall-complete"], "true");
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&body).unwrap()[0]["id_socket"], id.as_str());
    assert_eq!(headers["strict-transport-security"], "max-age=31536000");
    assert_eq!(headers["x-content-type-options"], "nosniff");
    assert_eq!(headers["cross-origin-resource-policy"], "same-origin");
    // A plain http request gets no answer on the https port.
    assert!(reqwest::get(format!("http://{}/a/users", node.public)).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_loads_only_its_own_resources() {
    let (authority, folder) = (Authority::new("public"), Folder::new());
    let node = serving(&folder, &localhost(&authority)).await;
    for path in ["/", "/Maths"] {
        let (status, headers, body) = get(connect(&authority.pem, node.public, &["h2"]).await, path).await;
        assert_eq!(status, StatusCode::OK);
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'") && policy.contains("base-uri 'none'"), "{policy}");
        assert_eq!(headers["referrer-policy"], "no-referrer");
        assert_eq!(headers["cross-origin-opener-policy"], "same-origin");
        assert!(headers["permissions-policy"].to_str().unwrap().contains("camera=()"));
        assert!(headers.contains_key("strict-transport-security"));
        let page = String::from_utf8(body).unwrap();
        let inline =
            page.split("<script").skip(1).any(|script| !script.starts_with(" src=") && !script.contains(" src="));
        assert!(!inline && !page.contains("style=") && !page.contains(" onclick"), "{page}");
    }
    // A node without TLS must not send the HSTS header.
    let plain = ServeCommand::named("plain").ready().await;
    let answer = reqwest::get(format!("http://{}/", plain.public)).await.unwrap();
    assert!(!answer.headers().contains_key("strict-transport-security"));
}

async fn shown(ca: &str, to: SocketAddr) -> bool {
    let stream = TcpStream::connect(to).await.unwrap();
    trusting(ca, &["h2"]).connect(ServerName::try_from("localhost").unwrap(), stream).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_is_served_and_a_malformed_one_is_not() {
    let (old, new, folder) = (Authority::new("old"), Authority::new("new"), Folder::new());
    let node = serving(&folder, &localhost(&old)).await;
    assert!(shown(&old.pem, node.public).await && !shown(&new.pem, node.public).await);
    let staying = connect(&old.pem, node.public, &["h2"]).await;
    folder.write("public.pem", "-----BEGIN CERTIFICATE-----\nnothing\n");
    node.logs("keeping the previous version").await;
    assert!(shown(&old.pem, node.public).await);
    let issued = localhost(&new);
    folder.write("public.pem", &issued.certificate);
    // The certificate and the key no longer match, so the node keeps the old pair until the new key exists.
    node.logs("public.key is not that of the certificate").await;
    assert!(shown(&old.pem, node.public).await);
    folder.write("public.key", &issued.key);
    until("the node presents the new certificate", || shown(&new.pem, node.public)).await;
    assert!(!shown(&old.pem, node.public).await);
    assert_eq!(get(staying, "/a/users").await.0, StatusCode::OK, "an open connection stays open");
    assert!(!node.log().contains("PRIVATE KEY"));
}

#[test]
fn unusable_certificate_files_are_refused_by_name() {
    let (authority, folder) = (Authority::new("public"), Folder::new());
    let (one, other) = (localhost(&authority), localhost(&authority));
    for (name, contents) in [("one.pem", &one.certificate), ("one.key", &one.key), ("other.key", &other.key)] {
        folder.write(name, contents);
    }
    folder.write("encrypted.key", &one.key.replace("BEGIN PRIVATE", "BEGIN ENCRYPTED PRIVATE"));
    for (certificate, key, says) in [
        ("one.pem", "other.key", "other.key is not that of the certificate in"),
        ("nothing.pem", "one.key", "nothing.pem"),
        ("one.pem", "nothing.key", "nothing.key"),
        ("one.pem", "encrypted.key", "encrypted.key is encrypted"),
        ("one.key", "one.key", "no certificate in"),
        ("one.pem", "one.pem", "no private key in"),
    ] {
        let flags = ["--tls-cert", &folder.text(certificate), "--tls-key", &folder.text(key)];
        let said = ServeCommand::named("one").with(&flags).refused();
        assert!(said.contains(says) && said.contains("--tls-cert, --tls-key"), "{said}");
    }
}
