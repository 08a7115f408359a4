//! One node of a simulation, and the clients that it has.
//!
//! Owns what stands between a node's core and its clients in production: who is let in, told and let go is decided here
//! as the socket edge and the gate decide it. Every client does what the world told it; what it saw goes to the oracle.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use rollcall::auth::IdentityMode;
use rollcall::directory::Directory;
use rollcall::directory::faulty::FaultyDirectory;
use rollcall::membership::{DrainState, Membership, NodeInfo};
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
use crate::oracle::Flaw;
use crate::world::{Record, Shared};

/// Short, so that a seed sees many of them run out.
pub(crate) const LEASE: Duration = Duration::from_secs(2);
const RELEASE_DELAY: Duration = Duration::from_millis(400);
/// As at the socket edge.
const SETTLE_WITHIN: Duration = Duration::from_secs(4);
/// As at the gate: how often it is looked whether the node counts, and how often in a row it must not.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const LOOKS_IN_VAIN: u32 = 10;
/// A timer goes off up to a tick late, and so does what waits for what waits for it.
const LATE_BY: Duration = Duration::from_millis(10);
/// The most that a step of stopping takes.
const STEP_MOST: Duration = Duration::from_secs(1);
const MAX_BUSIEST_ROOMS: usize = 10;
/// Room for a few parts only, so that some are told anew.
const CACHE: u64 = 16 << 10;

/// What the world tells a host.
#[derive(Debug, Clone)]
pub(crate) enum Order {
    Come { socket: SocketId, rooms: Vec<Room> },
    Join { socket: SocketId, room: Room },
    Leave { socket: SocketId, room: Room },
    Go { socket: SocketId },
    Call { room: Room, deadline: Duration },
    Stop,
}

/// A node that runs.
pub(crate) struct Life {
    pub core: NodeCore,
    pub orders: mpsc::UnboundedSender<Order>,
    pub presences: BTreeMap<SocketId, Registration>,
}

/// One host, from crash to crash.
#[derive(Clone)]
pub(crate) struct Host {
    pub number: usize,
    pub directory: std::sync::Arc<FaultyDirectory>,
    /// `None` while it does not run.
    pub life: Rc<RefCell<Option<Life>>>,
    pub shared: Rc<Shared>,
}

impl Host {
    pub(crate) fn name(&self) -> String {
        format!("node-{}", self.number)
    }

    /// The software of the host.
    pub(crate) async fn run(self) -> turmoil::Result {
        let mesh = format!("{}:{PORT}", self.name());
        let node_info = NodeInfo {
            name: NodeName::from_any(&self.name()),
            mesh: mesh.into(),
            since: format!("{:?}", turmoil::sim_elapsed().unwrap_or_default()).into(),
        };
        let directory = std::sync::Arc::clone(&self.directory) as std::sync::Arc<dyn Directory>;
        let core = NodeCore::new(
            node_info,
            LEASE,
            RELEASE_DELAY,
            directory,
            Peers::new(network::connect),
            SnapshotCache::new(CACHE, Anomalies::default()),
        );
        let mut tasks = EssentialTasks::default();
        core.start(&mut tasks);
        let stop_mesh = CancellationToken::new();
        let serving = mesh_service::serve(
            network::listen().await?,
            core.reporter.clone(),
            IdentityMode::Query,
            None,
            TraceSampling::default(),
            Security::default(),
            stop_mesh.clone(),
        );
        // Not one of the tasks: it answers to the end.
        let mut serving = spawn_local(async {
            serving.await.expect("the mesh is served");
        });
        let (orders, mut taken) = mpsc::unbounded_channel();
        *self.life.borrow_mut() = Some(Life { core: core.clone(), orders, presences: BTreeMap::new() });
        self.shared.note(&format!("{} runs as {}", self.name(), core.roster.incarnation()));

        let mut looks = interval(LOOK_EVERY);
        let mut in_vain = 0;
        loop {
            tokio::select! {
                _ = looks.tick() => {
                    let lost = core.membership.has_joined() && !core.membership.is_active();
                    in_vain = if lost { in_vain + 1 } else { 0 };
                    if in_vain >= LOOKS_IN_VAIN {
                        self.let_everybody_go();
                    }
                }
                Some(order) = taken.recv() => match order {
                    Order::Stop => break,
                    order => self.obey(&core, order),
                },
            }
        }
        self.stop(&core, tasks).await;
        stop_mesh.cancel();
        if timeout(STEP_MOST, &mut serving).await.is_err() {
            serving.abort();
            // It was told to end, and ends with what it holds.
            let _ = serving.await;
        }
        self.ended();
        Ok(())
    }

    /// As a node stops in production, and in that order. Meanwhile it answers the others, and takes no orders.
    async fn stop(&self, core: &NodeCore, tasks: EssentialTasks) {
        let NodeCore { membership, reconciler, .. } = core;
        membership.drain(DrainState::Draining);
        reconciler.release_immediately();
        self.let_everybody_go();
        // A step that takes too long is not waited for.
        let _ = timeout(STEP_MOST, reconciler.wait_until_released()).await;
        membership.drain(DrainState::Goodbye);
        let _ = timeout(STEP_MOST, membership.acknowledged_by_all()).await;
        drop(tasks);
        let _ = timeout(STEP_MOST, self.directory.deregister(&core.roster.incarnation())).await;
        self.shared.note(&format!("{} has stopped", self.name()));
    }

