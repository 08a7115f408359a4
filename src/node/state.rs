//! Metrics of what is state elsewhere: read when somebody scrapes.

use prometheus::{Gauge, IntCounter, IntGauge};

use crate::clock::BootInstant;
use crate::mesh::byte_counter::ConnectionEnd;
use crate::node::scrape::{Sources, set};
use crate::status::health::ReadinessReport;
use crate::telemetry::anomalies::Oddity;
use crate::telemetry::metrics::{Definitions, each};

pub(crate) struct State {
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

impl State {
    pub fn define(definitions: &Definitions) -> Self {
        let (counter, gauge) = (
            |name: &str, help: &str| definitions.counter(name, help),
            |name: &str, help: &str| definitions.gauge(name, help),
        );
        let by_end = |name: &str, help: &str| {
            each(&definitions.counters(name, help, &["end"]), ConnectionEnd::ALL.map(ConnectionEnd::name))
        };
        let oddities = definitions.counters(
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
            lease: definitions.fraction_gauge("rollcall_lease_seconds", "How long a lease lasts."),
            lease_age: definitions.fraction_gauge(
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
            oddities: each(&oddities, Oddity::ALL.map(Oddity::name)),
        }
    }

    pub fn read(&self, sources: &Sources) {
        let Sources { roster, membership, .. } = sources;
        let (size, tally) = (roster.size(), roster.tally());
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
        self.draining.set(readiness.leaving.into());
        self.counts.set(membership.is_active().into());
        self.whole.set(roster.index_state().borrow().fully_indexed_in.is_some().into());
        set(&self.members, membership.view().members.len() + 1);
        self.lease.set(membership.lease().as_secs_f64());
        let confirmed = membership.standing().borrow().confirmed;
        self.lease_age.set(confirmed.unwrap_or(self.began).elapsed().as_secs_f64());
        raise(&self.incarnations, roster.incarnation().incarnation());

        self.cache.set(i64::try_from(sources.parts.bytes()).unwrap_or(i64::MAX));
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

/// Makes a counter say what was counted elsewhere.
pub(crate) fn raise(counter: &IntCounter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}
