//! A worker process with one rollcall node. Its rows are registered in the roster directly, without clients.
//!
//! | command | effect | reply |
//! |---|---|---|
//! | `address` | | the public address of the node |
//! | `put <room> <count>` | registers `count` rows in the room | |
//! | `churn <room> <each second>` | replaces that number of rows per second; 0 stops it | |

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rollcall::auth::AccessPolicy;
use rollcall::directory::redis::RedisDirectory;
use rollcall::edge::connections::listener::listen;
use rollcall::edge::limits::Limits;
use rollcall::edge::socketio::SocketIoConfig;
use rollcall::mesh::advertise::FixedAddress;
use rollcall::mesh::security::Security;
use rollcall::names::{NodeName, Room, SocketId, UserId};
use rollcall::node::Node;
use rollcall::node::config::{self, NodeConfig, NodeListeners};
use rollcall::reconciler;
use rollcall::roll_call;
use rollcall::roster::{Registration, Roster};
use rollcall::telemetry::NodeTelemetry;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::pace::Pace;
use crate::worker::serve_commands;

const READY_POLL_INTERVAL: Duration = Duration::from_millis(10);

struct RosterNode {
    node: String,
    roster: Arc<Roster>,
    /// By room, except the rows that the churn task owns.
    registrations: Vec<(Room, VecDeque<Registration>)>,
    churn: Option<JoinHandle<()>>,
}

/// The socket id and the user id of one row.
pub fn row(node: &str, room: &str, number: usize) -> (String, String) {
    (format!("{node}-{room}-{number:06}"), format!("user-{number}"))
}

/// Runs a node with this name, and commands until stdin is closed.
///
/// # Errors
/// When the node does not start, or ends early.
pub async fn run(redis: &str, name: &str) -> Result<()> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (public, mesh) = (listen(any, false)?, listen(any, false)?);
    let config = NodeConfig {
        name: NodeName::parse(name)?,
        mesh_advertise: Arc::new(FixedAddress(mesh.local_addr()?.to_string().into())),
        lease: config::DEFAULT_LEASE,
        deadline: roll_call::DEFAULT_DEADLINE,
        drain: config::DEFAULT_DRAIN,
        release_delay: reconciler::RELEASE_DELAY,
        cache: roll_call::cache::DEFAULT_CACHE_BYTES,
        clients: SocketIoConfig::default(),
        access: AccessPolicy::default(),
        limits: Limits::default(),
        cors_origins: Vec::new(),
        tls: None,
        mesh_security: Security::default(),
        admin_tokens: None,
        telemetry: NodeTelemetry::default(),
    };
    let directory = Arc::new(RedisDirectory::open(redis, "rollcall:", false)?);
    let node = Node::new(config, NodeListeners { public, mesh, admin: None }, directory);
    let address = node.public_address()?;
    let (roster, membership) = (Arc::clone(node.roster()), Arc::clone(node.membership()));
    let running = tokio::spawn(node.run(CancellationToken::new()));
    while !membership.readiness().is_ready() {
        sleep(READY_POLL_INTERVAL).await;
    }
    let mut roster_node = RosterNode { node: name.to_owned(), roster, registrations: Vec::new(), churn: None };
    let serving = serve_commands(async |command, arguments| match command {
        "address" => Ok(vec![address.to_string()]),
        _ => roster_node.run_command(command, arguments),
    });
    tokio::select! {
        served = serving => served,
        ended = running => ended?.context("the node ended"),
    }
}

impl RosterNode {
    fn run_command(&mut self, command: &str, arguments: &str) -> Result<Vec<String>> {
        let (name, count) = arguments.split_once(' ').context("a room and a number")?;
        let (room, count): (_, usize) = (Room::parse(name)?, count.parse()?);
        match command {
            "put" => {
                let registering = (0..count).map(|number| register(&self.roster, &self.node, &room, number));
                let registrations = registering.collect::<Result<_>>()?;
                self.registrations.push((room, registrations));
            }
            "churn" => {
                if let Some(churn) = self.churn.take() {
                    churn.abort();
                }
                if count > 0 {
                    let index = self.registrations.iter().position(|(other, _)| *other == room);
                    let (room, registrations) = self.registrations.swap_remove(index.context("the room has no rows")?);
                    let churn =
                        replace_continuously(Arc::clone(&self.roster), self.node.clone(), room, registrations, count);
                    self.churn = Some(tokio::spawn(churn));
                }
            }
            _ => bail!("not an command: {command}"),
        }
        Ok(Vec::new())
    }
}

fn register(roster: &Arc<Roster>, node: &str, room: &Room, number: usize) -> Result<Registration> {
    let (id, user) = row(node, room.as_str(), number);
    Ok(roster.register(SocketId::parse(&id)?, UserId::parse(&user)?, std::slice::from_ref(room)))
}

/// Replaces `each_second` rows per second. When this ends, all rows are removed.
async fn replace_continuously(
    roster: Arc<Roster>,
    node: String,
    room: Room,
    mut registrations: VecDeque<Registration>,
    each_second: usize,
) {
    let (mut pace, mut next) = (Pace::new(each_second), registrations.len());
    loop {
        pace.next().await;
        let newcomer = register(&roster, &node, &room, next).expect("the names of all rows have one form");
        registrations.push_back(newcomer);
        registrations.pop_front();
        next += 1;
    }
}
