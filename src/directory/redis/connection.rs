//! The one Redis connection of a node: found, checked, used, and replaced when it breaks.
//!
//! Owns its lifetime. While [`RedisConnection::maintain`] runs, it finds the master, connects, and checks the server. It
//! starts over if a call reports a broken connection or a server that is not the master, or if the master has moved. It
//! logs each kind of failure once until a connection succeeds. Knows no keys and retries no call.
//!
//! A connection survives when the server becomes a replica, or when a proxy changes the server. So it says nothing about
//! the history of the data: [`epoch`](super::epoch) owns that check.

use std::mem;
use std::time::Duration;

use ::redis::ConnectionAddr;
use anyhow::Context as _;
use futures::future::join;
use rand::Rng;
use smol_str::SmolStr;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::connect::{OpenConnection, RedisAccess, RedisDialer};
use super::discovery::MasterDiscovery;
use super::error::{CALL_TIMEOUT, ConnectError, Incompatible};
use super::preflight::{check_info, probe};
use super::slot::{slot, tagged};
use super::url::{RedisTarget, Topology, host_and_port};
use crate::directory::{DirectoryError, Result};

const MIN_RECONNECT_DELAY: Duration = Duration::from_millis(50);
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// The present connection, if any, and how to make the next one.
pub(super) struct RedisConnection {
    discovery: MasterDiscovery,
    dialer: RedisDialer,
    prefix: String,
    allow_eviction: bool,
    state: watch::Sender<ConnectionState>,
}

#[derive(Clone, Default)]
struct ConnectionState {
    /// Counts connections, so that a late failure of an old one does not close the new one.
    generation: u64,
    live: Option<LiveConnection>,
    /// The first attempt to connect has ended, successfully or not.
    attempted: bool,
}

/// A connection that was checked.
#[derive(Clone)]
pub(super) struct LiveConnection {
    pub(super) connection: OpenConnection,
    /// Part of new epochs, for nodes of earlier versions.
    pub(super) run_id: SmolStr,
    address: ConnectionAddr,
}

impl RedisConnection {
    /// `prefix`: the beginning of every key. On a Cluster it becomes a hash tag.
    ///
    /// # Errors
    /// If the URL or the prefix is not usable, or a file cannot be read.
    pub(super) fn open(url: &str, access: &RedisAccess, prefix: &str, allow_eviction: bool) -> anyhow::Result<Self> {
        let RedisTarget { tls, topology, seeds, settings } = RedisTarget::parse(url)?;
        let dialer = RedisDialer::open(tls, settings, access)?;
        let prefix = if topology == Topology::Cluster { tagged(prefix) } else { Some(prefix.to_owned()) };
        let prefix = prefix.context("the key prefix cannot become a hash tag of the Redis Cluster")?;
        let discovery = MasterDiscovery::new(topology, seeds, slot(&prefix));
        let (state, _) = watch::channel(ConnectionState::default());
        Ok(Self { discovery, dialer, prefix, allow_eviction, state })
    }

    /// The beginning of every key, with its hash tag on a Cluster.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The addresses in the URL: of the one Redis, the Sentinels, or nodes of the Cluster.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.discovery.seeds().iter().map(host_and_port).collect()
    }

    /// Fails only if Redis answers and must be reconfigured: a Redis that is down may come back.
    pub(super) async fn check(&self) -> std::result::Result<(), Incompatible> {
        match self.connect().await {
            Err(ConnectError::Incompatible(cause)) => Err(cause),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Connects to the master and checks it. Also returns its product and version.
    async fn connect(&self) -> std::result::Result<(LiveConnection, String), ConnectError> {
        let address = self.discovery.find(&self.dialer).await?;
        let connecting = async {
            let mut connection = self.dialer.dial(&address).await?;
            let info: String = ::redis::cmd("INFO").query_async(&mut connection.redis).await?;
            let cluster = *self.discovery.topology() == Topology::Cluster;
            let info = check_info(&info, self.allow_eviction, cluster)?;
            let key = format!("{}probe:{:016x}", self.prefix, rand::rng().random::<u64>());
            probe(&mut connection.redis, &key).await?;
            Ok((LiveConnection { connection, run_id: info.run_id, address: address.clone() }, info.server))
        };
        timeout(CALL_TIMEOUT, connecting).await.map_err(|_elapsed| ConnectError::Timeout)?
    }

    /// Runs forever: keeps a connection, and reloads the files with credentials.
    pub(super) async fn maintain(&self) {
        join(self.dialer.reload_files(), self.keep_connected()).await;
    }

    async fn keep_connected(&self) {
        let seeds = self.addresses().join(",");
        let mut state = self.state.subscribe();
        let mut delay = MIN_RECONNECT_DELAY;
        let mut logged = None;
        loop {
            match self.connect().await {
                Ok((live, server)) => {
                    let address = live.address.clone();
                    let redis = host_and_port(&address);
                    info!(redis, server, run_id = %live.run_id, "connected to redis");
                    self.state.send_modify(|state| {
                        let generation = state.generation + 1;
                        *state = ConnectionState { generation, live: Some(live), attempted: true };
                    });
                    (delay, logged) = (MIN_RECONNECT_DELAY, None);
                    // The sender lives in `self`, so waiting cannot fail.
                    tokio::select! {
                        _ = state.wait_for(|state| state.live.is_none()) => {
                            warn!(redis, "lost the redis connection; reconnecting");
                        }
                        master = self.discovery.wait_for_move(&self.dialer, &address) => {
                            warn!(redis, master = host_and_port(&master), "redis master has moved; reconnecting to it");
                            self.state.send_modify(|state| state.live = None);
                        }
                    }
                }
                Err(error) => {
                    let kind = error.kind();
                    if logged.replace(kind) != Some(kind) {
                        warn!(redis = seeds, %error, "cannot use redis; retrying");
                    }
                    self.state.send_if_modified(|state| !mem::replace(&mut state.attempted, true));
                    sleep(delay).await;
                    delay = (delay * 2).min(MAX_RECONNECT_DELAY);
                }
            }
        }
    }

    /// Returns the present connection and its generation. Waits for the first attempt to connect, but for no later one:
    /// a call should fail at once while Redis is down.
    pub(super) async fn live(&self) -> Result<(u64, LiveConnection)> {
        let mut state = self.state.subscribe();
        if timeout(CALL_TIMEOUT, state.wait_for(|state| state.attempted)).await.is_err() {
            return Err(DirectoryError::Unanswered("not connected yet".to_owned()));
        }
        let state = state.borrow();
        let live = state.live.clone().ok_or_else(|| DirectoryError::Unanswered("not connected".to_owned()))?;
        Ok((state.generation, live))
    }

    /// Closes the connection of this generation, if it is the present one.
    pub(super) fn close(&self, generation: u64) {
        self.state.send_if_modified(|state| state.generation == generation && state.live.take().is_some());
    }
}
