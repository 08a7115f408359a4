//! The scrape of `/metrics`: reads the state of the node's components into metrics, and renders all metrics as text.
//!
//! Owns the metrics that are read only at a scrape: gauges of state, and counters that another component counts. Owns no
//! metric that a component increments; those are in [`crate::telemetry::metrics`].

use std::array;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::{Gauge, IntCounter, IntGauge, TextEncoder};
use strum::{EnumCount as _, VariantArray as _};
use tokio::runtime::Handle;

use crate::auth::IdentityMode;
use crate::clock::BootInstant;
use crate::edge::connections::handle::ConnectionRegistry;
use crate::edge::polling::sessions::PollingSessions;
use crate::membership::Membership;
use crate::mesh::io::ConnectionEnd;
use crate::mesh::peers::Peers;
use crate::roll_call::cache::SnapshotCache;
use crate::roster::Roster;
use crate::status::health::ReadinessReport;
use crate::telemetry::anomalies::{Anomalies, Anomaly};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::lookups::PeerFamilies;
use crate::telemetry::metrics::registry::{MetricRegistry, ProcessMetrics, counter_per_value, raise, set};

/// The components whose state is read.
pub(super) struct MetricSources {
    pub roster: Arc<Roster>,
    pub membership: Arc<Membership>,
    pub identity: IdentityMode,
    pub peers: Peers,
    pub cache: SnapshotCache,
    pub anomalies: Anomalies,
    /// The connections of the public port.
    pub connections: ConnectionRegistry,
    pub sessions: Option<Arc<PollingSessions>>,
    pub runtime: Handle,
}

/// One registry and its sources.
pub(super) struct MetricsScrape {
    metrics: Metrics,
    sources: MetricSources,
    read: Mutex<(StateMetrics, ProcessMetrics)>,
}

impl MetricsScrape {
    /// Defines the state metrics in the registry of `metrics`.
    ///
    /// # Panics
    /// When called twice for one registry.
    pub(crate) fn new(metrics: Metrics, sources: MetricSources) -> Arc<Self> {
        let registry = &metrics.registry;
        let build_info =
            registry.gauges("rollcall_build_info", "Always 1; the label is the version of the program.", &["version"]);
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let node_info =
            registry.gauges("rollcall_node_info", "Always 1; the label is the name of the node.", &["node"]);
        node_info.with_label_values(&[sources.membership.node_info().name.as_str()]).set(1);
        let read = Mutex::new((StateMetrics::define(registry), ProcessMetrics::define(registry)));
        Arc::new(Self { metrics, sources, read })
    }

    /// The metrics in the text format of Prometheus. Blocks: it reads files in `/proc`, and takes milliseconds with many
    /// connections and peers.
    ///
    /// # Errors
    /// When a metric cannot be encoded, which is a bug.
    pub(crate) fn text(&self) -> prometheus::Result<String> {
        // One scrape at a time: two concurrent updates would add the same difference to a counter twice.
        let read = self.read.lock();
        let (state, system) = &*read;
        state.read(&self.sources);
        system.read(&self.sources.runtime);
        let mut families = self.metrics.registry.0.gather();
        families.extend(self.peers());
        TextEncoder::new().encode_to_string(&families)
    }

    /// Metrics by peer. Only current members are listed: otherwise each node that ever existed would keep its label values.
    fn peers(&self) -> Vec<prometheus::proto::MetricFamily> {
        let members = self.sources.membership.view().members;
        let mut families = PeerFamilies::default();
        self.sources.peers.each(|address, lookups, circuit_is_open| {
            if let Some(member) = members.iter().find(|member| member.mesh == address) {
                families.add(member.name.as_str(), address, lookups, circuit_is_open);
            }
        });
        families.into_inner()
    }
}

/// Metrics of state that belongs to other components.
struct StateMetrics {
    started: BootInstant,
    sockets: IntGauge,
    rooms: IntGauge,
    connects: IntCounter,
    disconnects: IntCounter,
    joins: IntCounter,
    leaves: IntCounter,
    connections: IntGauge,
    polling_sessions: IntGauge,
    ready: IntGauge,
    is_active: IntGauge,
    fully_indexed: IntGauge,
    draining: IntGauge,
    members: IntGauge,
    lease: Gauge,
    lease_age: Gauge,
    incarnations: IntCounter,
    cache: IntGauge,
    sent: [IntCounter; ConnectionEnd::ALL.len()],
    received: [IntCounter; ConnectionEnd::ALL.len()],
    anomalies: [IntCounter; Anomaly::COUNT],
}

