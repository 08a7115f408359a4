//! The scrape of `/metrics`: reads the state of the node's components into metrics, and renders all metrics as text.
//!
//! Counters that the components raise themselves are in [`crate::telemetry::metrics`]; here is what is only read when
//! Prometheus asks.

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::{Gauge, IntCounter, IntGauge, TextEncoder};
use tokio::runtime::Handle;

use crate::auth::IdentityMode;
use crate::clock::BootInstant;
use crate::edge::connections::handle::ConnectionRegistry;
use crate::edge::polling::sessions::PollingSessions;
use crate::membership::Membership;
use crate::mesh::byte_counter::ConnectionEnd;
use crate::mesh::peers::Peers;
use crate::roll_call::cache::SnapshotCache;
use crate::roster::Roster;
use crate::status::health::ReadinessReport;
use crate::telemetry::anomalies::Oddity;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::lookups::PeerFamilies;
use crate::telemetry::metrics::registry::{MetricRegistry, counter_per_value, raise, set};
use crate::telemetry::metrics::system::ProcessMetrics;

/// The components whose state is read.
pub(super) struct MetricSources {
    pub roster: Arc<Roster>,
    pub membership: Arc<Membership>,
    pub identity: IdentityMode,
    pub peers: Peers,
    pub cache: SnapshotCache,
    /// Those of the public port.
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
    /// Defines the metrics of the state: to be called once for each registry.
    pub fn new(metrics: Metrics, sources: MetricSources) -> Arc<Self> {
        let registry = &metrics.registry;
        let about = registry.gauges("rollcall_build_info", "1, with the version of the program.", &["version"]);
        about.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let about = registry.gauges("rollcall_node_info", "1, with the name of the node.", &["node"]);
        about.with_label_values(&[sources.membership.node_info().name.as_str()]).set(1);
        let read = Mutex::new((StateMetrics::define(registry), ProcessMetrics::define(registry)));
        Arc::new(Self { metrics, sources, read })
    }

    /// The metrics in the text format of Prometheus. Blocks: it reads files of `/proc`, and takes milliseconds where there
    /// are many connections and peers. One scrape at a time, because each first brings the counters up to date.
    ///
    /// # Errors
    /// When a metric cannot be encoded, which is a bug.
    pub fn text(&self) -> prometheus::Result<String> {
        let read = self.read.lock();
        let (state, system) = &*read;
        state.read(&self.sources);
        system.read(&self.sources.runtime);
        let mut families = self.metrics.registry.0.gather();
        families.extend(self.peers());
        TextEncoder::new().encode_to_string(&families)
    }

    /// Metrics by peer. Only members are listed, so that the label values do not grow with every node that ever was.
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
    began: BootInstant,
    sockets: IntGauge,
    rooms: IntGauge,
    connects: IntCounter,
    disconnects: IntCounter,
    joins: IntCounter,
    leaves: IntCounter,
    connections: IntGauge,
    polling_sessions: IntGauge,
    ready: IntGauge,
    counts: IntGauge,
    whole: IntGauge,
    draining: IntGauge,
    members: IntGauge,
    lease: Gauge,
    lease_age: Gauge,
    incarnations: IntCounter,
    cache: IntGauge,
    sent: [IntCounter; ConnectionEnd::ALL.len()],
    received: [IntCounter; ConnectionEnd::ALL.len()],
    oddities: [IntCounter; Oddity::ALL.len()],
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
        let oddities = registry.counters(
            "rollcall_oddities_total",
            "What other programs and other nodes sent or left that cannot be right, and was ignored, by kind.",
            &["kind"],
        );
        Self {
            began: BootInstant::now(),
            sockets: gauge("rollcall_sockets", "Sockets of this node."),
            rooms: gauge("rollcall_rooms", "Rooms with sockets of this node."),
            connects: counter("rollcall_socket_connects_total", "Sockets that were given a place in the roster."),
            disconnects: counter(
                "rollcall_socket_disconnects_total",
                "Sockets that gave up their place in the roster.",
            ),
            joins: counter("rollcall_room_joins_total", "Sockets that entered a room, at their handshake or later."),
            leaves: counter("rollcall_room_leaves_total", "Sockets that left a room, or went with their connection."),
            connections: gauge(
                "rollcall_connections",
                "Connections open on the public port, those of sockets included, and long-polling sessions.",
            ),
            polling_sessions: gauge("rollcall_polling_sessions", "Long-polling sessions of this node."),
            ready: gauge("rollcall_ready", "1 while new clients should be sent to this node, as /readyz says, else 0."),
            counts: gauge(
                "rollcall_counts",
                "1 while the sockets of this node count: it has a lease, or most members vouch for it; else 0.",
            ),
            whole: gauge(
                "rollcall_whole",
                "1 while every room of this node is claimed in the directory, so that others may skip it; else 0.",
            ),
            draining: gauge("rollcall_draining", "1 once this node is on its way out, else 0."),
            members: gauge("rollcall_members", "Nodes of the cluster as known here, this one included."),
            lease: registry.fraction_gauge("rollcall_lease_seconds", "How long a lease lasts."),
            lease_age: registry.fraction_gauge(
                "rollcall_lease_age_seconds",
                "Time since the renewal of the lease was sent that was answered last, or since the node started.",
            ),
            incarnations: counter(
                "rollcall_incarnations_total",
                "Ids that this process has had: more than one means lapses of its lease, lost indexes or unanswered \
                 removals.",
            ),
            cache: gauge("rollcall_cache_bytes", "Bytes held of what nodes answered, about."),
            sent: by_end(
                "rollcall_mesh_sent_bytes_total",
                "Bytes sent on mesh connections, by which end of them this process is (asking, answering).",
            ),
            received: by_end(
                "rollcall_mesh_received_bytes_total",
                "Bytes received on mesh connections, by which end of them this process is (asking, answering).",
            ),
            oddities: counter_per_value(&oddities, Oddity::ALL.map(Oddity::name)),
        }
    }

    fn read(&self, sources: &MetricSources) {
        let MetricSources { roster, membership, .. } = sources;
        let (size, tally) = (roster.size(), roster.counters());
        set(&self.sockets, size.sockets);
        set(&self.rooms, size.rooms);
        raise(&self.connects, tally.registered);
        raise(&self.disconnects, tally.closed);
        raise(&self.joins, tally.joined);
        raise(&self.leaves, tally.left);
        set(&self.connections, sources.connections.count());
        set(&self.polling_sessions, sources.sessions.as_ref().map_or(0, |sessions| sessions.count()));

        let readiness = membership.readiness();
        self.ready.set(ReadinessReport::of(readiness, sources.identity.is_ready()).ready.into());
        self.draining.set(readiness.draining.into());
        self.counts.set(membership.is_active().into());
        self.whole.set(roster.index_state().borrow().fully_indexed_in.is_some().into());
        set(&self.members, membership.view().members.len() + 1);
        self.lease.set(membership.lease().as_secs_f64());
        let confirmed = membership.lease_state().borrow().confirmed;
        self.lease_age.set(confirmed.unwrap_or(self.began).elapsed().as_secs_f64());
        raise(&self.incarnations, roster.incarnation().incarnation());

        self.cache.set(i64::try_from(sources.cache.bytes()).unwrap_or(i64::MAX));
        let bytes = sources.peers.byte_counter();
        for (place, end) in ConnectionEnd::ALL.into_iter().enumerate() {
            raise(&self.sent[place], bytes.sent(end));
            raise(&self.received[place], bytes.received(end));
        }
        for (counter, oddity) in self.oddities.iter().zip(Oddity::ALL) {
            raise(counter, oddity.count());
        }
    }
}
