//! The parts of a roll call, each measured alone on the same bytes. Their sum is the lower bound of its duration.
//!
//! Owns three measurements: a prepared body of the room's size, the owner set in one round trip to Redis, and one
//! `LookupSockets` to a peer that replies `unchanged`. The server of the prepared body has no other work.

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

use crate::measure::{self, Requester};
use crate::report::RollCallParts;
use crate::system::System;

/// Measures the parts of a roll call of this room. The system must be rollcall, and the room must have its clients.
///
/// # Errors
/// When Redis, a node or the plain server does not answer.
pub async fn measure(system: &System, room: &str, users: usize, time: Duration) -> Result<RollCallParts> {
    let (_server, address) = start_prepared(users).await?;
    let mut requester = Requester::connect(address, room).await?;
    requester.sequential(time / 10).await?;
    let prepared = requester.sequential(time).await?;
    let (answers, took) = measure::concurrent(address, room, time).await?;
    let per_second = answers as f64 / took.as_secs_f64();
    let (directory, lookup) = (directory(system, room, time).await?, lookup(system, room, time).await?);
    Ok(RollCallParts { prepared, per_second, directory, lookup })
}

/// Starts a process that answers with a prepared roll of `users` rows. Returns its address. Dropping the `Child` kills it.
///
/// # Errors
/// When the process does not start.
pub async fn start_prepared(users: usize) -> Result<(Child, SocketAddr)> {
    let mut server = Command::new(env::current_exe()?)
        .args(["prepared", &users.to_string()])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(server.stdout.take().context("its output is piped")?).lines();
    let port = lines.next_line().await?.context("the server printed no port")?.parse()?;
    Ok((server, SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
}

async fn directory(system: &System, room: &str, time: Duration) -> Result<Vec<Duration>> {
    let mut redis = redis::Client::open(system.redis.url.as_str())?.get_multiplexed_async_connection().await?;
    let mut pipeline = redis::pipe();
    pipeline.cmd("SMEMBERS").arg(format!("rollcall:owners:{room}")).cmd("GET").arg("rollcall:epoch");
    pipeline.cmd("INFO").arg("replication");
    let ask = async || Ok(pipeline.query_async::<(Vec<String>, String, String)>(&mut redis).await?);
    measure::sequential(time, ask).await
}

async fn lookup(system: &System, room: &str, time: Duration) -> Result<Vec<Duration>> {
    let mut peer = channel::client(&system.meshes[1].to_string().into(), channel::connect_tcp)?;
    let all = LookupSocketsRequest { room: room.to_owned(), ..Default::default() };
    let current = peer.lookup_sockets(all.clone()).await?.into_inner();
    let request = LookupSocketsRequest { node_id: current.node_id, known_version: Some(current.version), ..all };
    measure::sequential(time, async || Ok(peer.lookup_sockets(request.clone()).await?)).await
}

/// Serves a prepared roll of `users` rows until the process is killed.
///
/// # Errors
/// When the server cannot listen.
pub async fn serve_prepared(users: usize) -> Result<()> {
    let user = |number| json!({"id_socket": format!("{number:020}"), "id_user": format!("user-{number}")});
    let body = Bytes::from(serde_json::to_vec(&(0..users).map(user).collect::<Vec<_>>())?);
    let router =
        Router::new().route("/{room}/users", get(move || async move { ([(CONTENT_TYPE, "application/json")], body) }));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?.port());
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        // A failure makes the measurement slower, not wrong.
        let _ = stream.set_nodelay(true);
    });
    Ok(axum::serve(listener, router).await?)
}
