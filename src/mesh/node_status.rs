//! The status that nodes announce to each other, and its conversion to and from the wire message `Status`.
//!
//! Owns the validation of received statuses, with the limit of each field: one invalid value rejects the whole status. Owns no
//! rule about when a status replaces another one: those belong to the member table (`membership::table`). Tests:
//! `tests/cluster/bad_input.rs`, and the fuzz target `mesh`.

use std::time::Duration;

use smol_str::SmolStr;
use thiserror::Error;

use super::proto;
use crate::clock::whole_milliseconds;
use crate::index::Epoch;
use crate::names::{NameError, NodeId, NodeName};

/// Above this, a received status is invalid. Each node announces itself to every other one, so clusters are much smaller.
pub const MAX_STATUS_MEMBERS: usize = 1_000;
/// A host name of 253 bytes and a port fit.
const MAX_ADDRESS_BYTES: usize = 300;
/// The longest RFC 3339 time has 35 bytes.
const MAX_TIME_BYTES: usize = 64;
/// An epoch has about 100 bytes.
const MAX_EPOCH_BYTES: usize = 512;

/// The state of a node as the node itself reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    pub about: MemberInfo,
    /// Numbers the statuses of one process; a receiver keeps the one with the highest number.
    pub sequence: u64,
    /// The epoch in which every room of the node is in the directory; `None` while one may be missing.
    pub fully_indexed_in: Option<Epoch>,
    pub draining: bool,
    pub goodbye: bool,
    /// The members that the node knows, so that two nodes with different lists converge.
    pub members: Vec<MemberInfo>,
}

/// A node as another node knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberInfo {
    pub node: NodeId,
    pub name: NodeName,
    /// The address of its mesh port, `host:port`.
    pub mesh: SmolStr,
    /// The start time of the process, RFC 3339.
    pub since: SmolStr,
    /// The time since the last message of the node over the mesh; `None`: the node is known from the directory only.
    pub age: Option<Duration>,
}

/// The fault of a received status. `Display` completes the sentence "the status …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Error {
    #[error("has a name or an id that {0}")]
    Name(#[from] NameError),
    #[error("must name at most {MAX_STATUS_MEMBERS} members")]
    TooManyMembers,
    #[error("has an address, a time or an epoch that is too long")]
    TooLong,
}

pub fn encode(status: &NodeStatus) -> proto::Status {
    proto::Status {
        node_id: status.about.node.to_string(),
        name: status.about.name.to_string(),
        mesh: status.about.mesh.to_string(),
        since: status.about.since.to_string(),
        sequence: status.sequence,
        whole_under: status.fully_indexed_in.as_ref().map(|epoch| epoch.0.to_string()).unwrap_or_default(),
        draining: status.draining,
        goodbye: status.goodbye,
        members: status.members.iter().map(encode_member).collect(),
    }
}

/// # Errors
/// When the status has an invalid name or id, or too many members.
pub fn decode(status: proto::Status) -> Result<NodeStatus, Error> {
    if status.members.len() > MAX_STATUS_MEMBERS {
        return Err(Error::TooManyMembers);
    }
    if status.whole_under.len() > MAX_EPOCH_BYTES {
        return Err(Error::TooLong);
    }
    let fully_indexed_in = Some(status.whole_under).filter(|epoch| !epoch.is_empty());
    Ok(NodeStatus {
        about: member_info(&status.node_id, &status.name, &status.mesh, &status.since, Some(Duration::ZERO))?,
        sequence: status.sequence,
        fully_indexed_in: fully_indexed_in.map(|epoch| Epoch(epoch.into())),
        draining: status.draining,
        goodbye: status.goodbye,
        members: status.members.iter().map(decode_member).collect::<Result<_, _>>()?,
    })
}

fn encode_member(member: &MemberInfo) -> proto::KnownMember {
    proto::KnownMember {
        node_id: member.node.to_string(),
        name: member.name.to_string(),
        mesh: member.mesh.to_string(),
        since: member.since.to_string(),
        age_ms: member.age.map(whole_milliseconds),
    }
}

fn decode_member(member: &proto::KnownMember) -> Result<MemberInfo, Error> {
    let age = member.age_ms.map(Duration::from_millis);
    member_info(&member.node_id, &member.name, &member.mesh, &member.since, age)
}

fn member_info(node: &str, name: &str, mesh: &str, since: &str, age: Option<Duration>) -> Result<MemberInfo, Error> {
    if mesh.len() > MAX_ADDRESS_BYTES || since.len() > MAX_TIME_BYTES {
        return Err(Error::TooLong);
    }
    Ok(MemberInfo {
        node: NodeId::parse(node)?,
        name: NodeName::parse(name)?,
        mesh: SmolStr::new(mesh),
        since: SmolStr::new(since),
        age,
    })
}
