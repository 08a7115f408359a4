//! How the cluster is, for those who run it: every node asked what it says of itself, and their answers side by side.
//!
//! Owns the asking ([`Overview`]): this node and all members that it knows, in parallel, within a second, whatever some
//! of them do. What a node says is in [`description`], and what all of it amounts to in [`mod@merge`]. Nothing rests on
//! any of this: whom a roll call asks is decided without it.

pub mod description;
pub mod health;
pub mod merge;
pub mod wire;

use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use tokio::time::Instant;

use crate::clock::BootInstant;
use crate::membership::Member;
use crate::mesh::peers::{PeerError, Peers};
use crate::status::health::ReadinessReport;
use description::{Describer, Description, ROOMS_MOST};
use merge::merge;

/// How long a node may take to say how it is.
const WITHIN: Duration = Duration::from_secs(1);

/// The cluster as one node sees it: what `/_/status` answers, and what `rollcall status` reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Every node answered and is active.
    pub well: bool,
    /// When the nodes were asked, RFC 3339.
    pub as_of: SmolStr,
    pub took_ms: f64,
    /// The id of the node that asked the others.
    pub asked: SmolStr,
    /// What is wrong between that node and the directory, or `ok`.
    pub directory: SmolStr,
    /// Those of the nodes that answered.
    pub sockets: u64,
    /// By name.
    pub nodes: Vec<Node>,
    /// The largest first.
    pub busiest_rooms: Vec<BusyRoom>,
    /// Those of all nodes that answered.
    pub roll_calls: RollCalls,
}

/// One node. What only it can say is null where it has not answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub id: SmolStr,
    pub name: SmolStr,
    pub mesh: SmolStr,
    /// Why it has not answered: `deadline`, `refused`, `failed`, `overloaded`; `older`: it is of a version that cannot
    /// say.
    pub error: Option<SmolStr>,
    pub round_trip_ms: f64,
    /// It has missed so many deadlines that hardly anybody waits for it.
    pub circuit_open: bool,
    /// The last list of the directory that could be read had its lease.
    pub leased: bool,
    /// How long ago it was heard over the mesh, before it was asked; null where it never was.
    pub heard_ms: Option<u64>,
    #[serde(flatten)]
    pub said: Option<Said>,
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Said {
    pub version: SmolStr,
    pub since: SmolStr,
    pub uptime_ms: u64,
    pub sockets: u64,
    pub rooms: u64,
    #[serde(rename = "counts")]
    pub is_active: bool,
    pub whole: bool,
    pub draining: bool,
    pub lease_left_ms: Option<u64>,
    pub roll_calls: RollCalls,
}

/// A room, and how many sockets of it the nodes told of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusyRoom {
    pub room: SmolStr,
    pub sockets: u64,
    /// How many there may be: nodes that have more rooms than they name may have some more of each that they do not name.
    pub most: u64,
    /// How many nodes named it.
    pub nodes: usize,
}

/// Roll calls of the last five minutes. One number for each bucket of time that is over, the earliest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RollCalls {
    pub bucket_ms: u64,
    /// When the latest bucket ended, in milliseconds since 1970.
    pub until_ms: i64,
    pub calls: Vec<u64>,
    pub incomplete: Vec<u64>,
    /// How long half of them, and 99 in 100, took at most; null where there were none.
    pub p50_ms: Vec<Option<f64>>,
    pub p99_ms: Vec<Option<f64>>,
    pub last_minute: Minute,
}

/// The last minute of them that is over.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Minute {
    pub per_second: f64,
    pub incomplete: u64,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
}

/// Asks all nodes how they are. Cheap to clone.
#[derive(Clone)]
pub struct Overview {
    describer: Describer,
    peers: Peers,
}

/// A member that was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    pub member: Member,
    pub heard: Option<Duration>,
    pub took: Duration,
    pub circuit_open: bool,
    /// `None`: its version cannot say.
    pub reply: Result<Option<Description>, PeerError>,
}

/// The node that asks.
#[derive(Debug, Clone)]
pub struct Own {
    pub name: SmolStr,
    pub mesh: SmolStr,
    pub directory: &'static str,
    pub leased: bool,
    pub said: Description,
}

impl Overview {
    pub fn new(describer: Describer, peers: Peers) -> Self {
        Self { describer, peers }
    }

    /// How the cluster is now. Takes a second at most, and as long as it takes to read the own roster.
    pub async fn status(&self) -> Status {
        let (as_of, began) = (Timestamp::now(), Instant::now());
        let membership = &self.describer.membership;
        let asking = membership.view().members.into_iter().map(|member| self.ask(member));
        let (said, asked) = tokio::join!(self.describer.describe(ROOMS_MOST), join_all(asking));
        let info = self.describer.node_info();
        let own = Own {
            name: info.name.as_str().into(),
            mesh: info.mesh.clone(),
            directory: ReadinessReport::of(membership.readiness(), true).directory,
            leased: membership.has_lease(),
            said,
        };
        let mut status = merge(own, &asked, Timestamp::now());
        status.as_of = format!("{as_of:.3}").into();
        status.took_ms = milliseconds(began.elapsed());
        status
    }

    async fn ask(&self, member: Member) -> Asked {
        let heard = member.heard.map(BootInstant::elapsed);
        let began = Instant::now();
        let reply = self.peers.describe(&member.mesh, wire::question(), WITHIN).await;
        let reply =
            reply.and_then(|response| response.map(|response| wire::reported_by(&member.node, &response)).transpose());
        if let Ok(Some(said)) = &reply {
            self.describer.membership.record_contact(&said.node);
        }
        let circuit_open = self.peers.is_circuit_open(&member.mesh);
        Asked { member, heard, took: began.elapsed(), circuit_open, reply }
    }
}

/// To the microsecond: more would be noise.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}
