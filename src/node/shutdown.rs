//! The shutdown of a node, step by step.
//!
//! Owns the order and the timeouts; all timeouts together fit into the drain. The order keeps the answers of the other nodes
//! correct while this node stops, and this node answers their lookups until the last step.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::core::NodeCore;
use super::tasks::EssentialTasks;
use crate::edge::connections::handle::ConnectionRegistry;
use crate::edge::readiness_gate;
use crate::membership::DrainState;
use crate::roster::Roster;

/// The share of the drain over which clients are disconnected; the rest is for releasing the entries in the directory.
const CLIENTS_SHARE: f64 = 0.6;
/// The share of the drain for each of the other steps, but at most [`MAX_STEP_TIMEOUT`].
const STEP_SHARE: f64 = 0.1;
const MAX_STEP_TIMEOUT: Duration = Duration::from_secs(2);
/// The interval at which the roster is checked for remaining sockets.
const EMPTY_CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// The parts of a running node that its shutdown stops.
pub(super) struct RunningNode {
    pub core: NodeCore,
    pub tasks: EssentialTasks,
    /// The connections of the public port.
    pub connections: ConnectionRegistry,
    pub public_port: JoinHandle<()>,
    pub stop_public: CancellationToken,
    pub mesh_port: JoinHandle<Result<(), tonic::transport::Error>>,
    pub stop_mesh: CancellationToken,
}

impl RunningNode {
    pub(crate) async fn shut_down(mut self, drain: Duration) {
        let NodeCore { roster, membership, reconciler, directory, background, .. } = &self.core;
        info!(?drain, "stopping");
        let step_timeout = drain.mul_f64(STEP_SHARE).min(MAX_STEP_TIMEOUT);
        // 1. No new clients: `/readyz` and the lease say "draining", and the listener closes.
        membership.drain(DrainState::Draining);
        self.stop_public.cancel();
        // 2. The sockets are disconnected. Their transports close without a Socket.IO disconnect packet, so that clients
        //    reconnect to another node; the ownership of a room is released with its last socket.
        reconciler.release_immediately();
        readiness_gate::disconnect_clients_over(drain.mul_f64(CLIENTS_SHARE), &self.connections).await;
        step("finish requests", step_timeout, &mut self.public_port).await;
        step("disconnect sockets", step_timeout, no_sockets_left(roster)).await;
        // 3. The last rooms are released in the directory.
        step("release rooms", step_timeout, reconciler.wait_until_released()).await;
        // 4. The other nodes learn that this one has no sockets left.
        membership.drain(DrainState::Goodbye);
        step("announce the goodbye", step_timeout, membership.acknowledged_by_all()).await;
        // 5. The lease is removed last: before the goodbye, a missing lease would have looked like a crash.
        self.tasks.stop().await;
        background.close();
        step("remove the lease", step_timeout, async {
            background.wait().await;
            let node = roster.incarnation();
            if let Err(error) = directory.deregister(&node).await {
                warn!(%node, %error, "cannot remove the lease from the directory; it will expire");
            }
        })
        .await;
        // 6. Lookups of peers that are still in progress are answered.
        self.stop_mesh.cancel();
        step("finish lookups of peers", step_timeout, &mut self.mesh_port).await;
        self.mesh_port.abort();
        info!("stopped");
    }
}

async fn step<T>(step: &str, limit: Duration, work: impl Future<Output = T>) {
    if timeout(limit, work).await.is_err() {
        warn!(step, "shutdown step timed out; continuing");
    }
}

async fn no_sockets_left(roster: &Roster) {
    while roster.size().sockets > 0 {
        sleep(EMPTY_CHECK_INTERVAL).await;
    }
}
