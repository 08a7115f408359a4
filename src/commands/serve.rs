//! `rollcall serve`: one node of a cluster, configured by flags, environment and file.
//!
//! Owns the order in which the parts of a node are opened, so that a wrong file or address fails before the node
//! appears in Redis. The node itself is [`crate::node`].

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::commands::args::ServeArgs;
use crate::commands::process::{EXIT_FAILED, run_until_signal, start_logging};
use crate::directory::Directory;
use crate::directory::memory::MemoryDirectory;
use crate::directory::redis::RedisDirectory;
use crate::edge::connections::listener::{file_limit, listen};
use crate::edge::socketio::SocketIoConfig;
use crate::names::NodeName;
use crate::node::Node;
use crate::node::config::{NodeConfig, NodeListeners};
use crate::reconciler;
use crate::telemetry::logging::{self, Logging};

/// The share of the drain time that exporting the last spans may take…
const SPAN_FLUSH_SHARE: f64 = 0.1;
/// …and its upper bound.
const MAX_SPAN_FLUSH: Duration = Duration::from_secs(2);

/// Runs one node until a signal.
pub(super) fn run(serve: ServeArgs, logging: Result<Logging, logging::Error>) -> ExitCode {
    let threads = serve.threads;
    run_until_signal(logging, threads, EXIT_FAILED, |logging, shutdown| run_node(serve, logging, shutdown))
}

async fn run_node(serve: ServeArgs, logging: Logging, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let bind = |address| listen(address, false).with_context(|| format!("cannot listen on {address}"));
    let public = bind(serve.listen.address)?;
    let mesh_listener = bind(serve.mesh_listen.address)?;
    let admin = bind(serve.admin_listen.address)?;
    let mesh = mesh_listener.local_addr()?;
    let name = serve.node_name.unwrap_or_else(|| {
        let host = gethostname::gethostname();
        NodeName::from_any(&format!("{}-{}", host.to_string_lossy(), mesh.port()))
    });
    // Spans carry the node's name, and its default contains the port of the mesh: bind first.
    let traces = serve.traces.open(&name)?;
    let telemetry = start_logging(logging, traces.as_ref());
    let access = serve.access.open()?;
    let admin_tokens = serve.admin.open()?;
    let redis = serve.redis.open()?;
    let mesh_advertise = match serve.mesh_advertise {
        Some(advertise) => {
            let redis = redis.as_ref().map_or_else(Vec::new, RedisDirectory::addresses);
            advertise.resolve(mesh, &redis).await?
        }
        None => mesh.to_string(),
    };
    let (tls, mesh_security) = (serve.tls.https()?, serve.tls.mesh.open(Some(&mesh_advertise))?);
    let admin_address = admin.local_addr()?;
    info!(%name, listen = %public.local_addr()?, %mesh, advertise = mesh_advertise, admin = %admin_address, "starting");
    let directory: Arc<dyn Directory> = match redis {
        Some(redis) => {
            check_redis(&redis).await?;
            Arc::new(redis)
        }
        None => {
            info!("no --redis: this node is a cluster of one");
            MemoryDirectory::new()
        }
    };
    let limits = serve.limits.limits(file_limit());
    let config = NodeConfig {
        name,
        mesh_advertise,
        lease: serve.lease,
        deadline: serve.deadline,
        drain: serve.drain,
        cache: serve.cache.as_u64(),
        clients: SocketIoConfig {
            transports: serve.transports,
            max_rooms: serve.rooms_per_socket as usize,
            ping_interval: serve.ping_interval,
            ping_timeout: serve.ping_timeout,
        },
        access,
        release_delay: reconciler::RELEASE_DELAY,
        limits,
        cors_origins: serve.cors_origins,
        tls,
        mesh_security,
        admin_tokens,
        telemetry,
    };
    let listeners = NodeListeners { public, mesh: mesh_listener, admin: Some(admin) };
    let drain = config.drain;
    let node = Node::new(config, listeners, directory).run(shutdown);
    let Some(traces) = traces else { return node.await.map(|()| ExitCode::SUCCESS) };
    let mut background = JoinSet::new();
    background.spawn(traces.reload_headers());
    let result = node.await;
    traces.close(drain.mul_f64(SPAN_FLUSH_SHARE).min(MAX_SPAN_FLUSH)).await;
    result.map(|()| ExitCode::SUCCESS)
}

/// Fails when Redis answers and is unsuitable. A Redis that does not answer is waited for later.
pub(super) async fn check_redis(redis: &RedisDirectory) -> anyhow::Result<()> {
    redis.check().await.with_context(|| format!("the redis at {} cannot be used", redis.address()))
}
