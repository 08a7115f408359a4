//! A scrape: everything that is measured, as text.
//!
//! Owns what is read at that moment, and the encoding. One scrape at a time: each brings what is counted elsewhere up
//! to date before it is written down.

use std::sync::{Arc, Mutex};

use prometheus::{IntGauge, TextEncoder};
use tokio::runtime::Handle;

use crate::auth::IdentityMode;
use crate::edge::connections::handle::ConnectionRegistry;
use crate::edge::polling::sessions::PollingSessions;
use crate::membership::Membership;
use crate::mesh::peers::Peers;
use crate::node::state::State;
use crate::roll_call::cache::Parts;
use crate::roster::Roster;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::lookups::Families;
use crate::telemetry::metrics::system::System;

/// What is read at a scrape.
pub struct Sources {
    pub roster: Arc<Roster>,
    pub membership: Arc<Membership>,
    pub identity: IdentityMode,
    pub peers: Peers,
    pub parts: Parts,
    /// Those of the public port.
    pub connections: ConnectionRegistry,
    pub sessions: Option<Arc<PollingSessions>>,
    pub runtime: Handle,
}

/// Shared by `Arc`.
pub struct Scrape {
    metrics: Metrics,
    sources: Sources,
    read: Mutex<(State, System)>,
}

impl Scrape {
    /// Made once for each registry.
    pub fn new(metrics: Metrics, sources: Sources) -> Arc<Self> {
        let definitions = &metrics.definitions;
        let about = definitions.gauges("rollcall_build_info", "1, with the version of the program.", &["version"]);
        about.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let about = definitions.gauges("rollcall_node_info", "1, with the name of the node.", &["node"]);
        about.with_label_values(&[sources.membership.node_info().name.as_str()]).set(1);
        let read = Mutex::new((State::define(definitions), System::define(definitions)));
        Arc::new(Self { metrics, sources, read })
    }

    /// The text. Reads files of `/proc`, and takes milliseconds where there are many connections and peers.
    ///
    /// # Errors
    /// When a metric cannot be written down, which is a bug.
    pub fn text(&self) -> prometheus::Result<String> {
        let read = self.read.lock().expect("no code panics while it reads metrics");
        let (state, system) = &*read;
        state.read(&self.sources);
        system.read(&self.sources.runtime);
        let mut families = self.metrics.definitions.0.gather();
        families.extend(self.peers());
        TextEncoder::new().encode_to_string(&families)
    }

    /// The peers that are members, by name. One that has left is not named any more.
    fn peers(&self) -> Vec<prometheus::proto::MetricFamily> {
        let members = self.sources.membership.view().members;
        let mut families = Families::default();
        self.sources.peers.each(|address, lookups, circuit_is_open| {
            if let Some(member) = members.iter().find(|member| member.mesh == address) {
                families.add(member.name.as_str(), address, lookups, circuit_is_open);
            }
        });
        families.into_inner()
    }
}

pub(crate) fn set(gauge: &IntGauge, count: usize) {
    gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
}
