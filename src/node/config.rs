//! The configuration of one node, and its bound listeners.
//!
//! Owns the defaults of the lease and the drain. The values are typed and valid: `commands` parses them from flags,
//! environment and files.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderValue;
use tokio::net::TcpListener;

use crate::auth::AccessPolicy;
use crate::auth::reload::Reloadable;
use crate::auth::tls::Tls;
use crate::auth::tokens::NamedTokens;
use crate::edge::limits::Limits;
use crate::edge::socketio::SocketIoConfig;
use crate::mesh::advertise::AdvertisedAddress;
use crate::mesh::security::Security;
use crate::names::NodeName;
use crate::telemetry::NodeTelemetry;

/// The duration of a lease, unless configured otherwise.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(5);
/// The time for a clean shutdown, unless configured otherwise.
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(10);

/// The configuration of one node.
pub struct NodeConfig {
    pub name: NodeName,
    /// The address at which the other nodes reach the mesh port of this one.
    pub mesh_advertise: Arc<dyn AdvertisedAddress>,
    pub lease: Duration,
    /// The deadline of a roll call whose caller names none.
    pub deadline: Duration,
    /// The time that a clean shutdown may take.
    pub drain: Duration,
    /// The time for which this node stays an owner of a room after its last socket left.
    pub release_delay: Duration,
    /// The size of the cache of room snapshots, in bytes.
    pub cache: u64,
    pub clients: SocketIoConfig,
    /// The authentication of clients and of API callers.
    pub access: AccessPolicy,
    pub limits: Limits,
    /// The origins whose pages may read the answers of the public port.
    pub cors_origins: Vec<HeaderValue>,
    /// TLS of the public port.
    pub tls: Option<Tls>,
    /// TLS and tokens of the mesh.
    pub mesh_security: Security,
    /// The tokens of operators, for the admin port.
    pub admin_tokens: Option<Reloadable<NamedTokens>>,
    /// Log levels and trace sampling, which all nodes of a process share, and the anomalies of this node.
    pub telemetry: NodeTelemetry,
}

/// The bound listeners of one node.
pub struct NodeListeners {
    /// Clients: Socket.IO, REST and the pages.
    pub public: TcpListener,
    /// gRPC between nodes.
    pub mesh: TcpListener,
    /// Probes, Prometheus and operators.
    pub admin: Option<TcpListener>,
}
