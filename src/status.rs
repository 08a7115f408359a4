//! The status of the cluster for operators: every node reports itself, and the reports are merged.
//!
//! Owns the collection ([`StatusCollector`]): all members are asked in parallel, and the result is there within a second
//! whatever some of them do. [`node_report`] makes and reads a report, [`mod@merge`] sums them up, [`health`] is the
//! readiness of this node. Nothing else depends on a status: a roll call decides without it whom to ask.

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

/// For the report of one node.
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

    /// The present status. Takes at most a second, plus the walk over this node's roster.
    pub async fn status(&self) -> ClusterStatus {
        let (as_of, began) = (Timestamp::now(), Instant::now());
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
        status.took_ms = milliseconds(began.elapsed());
        status
    }

    async fn poll(&self, member: Member) -> PolledMember {
        let heard = member.heard.map(BootInstant::elapsed);
        let began = Instant::now();
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
        PolledMember { member, heard, took: began.elapsed(), circuit_open, reply }
    }
}
