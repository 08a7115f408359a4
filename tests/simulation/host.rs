//! One node of a simulation, and its clients.
//!
//! Owns a model of the socket edge and of the gate, which stand between a node's core and its clients in production. The
//! model admits, acknowledges and disconnects clients by the same rules. The world orders each action of a client, and
//! the host reports its effect to the oracle.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{LocalBoxFuture, Shared};
use rollcall::auth::IdentityMode;
use rollcall::directory::Directory;
use rollcall::directory::faulty::FaultyDirectory;
use rollcall::membership::{DrainState, Membership, NodeInfo};
use rollcall::mesh::advertise::FixedAddress;
use rollcall::mesh::peers::Peers;
use rollcall::mesh::security::Security;
use rollcall::mesh_service;
use rollcall::names::{NodeId, NodeName, Room, SocketId, UserId};
use rollcall::node::core::NodeCore;
use rollcall::node::tasks::EssentialTasks;
use rollcall::roll_call::answer::RollCallAnswer;
use rollcall::roll_call::cache::SnapshotCache;
use rollcall::roster::Registration;
use rollcall::telemetry::anomalies::Anomalies;
use rollcall::telemetry::traces::TraceSampling;
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::{Instant, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::network::{self, PORT};
use crate::oracle::{Flaw, Moment};
use crate::world::{Record, SharedState};

/// Short, so that many leases expire in one seed.
pub(crate) const LEASE: Duration = Duration::from_secs(2);
const RELEASE_DELAY: Duration = Duration::from_millis(400);
/// The socket edge's timeout of an acknowledgement.
const ACKNOWLEDGEMENT_TIMEOUT: Duration = Duration::from_secs(4);
/// The gate's interval between two checks whether the node is an active member.
const GATE_CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// The gate disconnects all clients after this number of consecutive failed checks.
const MAX_FAILED_CHECKS: u32 = 10;
/// A timer fires up to one tick late, and an answer depends on two timers in sequence.
const DEADLINE_SLACK: Duration = Duration::from_millis(10);
/// The timeout of each step of the shutdown.
const SHUTDOWN_STEP_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_BUSIEST_ROOMS: usize = 10;
/// Small, so that snapshots are evicted and peers send them again.
const CACHE_BYTES: u64 = 16 << 10;

/// An order of the world to a host.
#[derive(Debug, Clone)]
pub(crate) enum Order {
    Come {
        socket: SocketId,
        rooms: Vec<Room>,
    },
    Join {
        socket: SocketId,
        room: Room,
    },
    Leave {
        socket: SocketId,
        room: Room,
    },
    Go {
        socket: SocketId,
    },
    /// `asked`: when the caller sent the question. A paused host reads it later.
    Call {
        room: Room,
        deadline: Duration,
        asked: Moment,
    },
    Stop,
}

/// A running node.
pub(crate) struct Life {
    pub core: NodeCore,
    pub orders: mpsc::UnboundedSender<Order>,
    pub presences: BTreeMap<SocketId, Registration>,
    /// The roll call of each room that began last; used only by [`Flaw::JoinsRunningCalls`].
    running: BTreeMap<Room, SharedCall>,
}

type SharedCall = Shared<LocalBoxFuture<'static, Option<std::sync::Arc<RollCallAnswer>>>>;

/// One host, from crash to crash.
#[derive(Clone)]
pub(crate) struct Host {
    pub number: usize,
    pub directory: std::sync::Arc<FaultyDirectory>,
    /// `None` while the host is down.
    pub life: Rc<RefCell<Option<Life>>>,
    pub shared: Rc<SharedState>,
}

impl Host {
    pub(crate) fn name(&self) -> String {
        format!("node-{}", self.number)
    }

    /// Runs one node until it crashes or is ordered to stop.
    pub(crate) async fn run(self) -> turmoil::Result {
        let mesh = format!("{}:{PORT}", self.name());
        let address = turmoil::lookup(self.name());
        let node_info = NodeInfo {
            name: NodeName::from_any(&self.name()),
            mesh: "".into(),
            since: format!("{:?}", turmoil::sim_elapsed().unwrap_or_default()).into(),
        };
        let directory = std::sync::Arc::clone(&self.directory) as std::sync::Arc<dyn Directory>;
        let core = NodeCore::new(
            node_info,
            LEASE,
            RELEASE_DELAY,
            directory,
            Peers::new(network::connect),
            SnapshotCache::new(CACHE_BYTES, Anomalies::default()),
        );
        let mut tasks = EssentialTasks::default();
        core.start(std::sync::Arc::new(FixedAddress(mesh.into())), &mut tasks);
        let stop_mesh = CancellationToken::new();
        let serving = mesh_service::serve(
            network::listen(address).await?,
            core.reporter.clone(),
            IdentityMode::Query,
            None,
            TraceSampling::default(),
            Security::default(),
            stop_mesh.clone(),
        );
        // The mesh server is not an essential task: it must answer peers until the end of the shutdown.
        let mut serving = spawn_local(async {
            serving.await.expect("the mesh server ends without an error");
        });
        let (orders, mut inbox) = mpsc::unbounded_channel();
        *self.life.borrow_mut() =
            Some(Life { core: core.clone(), orders, presences: BTreeMap::new(), running: BTreeMap::new() });
        self.shared.note(&format!("{} runs as {}", self.name(), core.roster.incarnation()));

        let mut checks = interval(GATE_CHECK_INTERVAL);
        let mut failed_checks = 0;
        loop {
            let next_order = async {
                network::until_running(address).await;
                inbox.recv().await
            };
            tokio::select! {
                _ = checks.tick() => {
                    let inactive = core.membership.has_joined() && !core.membership.is_active();
                    failed_checks = if inactive { failed_checks + 1 } else { 0 };
                    if failed_checks >= MAX_FAILED_CHECKS {
                        self.disconnect_all();
                    }
                }
                Some(order) = next_order => match order {
                    Order::Stop => break,
                    order => self.execute(&core, order),
                },
            }
        }
        self.stop(&core, tasks).await;
        stop_mesh.cancel();
        if timeout(SHUTDOWN_STEP_TIMEOUT, &mut serving).await.is_err() {
            serving.abort();
            // Wait for the end of the aborted task: it drops its connections and its clone of the core.
            let _ = serving.await;
        }
        self.ended();
        Ok(())
    }

    /// Shuts the node down with the steps of production, in the same order. The node still answers peers meanwhile, but
    /// executes no orders.
    async fn stop(&self, core: &NodeCore, tasks: EssentialTasks) {
        let NodeCore { membership, reconciler, .. } = core;
        membership.drain(DrainState::Draining);
        reconciler.release_immediately();
        self.disconnect_all();
        // As in production, a step that exceeds its timeout does not stop the shutdown.
        let _ = timeout(SHUTDOWN_STEP_TIMEOUT, reconciler.wait_until_released()).await;
        membership.drain(DrainState::Goodbye);
        let _ = timeout(SHUTDOWN_STEP_TIMEOUT, membership.acknowledged_by_all()).await;
        drop(tasks);
        let _ = timeout(SHUTDOWN_STEP_TIMEOUT, self.directory.deregister(&core.roster.incarnation())).await;
        self.shared.note(&format!("{} has stopped", self.name()));
    }

    /// Records that the node has crashed or stopped.
    pub(crate) fn ended(&self) {
        self.shared.oracle.borrow_mut().ended(self.number);
        drop(self.life.borrow_mut().take());
    }

    /// Reports to the oracle which askers must list this host's sockets now. With a lease, every asker must. Without one,
    /// only askers for which the host is not dead must. These are the nodes that vouch for it. If one of them has a lease,
    /// these are all nodes, because any node can learn of the host from that one.
    pub(crate) fn observe(&self, hosts: &[Self]) {
        let life = self.life.borrow();
        let Some(Life { core, .. }) = life.as_ref() else { return };
        let (node, membership) = (core.roster.incarnation(), &core.membership);
        let may_acknowledge = membership.may_acknowledge(&node) || membership.is_asked_by_all(&node);
        let active = membership.is_active();
        let by_lease = membership.has_joined() && membership.has_lease();
        let vouching = membership.vouching_majority().filter(|_| membership.has_joined()).unwrap_or_default();
        let vouches = |host: &Self| host.number == self.number || host.is_one_of(&vouching);
        let known = by_lease || hosts.iter().any(|host| vouches(host) && host.has_lease());
        for asker in hosts {
            let visible = known || active && vouches(asker);
            self.shared.oracle.borrow_mut().set_visible(self.number, asker.number, visible, may_acknowledge);
        }
    }

    fn is_one_of(&self, nodes: &[NodeId]) -> bool {
        self.life.borrow().as_ref().is_some_and(|life| nodes.contains(&life.core.roster.incarnation()))
    }

    fn has_lease(&self) -> bool {
        self.life.borrow().as_ref().is_some_and(|life| life.core.membership.has_lease())
    }

    fn execute(&self, core: &NodeCore, order: Order) {
        match order {
            Order::Come { socket, rooms } => self.come(core, socket, &rooms),
            Order::Join { socket, room } => {
                let Some(presence) = self.presence(&socket) else { return };
                self.shared.oracle.borrow_mut().joined(self.number, &socket, &room);
                presence.join(&room, MAX_BUSIEST_ROOMS).expect("the socket is open and within its room limit");
                self.acknowledge(core, socket, vec![room], presence);
            }
            Order::Leave { socket, room } => {
                let Some(presence) = self.presence(&socket) else { return };
                presence.leave(&room).expect("the socket is open");
                self.shared.oracle.borrow_mut().left(&socket, Some(&room));
            }
            Order::Go { socket } => self.close(&socket),
            Order::Call { room, deadline, asked } => self.call(core, room, deadline, asked),
            Order::Stop => unreachable!("the loop of orders has ended"),
        }
    }

    fn come(&self, core: &NodeCore, socket: SocketId, rooms: &[Room]) {
        if !is_open(&core.membership) {
            return;
        }
        for room in rooms {
            self.shared.oracle.borrow_mut().joined(self.number, &socket, room);
        }
        let user = UserId::parse("foo").expect("a valid name");
        let presence = core.roster.register(socket.clone(), user, rooms);
        if let Some(life) = self.life.borrow_mut().as_mut() {
            life.presences.insert(socket.clone(), presence.clone());
        }
        self.acknowledge(core, socket, rooms.to_vec(), presence);
    }

    /// Acknowledges the rooms to the client when the index has their claims, or disconnects the client after a timeout.
    fn acknowledge(&self, core: &NodeCore, socket: SocketId, rooms: Vec<Room>, presence: Registration) {
        let (host, reconciler) = (self.clone(), core.reconciler.clone());
        spawn_local(async move {
            let acknowledge = |host: &Host| {
                for room in &rooms {
                    host.shared.oracle.borrow_mut().acknowledged(&socket, room);
                }
            };
            if host.shared.flaw == Flaw::EarlyAcknowledgement {
                acknowledge(&host);
            }
            match reconciler.wait_for_ownership(&rooms, ACKNOWLEDGEMENT_TIMEOUT).await {
                Ok(()) => {
                    acknowledge(&host);
                    presence.mark_connected();
                    host.shared.tally.borrow_mut().acknowledged += 1;
                }
                Err(_unsettled) => {
                    host.shared.tally.borrow_mut().dropped += 1;
                    host.close(&socket);
                }
            }
        });
    }

    fn call(&self, core: &NodeCore, room: Room, deadline: Duration, asked: Moment) {
        let (host, roll_call, called_room) = (self.clone(), core.roll_call.clone(), room.clone());
        let call = async move { roll_call.call(&called_room, deadline).await.ok() }.boxed_local().shared();
        let call = self.running_call(&room).unwrap_or(call);
        if let Some(life) = self.life.borrow_mut().as_mut() {
            life.running.insert(room.clone(), call.clone());
        }
        spawn_local(async move {
            let began = Instant::now();
            let was_exchanged = host.shared.is_exchanged();
            let Some(answer) = call.await else { return };
            if began.elapsed() > deadline + DEADLINE_SLACK {
                let (name, took) = (host.name(), began.elapsed());
                host.shared.wrong(&format!("{name} answered after {took:?}, with a deadline of {deadline:?}"));
            }
            // The memberships may have changed in this tick, before the answer.
            host.shared.observe();
            let may_miss = was_exchanged || host.shared.is_exchanged();
            let complete = answer.complete && !may_miss || host.shared.flaw == Flaw::IgnoresMissingReplies;
            let wrong = host.shared.oracle.borrow().judge(host.number, &answer, complete, asked);
            host.shared.tally.borrow_mut().called(&answer);
            for error in wrong {
                host.shared.wrong(&format!("the answer of {} for {room} {error}\n{}", host.name(), describe(&answer)));
            }
            host.shared.records.borrow_mut().push(Record { host: host.number, answer });
        });
    }

    /// The running roll call of the room, if this host has the flaw that later callers join it.
    fn running_call(&self, room: &Room) -> Option<SharedCall> {
        if self.shared.flaw != Flaw::JoinsRunningCalls {
            return None;
        }
        let running = self.life.borrow().as_ref()?.running.get(room).cloned();
        running.filter(|call| call.peek().is_none())
    }

    fn presence(&self, socket: &SocketId) -> Option<Registration> {
        self.life.borrow().as_ref()?.presences.get(socket).cloned()
    }

    fn close(&self, socket: &SocketId) {
        let presence = self.life.borrow_mut().as_mut().and_then(|life| life.presences.remove(socket));
        if let Some(presence) = presence {
            presence.close();
            self.shared.oracle.borrow_mut().left(socket, None);
        }
    }

    fn disconnect_all(&self) {
        let sockets: Vec<SocketId> =
            self.life.borrow().iter().flat_map(|life| life.presences.keys().cloned()).collect();
        if !sockets.is_empty() {
            self.shared.note(&format!("{} disconnects its {} clients", self.name(), sockets.len()));
        }
        for socket in sockets {
            self.close(&socket);
        }
    }
}

/// Whether the gate admits clients.
fn is_open(membership: &Membership) -> bool {
    membership.has_joined() && membership.is_active()
}

/// An answer, for the failure report.
fn describe(answer: &RollCallAnswer) -> String {
    let nodes = answer.nodes.iter().map(|node| match &node.reply {
        Ok(vouched) => {
            let ids: Vec<_> = vouched.rows.iter().map(|row| &row.id_socket).collect();
            format!("  {} {}: {ids:?}", node.name, node.node)
        }
        Err(silence) => format!("  {} {}: {silence}", node.name, node.node),
    });
    let nodes: Vec<String> = nodes.collect();
    format!("  {:?}, complete: {}\n{}", answer.source, answer.complete, nodes.join("\n"))
}
