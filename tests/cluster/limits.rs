//! Every limit, reached: requests over it get the documented refusal, requests below it do not, and a disconnect frees the
//! slot.

mod clients;
mod connections;
mod events;
mod http2;
mod requests;

use std::net::SocketAddr;

use rollcall::edge::limits::Limits;
use rollcall::edge::socketio::{SocketIoConfig, Transports};
use testkit::PATIENCE;
use testkit::client::Socket;
use testkit::cluster::{Cluster, Index};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};

/// One node that lets polling clients in, too.
async fn node(limits: Limits) -> Cluster {
    let clients = SocketIoConfig { transports: Transports::WebsocketAndPolling, ..SocketIoConfig::default() };
    Cluster::bounded(1, Index::memory(), clients, limits).await
}

/// A refusal: the status, and the value of `Retry-After`.
#[derive(Debug, PartialEq, Eq)]
struct Refused(u16, Option<String>);

/// A WebSocket with these headers on which nothing was said yet.
async fn websocket(address: SocketAddr, user: &str, headers: &[(&'static str, &str)]) -> Result<Socket, Refused> {
    let url = format!("ws://{address}/socket.io/?EIO=4&transport=websocket&id_user={user}&room=a");
    let mut request = url.into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    match tokio_tungstenite::connect_async(request).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(response)) => {
            let retry = response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
            Err(Refused(response.status().as_u16(), retry))
        }
        Err(error) => panic!("{error}"),
    }
}

/// The answer to these bytes until the node ends the connection.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // It may be closed before all of it was written.
    let _ = stream.write_all(bytes).await;
    rest(&mut stream).await
}

/// The rest of the answer until the node ends the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the node ends the connection");
    String::from_utf8_lossy(&answer).into_owned()
}
