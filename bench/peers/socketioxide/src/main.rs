//! Peer: socketioxide with its Redis adapter, `fetch_sockets`.
//!
//! Technique: scatter and gather over Redis pub/sub, as in `fetch-sockets.mjs`. The replies of other nodes do not contain
//! the users of their sockets, so the answer has ids only.

use std::env;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::serve::ListenerExt;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use socketioxide::adapter::Emitter;
use socketioxide::extract::SocketRef;
use socketioxide::handler::ConnectHandler;
use socketioxide::{SocketIo, TransportType};
use socketioxide_redis::{RedisAdapter, RedisAdapterConfig, RedisAdapterCtr};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

type Adapter = RedisAdapter<Emitter>;
type Io = SocketIo<Adapter>;

#[derive(Serialize)]
struct Row {
    id_socket: String,
}

#[derive(Deserialize)]
struct Handshake {
    room: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    // The adapter's driver speaks RESP3.
    let url = format!("{}/?protocol=resp3", env::var("REDIS_URL").context("REDIS_URL")?);
    let client = redis::Client::open(url)?;
    let config = RedisAdapterConfig::default().with_prefix("socketioxide");
    let adapter = RedisAdapterCtr::new_with_redis_config(&client, config).await?;
    let (layer, io) =
        SocketIo::builder().with_adapter::<Adapter>(adapter).transports([TransportType::Websocket]).build_layer();
    // Joins before the server acknowledges the client. In the handler, a client that has already disconnected would stay in
    // the room.
    io.ns("/", (async || ()).with(join)).await?;

    let router = Router::new().route("/{room}/users", get(users)).with_state(io).layer(layer);
    let port = env::var("PORT").ok().map_or(Ok(0), |port| port.parse())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    println!("listening {}", listener.local_addr()?.port());
    let listener = listener.tap_io(|stream| {
        // A failure makes answers slower, not wrong.
        let _ = stream.set_nodelay(true);
    });
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        served = axum::serve(listener, router) => Ok(served?),
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}

async fn join(socket: SocketRef<Adapter>) -> Result<()> {
    let Query(Handshake { room }) = Query::try_from_uri(&socket.req_parts().uri)?;
    socket.join(room);
    Ok(())
}

/// The sockets of a room in the whole cluster; 503 if not every node answers.
async fn users(State(io): State<Io>, Path(room): Path<String>) -> Result<Json<Vec<Row>>, StatusCode> {
    let sockets = io.within(room).fetch_sockets().await.map_err(|error| {
        eprintln!("{error}");
        StatusCode::SERVICE_UNAVAILABLE
    })?;
    Ok(Json(sockets.into_iter().map(|socket| Row { id_socket: socket.into_data().id.to_string() }).collect()))
}
