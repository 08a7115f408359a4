//! `grpc.health.v1` on the mesh port, for tools that watch gRPC services instead of the admin port.
//!
//! Owns the published statuses. The empty service name stands for the node, which is serving while it is ready, as in
//! `/readyz`. The services of the mesh are serving while the node is active and not draining. Watchers get every change, and
//! their streams end when the port stops. Owns no condition of readiness ([`ReadinessReport`]). Tests:
//! `tests/processes/observability/health.rs`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing::info;

use crate::auth::IdentityMode;
use crate::membership::Membership;
use crate::status::health::ReadinessReport;

const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// The service name that stands for the whole server.
const WHOLE_SERVER: &str = "";

/// Publishes the health of the node and of its gRPC services.
pub struct HealthPublisher {
    reporter: HealthReporter,
    membership: Arc<Membership>,
    identity: IdentityMode,
    services: Vec<&'static str>,
    /// The last published values: whether the node is ready, and whether its services are serving.
    published: Option<[bool; 2]>,
    was_ready: bool,
}

impl HealthPublisher {
    /// Publishes the first statuses, so that no watcher sees an unknown service.
    pub async fn start(
        reporter: HealthReporter,
        membership: Arc<Membership>,
        identity: IdentityMode,
        services: Vec<&'static str>,
    ) -> Self {
        let mut publisher = Self { reporter, membership, identity, services, published: None, was_ready: false };
        publisher.publish().await;
        publisher
    }

    /// Publishes changes until `stop`. Never returns, because the server ends first.
    pub async fn run(mut self, stop: CancellationToken) -> std::convert::Infallible {
        let mut checks = interval(CHECK_INTERVAL);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let membership = Arc::clone(&self.membership);
        // Publishes draining at once, and other changes at the next check.
        tokio::select! {
            () = membership.drain_started() => {}
            () = async { loop { checks.tick().await; self.publish().await; } } => {}
            () = stop.cancelled() => {}
        }
        // Draining is final, so no further check is needed.
        self.publish().await;
        stop.cancelled().await;
        // Shutdown waits for open watch streams; clearing a service ends its streams.
        for service in [WHOLE_SERVER].iter().chain(&self.services) {
            self.reporter.clear_service_status(service).await;
        }
        std::future::pending().await
    }

    async fn publish(&mut self) {
        let ready = ReadinessReport::of(self.membership.readiness(), self.identity.is_ready()).ready;
        let serving = self.membership.is_active() && !self.membership.is_draining();
        if self.published.replace([ready, serving]) == Some([ready, serving]) {
            return;
        }
        if ready && !std::mem::replace(&mut self.was_ready, true) {
            info!("ready: this node accepts clients, and the other nodes know it");
        }
        self.reporter.set_service_status(WHOLE_SERVER, serving_status(ready)).await;
        for service in &self.services {
            self.reporter.set_service_status(service, serving_status(serving)).await;
        }
    }
}

fn serving_status(serves: bool) -> ServingStatus {
    if serves { ServingStatus::Serving } else { ServingStatus::NotServing }
}
