//! Readiness: whether load balancers should send new clients to this node, and the reasons if not.
//!
//! Owns the condition and the texts, for `/readyz` of the admin port, `grpc.health.v1` of the mesh port
//! (`mesh_service::health`), and `rollcall health`, which requests `/readyz`. Owns no state: the membership does.

use serde::Serialize;

use crate::membership::{DirectoryState, MeshState, Readiness};

/// The body of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReadinessReport {
    pub ready: bool,
    /// The reasons why the node is not ready; empty if it is ready.
    pub reasons: Vec<String>,
    /// `ok`, or the problem. A node can be ready without Redis, as long as the other nodes know it.
    pub directory: &'static str,
    /// `ok`, or the problem.
    pub mesh: &'static str,
    /// `ok`, or the reason why the node cannot verify tokens.
    pub identity: &'static str,
    pub draining: bool,
}

impl ReadinessReport {
    /// `has_keys`: tokens of clients can be verified, see [`crate::auth::IdentityMode::is_ready`].
    pub fn of(readiness: Readiness, has_keys: bool) -> Self {
        let directory = match readiness.directory {
            DirectoryState::LeaseConfirmed => "ok",
            // Predicates, because the command line prints "the directory …".
            DirectoryState::Unavailable => "does not answer; roll calls ask every node",
            DirectoryState::NeverReached => "has not answered since this node started",
        };
        let mesh = match readiness.mesh {
            MeshState::Synced => "ok",
            MeshState::Announcing => "not announced to every member yet",
            MeshState::Unreachable => "most members cannot connect to this node; check --mesh-advertise",
            MeshState::Isolated => "most members do not answer, and there is no lease",
        };
        let identity = if has_keys { "ok" } else { "no keys yet: --jwks has returned none" };
        let ready = readiness.is_ready() && has_keys;
        let mut reasons = Vec::new();
        if readiness.directory == DirectoryState::NeverReached && !ready {
            reasons.push(format!("directory: {directory}"));
        }
        if readiness.mesh != MeshState::Synced {
            reasons.push(format!("mesh: {mesh}"));
        }
        if !has_keys {
            reasons.push(format!("identity: {identity}"));
        }
        if readiness.draining {
            reasons.push("draining".to_owned());
        }
        Self { ready, reasons, directory, mesh, identity, draining: readiness.draining }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_reasons_exactly_when_it_is_not_ready() {
        for directory in [DirectoryState::LeaseConfirmed, DirectoryState::Unavailable, DirectoryState::NeverReached] {
            for mesh in [MeshState::Synced, MeshState::Announcing, MeshState::Unreachable, MeshState::Isolated] {
                for draining in [false, true] {
                    for has_keys in [true, false] {
                        let report = ReadinessReport::of(Readiness { directory, mesh, draining }, has_keys);
                        assert_eq!(report.ready, report.reasons.is_empty(), "{report:?}");
                        assert_eq!(report.ready, mesh == MeshState::Synced && !draining && has_keys, "{report:?}");
                        assert_eq!(report.directory == "ok", directory == DirectoryState::LeaseConfirmed);
                    }
                }
            }
        }
    }
}
