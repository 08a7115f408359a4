//! `grpc.health.v1` of the mesh port: what those are told who watch services rather than the admin port.
//!
//! Owns the statuses. The empty service is the node: serving while it is ready, as `/readyz` says. The services of the
//! mesh are serving while the node counts and stays; on its way out it still answers, but nobody new should come to rely
//! on it. Watchers hear of every change, and their streams end when the port stops.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::auth::By;
use crate::membership::Membership;
use crate::status::health::Report;

/// How often it is looked at what is true.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The name of the node itself.
const NODE: &str = "";

/// The statuses of a node and of these services.
pub struct Statuses {
    reporter: HealthReporter,
    membership: Arc<Membership>,
    identity: By,
    services: Vec<&'static str>,
    /// What was said last, of the node and of its services.
    said: Option<[bool; 2]>,
}

impl Statuses {
    /// From now on `reporter` says what is true of the node; of these services too.
    pub async fn begin(
        reporter: HealthReporter,
        membership: Arc<Membership>,
        identity: By,
        services: Vec<&'static str>,
    ) -> Self {
        let mut statuses = Self { reporter, membership, identity, services, said: None };
        statuses.look().await;
        statuses
    }

    /// Keeps the statuses up until `stop`. Never returns: afterwards nothing is served that could have a status.
    pub async fn keep(mut self, stop: CancellationToken) -> std::convert::Infallible {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let membership = Arc::clone(&self.membership);
        // Everything else may be heard of at the next look.
        tokio::select! {
            () = membership.left() => {}
            () = async { loop { looks.tick().await; self.look().await; } } => {}
            () = stop.cancelled() => {}
        }
        // On its way out, a node does not come back.
        self.look().await;
        stop.cancelled().await;
        // A stream that went on would hold up the end of the port.
        for service in [NODE].iter().chain(&self.services) {
            self.reporter.clear_service_status(service).await;
        }
        std::future::pending().await
    }

    async fn look(&mut self) {
        let ready = Report::of(self.membership.readiness(), self.identity.is_ready()).ready;
        let serving = self.membership.is_active() && !self.membership.is_leaving();
        if self.said.replace([ready, serving]) == Some([ready, serving]) {
            return;
        }
        self.reporter.set_service_status(NODE, status(ready)).await;
        for service in &self.services {
            self.reporter.set_service_status(service, status(serving)).await;
        }
    }
}

fn status(serves: bool) -> ServingStatus {
    if serves { ServingStatus::Serving } else { ServingStatus::NotServing }
}
