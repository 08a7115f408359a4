//! The floor: what a roll call is made of, each part measured alone and on the same bytes.
//!
//! Owns three measurements: a ready-made body of the room's size from a server that does nothing else, the owner set in
//! one round trip to Redis, and one `LookupSockets` to one peer that says "unchanged". A roll call does all three.

use std::env;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use bytes::Bytes;
use rollcall::mesh::channel;
use rollcall::mesh::proto::LookupSocketsRequest;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use crate::measure::{self, Asker};
use crate::report::Floor;
use crate::system::System;

/// Measures the parts of a roll call of this room, which is filled, on this system, which is rollcall.
///
/// # Errors
/// When something does not answer.
pub async fn measure(system: &System, room: &str, users: usize, time: Duration) -> Result<Floor> {
    let (_server, address) = ready_made(users).await?;
    let mut asker = Asker::connect(address, room).await?;
    asker.one_after_another(time / 10).await?;
    let ready = asker.one_after_another(time).await?;
    let (answers, took) = measure::at_once(address, room, time).await?;
    let per_second = answers as f64 / took.as_secs_f64();
    let (directory, lookup) = (directory(system, room, time).await?, lookup(system, room, time).await?);
    Ok(Floor { ready, per_second, directory, lookup })
}

/// Starts a process that answers with a ready-made roll of so many users, killed when it is dropped. Returns where.
///
/// # Errors
/// When it does not start.
pub async fn ready_made(users: usize) -> Result<(Child, SocketAddr)> {
    let mut server = Command::new(env::current_exe()?)
        .args(["ready", &users.to_string()])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(server.stdout.take().context("its output is piped")?).lines();
    let port = lines.next_line().await?.context("it says where it listens")?.parse()?;
    Ok((server, SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
}

async fn directory(system: &System, room: &str, time: Duration) -> Result<Vec<Duration>> {
    let mut redis = redis::Client::open(system.redis.url.as_str())?.get_multiplexed_async_connection().await?;
    let mut pipeline = redis::pipe();
    pipeline.cmd("SMEMBERS").arg(format!("rollcall:owners:{room}")).cmd("GET").arg("rollcall:epoch");
    let ask = async || Ok(pipeline.query_async::<(Vec<String>, String)>(&mut redis).await?);
    measure::one_after_another(time, ask).await
}

async fn lookup(system: &System, room: &str, time: Duration) -> Result<Vec<Duration>> {
    let mut peer = channel::client(&system.meshes[1].to_string().into(), channel::connect_tcp)?;
    let all = LookupSocketsRequest { room: room.to_owned(), ..Default::default() };
    let held = peer.lookup_sockets(all.clone()).await?.into_inner();
    let request = LookupSocketsRequest { node_id: held.node_id, known_version: Some(held.version), ..all };
    measure::one_after_another(time, async || Ok(peer.lookup_sockets(request.clone()).await?)).await
}

/// Serves a ready-made roll of so many users, for ever.
///
/// # Errors
/// When it cannot listen.
pub async fn serve_ready_made(users: usize) -> Result<()> {
    let user = |number| json!({"id_socket": format!("{number:020}"), "id_user": format!("user-{number}")});
    let body = Bytes::from(serde_json::to_vec(&(0..users).map(user).collect::<Vec<_>>())?);
    let router =
        Router::new().route("/{room}/users", get(move || async move { ([(CONTENT_TYPE, "application/json")], body) }));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?.port());
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        // Without it the measurement would only be slower.
        let _ = stream.set_nodelay(true);
    });
    Ok(axum::serve(listener, router).await?)
}
