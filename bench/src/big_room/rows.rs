//! A rollcall node in a process of its own whose rows are put into its roster, without clients.
//!
//! | order | what happens | what is answered |
//! |---|---|---|
//! | `address` | | where it answers |
//! | `put <room> <count>` | the room gets so many rows | |
//! | `churn <room> <each second>` | from now on so many rows go and others come, none for 0 | |

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

use crate::apart::obey;
use crate::pace::Pace;

const LOOK_EVERY: Duration = Duration::from_millis(10);

struct Rows {
    node: String,
    roster: Arc<Roster>,
    /// By room; those that churn have are not among them.
    presences: Vec<(Room, VecDeque<Registration>)>,
    churn: Option<JoinHandle<()>>,
}

/// The id and the user of one row.
pub fn row(node: &str, room: &str, number: usize) -> (String, String) {
    (format!("{node}-{room}-{number:06}"), format!("user-{number}"))
}

/// Runs a node of this name, and obeys until there are no more orders.
///
/// # Errors
/// When it does not start, or ends.
pub async fn run(redis: &str, name: &str) -> Result<()> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (public, mesh) = (listen(any, false)?, listen(any, false)?);
    let config = NodeConfig {
        name: NodeName::parse(name)?,
        mesh_advertise: mesh.local_addr()?.to_string(),
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
        sleep(LOOK_EVERY).await;
    }
    let mut rows = Rows { node: name.to_owned(), roster, presences: Vec::new(), churn: None };
    let obeying = obey(async |order, about| match order {
        "address" => Ok(vec![address.to_string()]),
        _ => rows.carry_out(order, about),
    });
    tokio::select! {
        obeyed = obeying => obeyed,
        ended = running => ended?.context("the node ended"),
    }
}

impl Rows {
    fn carry_out(&mut self, order: &str, about: &str) -> Result<Vec<String>> {
        let (name, count) = about.split_once(' ').context("a room and a number")?;
        let (room, count): (_, usize) = (Room::parse(name)?, count.parse()?);
        match order {
            "put" => {
                let put = (0..count).map(|number| put(&self.roster, &self.node, &room, number));
                let presences = put.collect::<Result<_>>()?;
                self.presences.push((room, presences));
            }
            "churn" => {
                if let Some(churn) = self.churn.take() {
                    churn.abort();
                }
                if count > 0 {
                    let place = self.presences.iter().position(|(other, _)| *other == room);
                    let (room, presences) = self.presences.swap_remove(place.context("the room has no rows")?);
                    let churn = come_and_go(Arc::clone(&self.roster), self.node.clone(), room, presences, count);
                    self.churn = Some(tokio::spawn(churn));
                }
            }
            _ => bail!("not an order: {order}"),
        }
        Ok(Vec::new())
    }
}

fn put(roster: &Arc<Roster>, node: &str, room: &Room, number: usize) -> Result<Registration> {
    let (id, user) = row(node, room.as_str(), number);
    Ok(roster.register(SocketId::parse(&id)?, UserId::parse(&user)?, std::slice::from_ref(room)))
}

/// So many rows go each second, and others come in their places; all are gone when this ends.
async fn come_and_go(
    roster: Arc<Roster>,
    node: String,
    room: Room,
    mut presences: VecDeque<Registration>,
    each_second: usize,
) {
    let (mut pace, mut next) = (Pace::new(each_second), presences.len());
    loop {
        pace.next().await;
        let newcomer = put(&roster, &node, &room, next).expect("made like those before it");
        presences.push_back(newcomer);
        presences.pop_front();
        next += 1;
    }
}
