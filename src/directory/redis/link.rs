//! The life of the one connection: made, watched, ended, made again.
//!
//! Owns when there is one, which is while [`Link::keep`] runs: it finds the master, connects, judges what answers, and
//! begins anew when a call says that the connection broke or leads to no master, or when the master is elsewhere. Each
//! trouble is logged once. Knows no keys and retries no call.

use std::time::Duration;

use ::redis::ConnectionAddr;
use futures::future::join;
use rand::Rng;
use smol_str::SmolStr;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::connect::{ConnectError, Connection, Server};
use super::preflight::{Incompatible, fit, probe};
use super::url::host_and_port;
use super::{CALL_TIMEOUT, DirectoryError, Result};

const RECONNECT_FIRST: Duration = Duration::from_millis(50);
const RECONNECT_MOST: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Link {
    server: Server,
    allow_eviction: bool,
    state: watch::Sender<State>,
}

#[derive(Clone, Default)]
struct State {
    /// Counts connections, so that a late failure of an old one does not end the new one.
    generation: u64,
    live: Option<Live>,
    /// The first attempt to connect has ended, one way or the other.
    attempted: bool,
}

/// A connection that stands.
#[derive(Clone)]
pub(super) struct Live {
    pub connection: Connection,
    pub run_id: SmolStr,
    at: ConnectionAddr,
}

impl Link {
    pub fn new(server: Server, allow_eviction: bool) -> Self {
        let (state, _) = watch::channel(State::default());
        Self { server, allow_eviction, state }
    }

    pub fn server(&self) -> &Server {
        &self.server
    }

    pub async fn check(&self) -> std::result::Result<(), Incompatible> {
        match self.connect().await {
            Err(ConnectError::Incompatible(incompatible)) => Err(incompatible),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// What it is called besides.
    async fn connect(&self) -> std::result::Result<(Live, String), ConnectError> {
        let at = self.server.find().await?;
        let connecting = async {
            let mut connection = self.server.connect(&at).await?;
            let about: String = ::redis::cmd("INFO").query_async(&mut connection.redis).await?;
            let about = fit(&about, self.allow_eviction, self.server.is_cluster())?;
            let tried = format!("{}probe:{:016x}", self.server.prefix(), rand::rng().random::<u64>());
            probe(&mut connection.redis, &tried).await?;
            Ok((Live { connection, run_id: about.run_id, at: at.clone() }, about.server))
        };
        timeout(CALL_TIMEOUT, connecting).await.map_err(|_elapsed| ConnectError::Late)?
    }

    /// Keeps a connection, and the files that it is made with, for ever.
    pub async fn keep(&self) {
        join(self.server.keep(), self.keep_connected()).await;
    }

    async fn keep_connected(&self) {
        let sought = self.server.addresses().join(",");
        let mut state = self.state.subscribe();
        let mut pause = RECONNECT_FIRST;
        // What was complained of last, so that each trouble is told once.
        let mut complaint = None;
        loop {
            match self.connect().await {
                Ok((live, server)) => {
                    let at = live.at.clone();
                    let redis = host_and_port(&at);
                    info!(redis, server, run_id = %live.run_id, "connected to redis");
                    self.state.send_modify(|state| {
                        *state = State { generation: state.generation + 1, live: Some(live), attempted: true }
                    });
                    (pause, complaint) = (RECONNECT_FIRST, None);
                    // The sender lives in `self`, so waiting cannot fail.
                    tokio::select! {
                        _ = state.wait_for(|state| state.live.is_none()) => {
                            warn!(redis, "lost the connection to redis, trying again");
                        }
                        master = self.server.moves(&at) => {
                            warn!(redis, master = host_and_port(&master), "another redis is the master now, going there");
                            self.state.send_modify(|state| state.live = None);
                        }
                    }
                }
                Err(error) => {
                    let trouble = error.kind();
                    if complaint.replace(trouble) != Some(trouble) {
                        warn!(redis = sought, %error, "redis cannot be used, trying again until it can");
                    }
                    self.state.send_if_modified(|state| !std::mem::replace(&mut state.attempted, true));
                    sleep(pause).await;
                    pause = (pause * 2).min(RECONNECT_MOST);
                }
            }
        }
    }

    /// The present connection, and its number. Only the first attempt to connect is waited for.
    pub async fn live(&self) -> Result<(u64, Live)> {
        let mut state = self.state.subscribe();
        if timeout(CALL_TIMEOUT, state.wait_for(|state| state.attempted)).await.is_err() {
            return Err(DirectoryError::Unanswered("not connected yet".to_owned()));
        }
        let state = state.borrow();
        let live = state.live.clone().ok_or_else(|| DirectoryError::Unanswered("not connected".to_owned()))?;
        Ok((state.generation, live))
    }

    /// Ends the connection of that number, if it is the present one.
    pub fn end(&self, generation: u64) {
        self.state.send_if_modified(|state| state.generation == generation && state.live.take().is_some());
    }
}