impl StateMetrics {
    fn define(registry: &MetricRegistry) -> Self {
        let (counter, gauge) = (
            |name: &str, help: &str| registry.counter(name, help),
            |name: &str, help: &str| registry.gauge(name, help),
        );
        let by_end = |name: &str, help: &str| {
            counter_per_value(&registry.counters(name, help, &["end"]), ConnectionEnd::ALL.map(ConnectionEnd::name))
        };
        let anomalies = registry.counters(
            "rollcall_oddities_total",
            "Invalid data from other programs or nodes that was ignored, by kind.",
            &["kind"],
        );
        Self {
            started: BootInstant::now(),
            sockets: gauge("rollcall_sockets", "Sockets of this node."),
            rooms: gauge("rollcall_rooms", "Rooms with sockets of this node."),
            connects: counter("rollcall_socket_connects_total", "Sockets added to the roster."),
            disconnects: counter("rollcall_socket_disconnects_total", "Sockets removed from the roster."),
            joins: counter("rollcall_room_joins_total", "Joins of rooms, at the handshake or later."),
            leaves: counter("rollcall_room_leaves_total", "Leaves of rooms, by an event or by a disconnect."),
            connections: gauge(
                "rollcall_connections",
                "Open connections on the public port, including those of sockets, and long-polling sessions.",
            ),
            polling_sessions: gauge("rollcall_polling_sessions", "Long-polling sessions of this node."),
            ready: gauge(
                "rollcall_ready",
                "1 while load balancers should send new clients to this node, as in /readyz; else 0.",
            ),
            is_active: gauge(
                "rollcall_counts",
                "1 while this node is active: it has a lease, or most members confirm that it is alive; else 0.",
            ),
            fully_indexed: gauge(
                "rollcall_whole",
                "1 while this node is fully indexed: the directory lists all its rooms, so other nodes may skip it; else 0.",
            ),
            draining: gauge("rollcall_draining", "1 while this node is draining before it stops; else 0."),
            members: gauge("rollcall_members", "Nodes of the cluster that this node knows, itself included."),
            lease: registry.fraction_gauge("rollcall_lease_seconds", "Duration of a lease, in seconds."),
            lease_age: registry.fraction_gauge(
                "rollcall_lease_age_seconds",
                "Seconds since the last acknowledged lease renewal was sent, or since the start without one.",
            ),
            incarnations: counter(
                "rollcall_incarnations_total",
                "Node ids that this process has had. Each one after the first was caused by an expired lease, a lost index \
                 or an unacknowledged removal.",
            ),
            cache: gauge("rollcall_cache_bytes", "Approximate size of the cached answers of other nodes, in bytes."),
            sent: by_end(
                "rollcall_mesh_sent_bytes_total",
                "Bytes sent on mesh connections, by the end that this process is: asking (client) or answering (server).",
            ),
            received: by_end(
                "rollcall_mesh_received_bytes_total",
                "Bytes received on mesh connections, by the end that this process is: asking (client) or answering (server).",
            ),
            anomalies: counter_per_value(&anomalies, array::from_fn(|index| Anomaly::VARIANTS[index].name())),
        }
    }

    fn read(&self, sources: &MetricSources) {
        let MetricSources { roster, membership, .. } = sources;
        let (size, counters) = (roster.size(), roster.counters());
        set(&self.sockets, size.sockets);
        set(&self.rooms, size.rooms);
        raise(&self.connects, counters.registered);
        raise(&self.disconnects, counters.closed);
        raise(&self.joins, counters.joined);
        raise(&self.leaves, counters.left);
        set(&self.connections, sources.connections.count());
        set(&self.polling_sessions, sources.sessions.as_ref().map_or(0, |sessions| sessions.count()));

        let readiness = membership.readiness();
        self.ready.set(ReadinessReport::of(readiness, sources.identity.is_ready()).ready.into());
        self.draining.set(readiness.draining.into());
        self.is_active.set(membership.is_active().into());
        self.fully_indexed.set(roster.index_state().borrow().fully_indexed_in.is_some().into());
        set(&self.members, membership.view().members.len() + 1);
        self.lease.set(membership.lease().as_secs_f64());
        let confirmed = membership.lease_state().borrow().confirmed;
        self.lease_age.set(confirmed.unwrap_or(self.started).elapsed().as_secs_f64());
        raise(&self.incarnations, roster.incarnation().incarnation());

        self.cache.set(i64::try_from(sources.cache.bytes()).unwrap_or(i64::MAX));
        let bytes = sources.peers.byte_counter();
        for (index, end) in ConnectionEnd::ALL.into_iter().enumerate() {
            raise(&self.sent[index], bytes.sent(end));
            raise(&self.received[index], bytes.received(end));
        }
        for (counter, kind) in self.anomalies.iter().zip(Anomaly::VARIANTS) {
            raise(counter, sources.anomalies.count(*kind));
        }
    }
}