    /// Nothing of it runs any more.
    pub(crate) fn ended(&self) {
        self.shared.oracle.borrow_mut().ended(self.number);
        drop(self.life.borrow_mut().take());
    }

    /// Looks for whom this host's sockets count now: with a lease for everybody, and without one for those to whom it
    /// is not dead. That is who vouches for it, and whoever can hear of it from a node that does and has a lease itself.
    pub(crate) fn look(&self, hosts: &[Self]) {
        let life = self.life.borrow();
        let Some(Life { core, .. }) = life.as_ref() else { return };
        let (node, membership) = (core.roster.incarnation(), &core.membership);
        let may_acknowledge = membership.may_acknowledge(&node) || membership.is_asked_by_all(&node);
        let counts = membership.is_active();
        let by_lease = membership.has_joined() && membership.has_lease();
        let vouching = membership.vouching_majority().filter(|_| membership.has_joined()).unwrap_or_default();
        let vouches = |host: &Self| host.number == self.number || host.is_one_of(&vouching);
        let known = by_lease || hosts.iter().any(|host| vouches(host) && host.has_lease());
        for asker in hosts {
            let counts = known || counts && vouches(asker);
            self.shared.oracle.borrow_mut().counts(self.number, asker.number, counts, may_acknowledge);
        }
    }

    fn is_one_of(&self, nodes: &[NodeId]) -> bool {
        self.life.borrow().as_ref().is_some_and(|life| nodes.contains(&life.core.roster.incarnation()))
    }

    fn has_lease(&self) -> bool {
        self.life.borrow().as_ref().is_some_and(|life| life.core.membership.has_lease())
    }

    fn obey(&self, core: &NodeCore, order: Order) {
        match order {
            Order::Come { socket, rooms } => self.come(core, socket, &rooms),
            Order::Join { socket, room } => {
                let Some(presence) = self.presence(&socket) else { return };
                self.shared.oracle.borrow_mut().joined(self.number, &socket, &room);
                presence.join(&room, MAX_BUSIEST_ROOMS).expect("it is open, and there are not that many rooms");
                self.settle(core, socket, vec![room], presence);
            }
            Order::Leave { socket, room } => {
                let Some(presence) = self.presence(&socket) else { return };
                presence.leave(&room).expect("it is open");
                self.shared.oracle.borrow_mut().left(&socket, Some(&room));
            }
            Order::Go { socket } => self.close(&socket),
            Order::Call { room, deadline } => self.call(core, room, deadline),
            Order::Stop => unreachable!("it ends what takes orders"),
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
        self.settle(core, socket, rooms.to_vec(), presence);
    }

    /// Waits until the client may be told, or lets it go.
    fn settle(&self, core: &NodeCore, socket: SocketId, rooms: Vec<Room>, presence: Registration) {
        let (host, reconciler) = (self.clone(), core.reconciler.clone());
        spawn_local(async move {
            let told = |host: &Host| {
                for room in &rooms {
                    host.shared.oracle.borrow_mut().acknowledged(&socket, room);
                }
            };
            if host.shared.flaw == Flaw::HastyEdge {
                told(&host);
            }
            match reconciler.wait_until_owned(&rooms, SETTLE_WITHIN).await {
                Ok(()) => {
                    told(&host);
                    presence.mark_connected();
                    host.shared.tally.borrow_mut().told += 1;
                }
                Err(_unsettled) => {
                    host.shared.tally.borrow_mut().dropped += 1;
                    host.close(&socket);
                }
            }
        });
    }

    fn call(&self, core: &NodeCore, room: Room, deadline: Duration) {
        let (host, roll_call) = (self.clone(), core.roll_call.clone());
        spawn_local(async move {
            let moment = host.shared.oracle.borrow_mut().now();
            let began = Instant::now();
            let Ok(answer) = roll_call.call(&room, deadline).await else { return };
            if began.elapsed() > deadline + LATE_BY {
                host.shared.wrong(&format!("{} answered after {:?} of {deadline:?}", host.name(), began.elapsed()));
            }
            // What happened in this tick counts for this answer.
            host.shared.look();
            let complete = answer.complete || host.shared.flaw == Flaw::GullibleAsker;
            let wrong = host.shared.oracle.borrow().judge(host.number, &answer, complete, moment);
            host.shared.tally.borrow_mut().called(&answer);
            for wrong in wrong {
                host.shared.wrong(&format!("the answer of {} for {room} {wrong}\n{}", host.name(), told(&answer)));
            }
            host.shared.records.borrow_mut().push(Record { host: host.number, answer });
        });
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

    fn let_everybody_go(&self) {
        let sockets: Vec<SocketId> =
            self.life.borrow().iter().flat_map(|life| life.presences.keys().cloned()).collect();
        if !sockets.is_empty() {
            self.shared.note(&format!("{} lets its clients go: {}", self.name(), sockets.len()));
        }
        for socket in sockets {
            self.close(&socket);
        }
    }
}

/// As at the gate.
fn is_open(membership: &Membership) -> bool {
    membership.has_joined() && membership.is_active()
}

/// An answer as it is reported.
fn told(answer: &RollCallAnswer) -> String {
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
