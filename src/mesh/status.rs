//! A node's word on the wire: `Status` to [`Said`] and back.
//!
//! Owns the checks of what comes in: names and ids that no node can have made refuse the whole status.

use std::time::Duration;

use smol_str::SmolStr;
use thiserror::Error;

use super::proto;
use crate::clock::whole_milliseconds;
use crate::index::Epoch;
use crate::membership::table::{Known, Said};
use crate::names::{NameError, NodeId, NodeName};

/// The most members a status may name.
const MAX_MEMBERS: usize = 10_000;

/// Why a status makes no sense. `Display` completes the sentence "the status …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Error {
    #[error("has a name or an id that {0}")]
    Name(#[from] NameError),
    #[error("must name at most {MAX_MEMBERS} members")]
    TooManyMembers,
}

pub fn encode(said: &Said) -> proto::Status {
    proto::Status {
        node_id: said.about.node.to_string(),
        name: said.about.name.to_string(),
        mesh: said.about.mesh.to_string(),
        since: said.about.since.to_string(),
        sequence: said.sequence,
        whole_under: said.fully_indexed_in.as_ref().map(|epoch| epoch.0.to_string()).unwrap_or_default(),
        draining: said.draining,
        goodbye: said.goodbye,
        members: said.members.iter().map(encode_member).collect(),
    }
}

/// # Errors
/// When a name or an id in it is none, or it names too many members.
pub fn decode(status: proto::Status) -> Result<Said, Error> {
    if status.members.len() > MAX_MEMBERS {
        return Err(Error::TooManyMembers);
    }
    let fully_indexed_in = Some(status.whole_under).filter(|epoch| !epoch.is_empty());
    Ok(Said {
        about: known(&status.node_id, &status.name, &status.mesh, &status.since, Some(Duration::ZERO))?,
        sequence: status.sequence,
        fully_indexed_in: fully_indexed_in.map(|epoch| Epoch(epoch.into())),
        draining: status.draining,
        goodbye: status.goodbye,
        members: status.members.iter().map(decode_member).collect::<Result<_, _>>()?,
    })
}

fn encode_member(known: &Known) -> proto::KnownMember {
    proto::KnownMember {
        node_id: known.node.to_string(),
        name: known.name.to_string(),
        mesh: known.mesh.to_string(),
        since: known.since.to_string(),
        age_ms: known.age.map(whole_milliseconds),
    }
}

fn decode_member(member: &proto::KnownMember) -> Result<Known, NameError> {
    let age = member.age_ms.map(Duration::from_millis);
    known(&member.node_id, &member.name, &member.mesh, &member.since, age)
}

fn known(node: &str, name: &str, mesh: &str, since: &str, age: Option<Duration>) -> Result<Known, NameError> {
    Ok(Known {
        node: NodeId::parse(node)?,
        name: NodeName::parse(name)?,
        mesh: SmolStr::new(mesh),
        since: SmolStr::new(since),
        age,
    })
}
