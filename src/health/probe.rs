//! `rollcall health`: asks a node's admin port, for the probes of those who run nodes.
//!
//! Owns the asking end: one request, bounded in time and in what is read of the answer, whatever listens there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use axum::http::{Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

/// The longest that asking may take.
pub const WITHIN: Duration = Duration::from_secs(2);
/// The most bytes that are read of an answer, which has a few hundred.
const ANSWER_MOST: usize = 16 << 10;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Should new clients be sent there?
    Ready,
    /// Does the process answer?
    Live,
}

/// What matters here of what `/readyz` answers.
#[derive(Deserialize)]
struct Told {
    #[serde(default)]
    reasons: Vec<String>,
    #[serde(default)]
    directory: String,
}

/// Asks the admin port at `admin`, `host:port`; one that listens on every address is asked over loopback.
///
/// # Errors
/// One line that says why the answer is no, or why there is none within [`WITHIN`].
pub async fn ask(admin: &str, question: Question) -> Result<String, String> {
    let asked = timeout(WITHIN, async {
        let (status, body) = get(admin, question.path(), ANSWER_MOST).await?;
        question.read(status, &body)
    });
    let answer = asked.await.unwrap_or_else(|_elapsed| Err(format!("no answer within {WITHIN:?}")));
    answer.map_err(|why| format!("{admin}: {why}"))
}

impl Question {
    fn path(self) -> &'static str {
        match self {
            Self::Ready => "/readyz",
            Self::Live => "/livez",
        }
    }

    fn read(self, status: StatusCode, body: &[u8]) -> Result<String, String> {
        match (self, status) {
            (Self::Live, StatusCode::OK) => Ok("alive".to_owned()),
            (Self::Ready, StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE) => {
                let told: Told = serde_json::from_slice(body).map_err(|_| "what answers is not a node".to_owned())?;
                match status {
                    StatusCode::OK if told.directory == "ok" => Ok("ready".to_owned()),
                    StatusCode::OK => Ok(one_line(&format!("ready, though the directory {}", told.directory))),
                    _ => Err(one_line(&format!("not ready: {}", told.reasons.join("; ")))),
                }
            }
            (_, status) => Err(format!("what answers is not a node: it says {status}")),
        }
    }
}

/// Whatever listens there, what it says stays one line.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// Asks the admin port for a path, and reads at most so many bytes of the answer.
///
/// # Errors
/// One line that says why there is none.
pub async fn get(admin: &str, path: &str, most: usize) -> Result<(StatusCode, Bytes), String> {
    let unreachable = |error: std::io::Error| format!("cannot be reached ({error})");
    let addresses: Vec<SocketAddr> = lookup_host(admin).await.map_err(unreachable)?.map(dialled).collect();
    let stream = TcpStream::connect(addresses.as_slice()).await.map_err(unreachable)?;
    let broken = |error: hyper::Error| format!("no answer ({error})");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let request = Request::get(path).header(header::HOST, admin).header(header::CONNECTION, "close");
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let exchange = async move {
        let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
        let body = Limited::new(body, most).collect().await.map_err(|error| format!("no answer ({error})"))?;
        Ok((head.status, body.to_bytes()))
    };
    // How the connection ends says nothing more: without it, the exchange has failed.
    let (answer, _) = tokio::join!(exchange, connection);
    answer
}

/// Where somebody is reached who listens at this address.
fn dialled(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}
