//! `rollcall dev`: a cluster in one process, to see it work.
//!
//! Owns the set-up that `serve` leaves to its operator: how many nodes, one address that all of them accept on, a
//! certificate made at start, and the few lines that say where everything is. Every node is a whole one, with its own
//! sockets and its own mesh port.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::auth::Access;
use crate::auth::tls::Tls;
use crate::commands::args::ListenAddress;
use crate::directory::Directory;
use crate::edge::connections::listen;
use crate::edge::limits::Limits;
use crate::edge::socketio::SocketIoConfig;
use crate::mesh::security::Security;
use crate::names::NodeName;
use crate::node::{self, Config, Listeners, Node};
use crate::reconciler;

/// How long stopping may take: whoever stops it wants it stopped, and there is nowhere to go for its clients.
const DRAIN: Duration = Duration::from_secs(1);

/// What the cluster is told.
pub struct Cluster {
    pub nodes: usize,
    pub listen: ListenAddress,
    pub tls: bool,
    pub clients: SocketIoConfig,
}

/// Runs the cluster until `shutdown`. `directory` is called once for each node; `print` gets the lines that say where
/// everything is, once everything is there.
///
/// # Errors
/// When an address is taken, or a node ended that should not have.
pub async fn run(
    cluster: Cluster,
    directory: impl Fn() -> anyhow::Result<Arc<dyn Directory>>,
    print: impl FnOnce(&str),
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let Cluster { nodes, listen: address, tls, clients } = cluster;
    let acceptor = if tls { Some(Tls::self_signed(address.certificate_names())?.acceptor) } else { None };
    let mut public = address.address;
    let mut running = JoinSet::new();
    let mut meshes = Vec::with_capacity(nodes);
    for number in 1..=nodes {
        let listener = listen(public, true).with_context(|| format!("cannot listen on {public}"))?;
        // Port 0 picks a port for the first node, and the others share it.
        public = listener.local_addr()?;
        let mesh = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), false).context("cannot listen for the mesh")?;
        let mesh_address = mesh.local_addr()?;
        let name = NodeName::from_any(&format!("node-{number}"));
        meshes.push((name.clone(), mesh_address));
        let config = Config {
            name,
            mesh_advertise: mesh_address.to_string(),
            lease: node::LEASE,
            deadline: node::DEADLINE,
            drain: DRAIN,
            cache: node::CACHE,
            clients,
            access: Access::default(),
            release_delay: reconciler::RELEASE_DELAY,
            limits: Limits::default(),
            cors_origins: Vec::new(),
            tls: acceptor.clone().map(|acceptor| Tls { acceptor, files: None }),
            mesh_security: Security::default(),
            admin_tokens: None,
        };
        let listeners = Listeners { public: listener, mesh, admin: None };
        running.spawn(Node::new(config, listeners, directory()?).run(shutdown.clone()));
    }
    print(&introduction(&address.origin(tls, public.port()), tls, &meshes));
    while let Some(ended) = running.join_next().await {
        ended.context("a node panicked")??;
    }
    Ok(())
}

fn introduction(origin: &str, tls: bool, meshes: &[(NodeName, SocketAddr)]) -> String {
    let insecure = if tls { "-k " } else { "" };
    let mut text = format!("Rollcall: {} nodes, one address.\n\n", meshes.len());
    let mut line = |what: &str, how: &str| writeln!(text, "  {what:<5} {how}").expect("a String takes any text");
    line("open", &format!("{origin}/Maths?id_user=foo"));
    line("ask", &format!("curl {insecure}{origin}/Maths/users"));
    for (number, (name, mesh)) in meshes.iter().enumerate() {
        line(if number == 0 { "mesh" } else { "" }, &format!("{name} on {mesh}"));
    }
    line("stop", "Ctrl-C");
    if tls {
        text.push_str("\nThe certificate was made just now, so a browser asks once whether to trust it.\n");
    }
    text
}
