//! The status of the cluster for operators: every node reports itself, and the reports are merged.
//!
//! Owns the collection ([`StatusCollector`]). It asks all members in parallel and returns within a second, also if some of
//! them hang. [`node_report`] makes and parses a report, [`mod@merge`] sums them up, and [`health`] is the readiness of this
//! node. Owns no decision: a roll call does not read statuses.

pub mod cluster_status;
pub mod health;
pub mod merge;
pub mod node_report;

use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::clock::BootInstant;
use crate::membership::Member;
use crate::mesh::peers::Peers;
use crate::status::health::ReadinessReport;
use merge::{LocalNode, PolledMember, merge, milliseconds};
use node_report::{MAX_BUSIEST_ROOMS, NodeReporter};

pub use cluster_status::{BusyRoom, ClusterStatus, LastMinute, NodeRow, ReportedDetails, RollCallSeries};

/// The time for a node to send its report.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);

/// Collects the reports of all nodes. Cheap to clone.
#[derive(Clone)]
pub struct StatusCollector {
    reporter: NodeReporter,
    peers: Peers,
}

impl StatusCollector {
    pub fn new(reporter: NodeReporter, peers: Peers) -> Self {
        Self { reporter, peers }
    }

    /// The current status. Takes at most a second, plus the walk over this node's roster.
    pub async fn status(&self) -> ClusterStatus {
        let (as_of, started) = (Timestamp::now(), Instant::now());
        let membership = &self.reporter.membership;
        let polls = membership.view().members.into_iter().map(|member| self.poll(member));
        let (report, polled) = tokio::join!(self.reporter.report(MAX_BUSIEST_ROOMS), join_all(polls));
        let info = self.reporter.node_info();
        let local = LocalNode {
            name: info.name.as_str().into(),
            mesh: info.mesh.clone(),
            directory: ReadinessReport::of(membership.readiness(), true).directory,
            leased: membership.has_lease(),
            report,
        };
        let mut status = merge(local, &polled, Timestamp::now());
        status.as_of = format!("{as_of:.3}").into();
        status.took_ms = milliseconds(started.elapsed());
        status
    }

    async fn poll(&self, member: Member) -> PolledMember {
        let heard = member.heard.map(BootInstant::elapsed);
        let started = Instant::now();
        let reply = self.peers.describe(&member.mesh, node_report::request(), REPORT_TIMEOUT).await;
        let reply = reply.and_then(|response| {
            response
                .map(|response| node_report::reported_by(&member.node, &response, self.peers.anomalies()))
                .transpose()
        });
        if let Ok(Some(report)) = &reply {
            self.reporter.membership.record_contact(&report.node);
        }
        let circuit_open = self.peers.is_circuit_open(&member.mesh);
        PolledMember { member, heard, took: started.elapsed(), circuit_open, reply }
    }
}
