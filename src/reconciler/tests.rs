//! The decisions of the reconciler, against a directory with injected faults.

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::*;
use crate::directory::DirectoryCall;
use crate::directory::faulty::{Fault, FaultyDirectory};
use crate::directory::memory::MemoryDirectory;
use crate::membership::NodeInfo;
use crate::mesh::advertise::FixedAddress;
use crate::mesh::node_status::{MemberInfo, NodeStatus};
use crate::mesh::peers::Peers;
use crate::names::{NodeName, SocketId, UserId};
use crate::roster::Registration;
use crate::telemetry::metrics::Metrics;

const LEASE: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(5);

/// A running reconciler, without sockets and peers.
struct Bench {
    roster: Arc<Roster>,
    membership: Arc<Membership>,
    reconciler: Arc<Reconciler>,
    directory: Arc<FaultyDirectory>,
    _tasks: JoinSet<()>,
}

impl Bench {
    fn start() -> Self {
        let directory = FaultyDirectory::new(MemoryDirectory::new());
        let roster = Roster::new(NodeId::new_process());
        let name = NodeName::from_any("node");
        let node_info = NodeInfo { name, mesh: "127.0.0.1:1".into(), since: "now".into() };
        let membership = Membership::new(node_info, LEASE, Arc::clone(&roster));
        let shared = Arc::clone(&directory) as Arc<dyn Directory>;
        let release_delay = Duration::from_millis(50);
        let reconciler = Reconciler::new(
            Arc::clone(&roster),
            Arc::clone(&membership),
            shared,
            release_delay,
            Metrics::default().directory_lag,
        );
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let (membership, directory) = (Arc::clone(&membership), Arc::clone(&directory));
            async move { membership.keep_lease(&*directory, &FixedAddress("127.0.0.1:1".into())).await }
        });
        tasks.spawn({
            let membership = Arc::clone(&membership);
            async move { membership.announce(&Peers::default()).await }
        });
        tasks.spawn({
            let reconciler = Arc::clone(&reconciler);
            async move { reconciler.run().await }
        });
        Self { roster, membership, reconciler, directory, _tasks: tasks }
    }

    fn meet_one_that_does_not_answer(&self) {
        let (node, name) = (NodeId::new_process(), NodeName::from_any("silent"));
        let known =
            MemberInfo { node, name, mesh: "127.0.0.1:1".into(), since: "now".into(), age: Some(Duration::ZERO) };
        let said = NodeStatus {
            about: known,
            sequence: 1,
            fully_indexed_in: None,
            draining: false,
            goodbye: false,
            members: vec![],
        };
        self.membership.receive_status(&said);
    }

    fn register(&self, socket: &str, rooms: &[Room]) -> Registration {
        self.roster.register(SocketId::parse(socket).unwrap(), UserId::parse("foo").unwrap(), rooms)
    }

    async fn owners(&self, room: &Room) -> Vec<NodeId> {
        self.directory.owners(room).await.unwrap().nodes
    }

    async fn until_owners(&self, room: &Room, expected: &[NodeId]) {
        let reached = async {
            while self.owners(room).await != expected {
                sleep(Duration::from_millis(2)).await;
            }
        };
        assert!(timeout(SOON, reached).await.is_ok(), "{room} is owned by {:?}", self.owners(room).await);
    }
}

fn room(name: &str) -> Room {
    Room::parse(name).unwrap()
}

#[tokio::test]
async fn rooms_are_owned_at_the_first_join_and_released_at_the_end() {
    let bench = Bench::start();
    let node = bench.roster.incarnation();
    let rooms = [room("a"), room("b")];
    let registration = bench.register("s1", &rooms);
    bench.reconciler.wait_for_ownership(&rooms, SOON).await.unwrap();
    assert_eq!(bench.owners(&rooms[0]).await, std::slice::from_ref(&node));
    assert_eq!(bench.owners(&rooms[1]).await, std::slice::from_ref(&node));
    let calls = bench.directory.call_sizes(DirectoryCall::AddOwner).len();
    let second = bench.register("s2", &rooms);
    bench.reconciler.wait_for_ownership(&rooms, SOON).await.unwrap();
    assert_eq!(
        bench.directory.call_sizes(DirectoryCall::AddOwner).len(),
        calls,
        "only the first join waits for the directory"
    );
    drop((registration, second));
    bench.until_owners(&rooms[0], &[]).await;
    bench.until_owners(&rooms[1], &[]).await;
    assert_eq!(bench.roster.incarnation(), node);
}

#[tokio::test]
async fn an_unanswered_addition_is_retried_before_the_ack() {
    let bench = Bench::start();
    let first = [room("first")];
    let _first = bench.register("s0", &first);
    bench.reconciler.wait_for_ownership(&first, SOON).await.unwrap();
    bench.meet_one_that_does_not_answer();
    bench.directory.inject(DirectoryCall::AddOwner, Fault::LoseRequest);
    bench.directory.inject(DirectoryCall::AddOwner, Fault::LoseAnswer);
    let rooms = [room("a")];
    let _presence = bench.register("s1", &rooms);
    let early = bench.reconciler.wait_for_ownership(&rooms, Duration::from_millis(100)).await;
    assert_eq!(early, Err(OwnershipTimeout(Duration::from_millis(100))));
    bench.reconciler.wait_for_ownership(&rooms, SOON).await.unwrap();
    assert_eq!(bench.directory.call_sizes(DirectoryCall::AddOwner), [1, 1, 1, 1]);
}

#[tokio::test]
async fn clients_of_unowned_rooms_are_acked_once_all_peers_ask() {
    let bench = Bench::start();
    let first = [room("first")];
    let _first = bench.register("s0", &first);
    bench.reconciler.wait_for_ownership(&first, SOON).await.unwrap();
    let mut word = bench.roster.index_state();
    assert!(word.borrow_and_update().fully_indexed_in.is_some());
    let (go, held) = oneshot::channel();
    bench.directory.inject(DirectoryCall::AddOwner, Fault::LoseRequest);
    bench.directory.inject(DirectoryCall::AddOwner, Fault::Hold(held));
    let rooms = [room("a")];
    let _presence = bench.register("s1", &rooms);
    bench.reconciler.wait_for_ownership(&rooms, SOON).await.expect("there is no peer that must know");
    assert_eq!(word.borrow_and_update().fully_indexed_in, None, "peers must ask this node");
    go.send(()).unwrap();
    let fully_indexed = timeout(SOON, word.wait_for(|word| word.fully_indexed_in.is_some())).await;
    fully_indexed.expect("fully indexed again").unwrap();
    assert_eq!(bench.owners(&rooms[0]).await, [bench.roster.incarnation()]);
}

#[tokio::test]
async fn one_refused_room_does_not_delay_the_others() {
    let bench = Bench::start();
    bench.directory.inject(DirectoryCall::AddOwner, Fault::Refuse);
    let both = [room("good"), room("bad")];
    let _presence = bench.register("s1", &both);
    for name in both {
        bench.reconciler.wait_for_ownership(&[name], SOON).await.unwrap();
    }
    assert_eq!(bench.directory.call_sizes(DirectoryCall::AddOwner), [2, 1, 1], "one by one after the refusal");
}

#[tokio::test]
async fn an_unanswered_removal_retires_the_incarnation() {
    for fault in [Fault::LoseRequest, Fault::LoseAnswer] {
        let bench = Bench::start();
        let first = bench.roster.incarnation();
        let _stays = bench.register("s1", &[room("stays")]);
        let leaves = bench.register("s2", &[room("leaves")]);
        bench.reconciler.wait_for_ownership(&[room("stays"), room("leaves")], SOON).await.unwrap();
        bench.directory.inject(DirectoryCall::RemoveOwner, fault);
        drop(leaves);
        let mut word = bench.roster.index_state();
        timeout(SOON, word.wait_for(|word| word.incarnation != first)).await.unwrap().unwrap();
        let second = bench.roster.incarnation();
        assert_eq!(second.process(), first.process());
        bench.reconciler.wait_for_ownership(&[room("stays")], SOON).await.unwrap();
        bench.until_owners(&room("stays"), std::slice::from_ref(&second)).await;
        bench.until_owners(&room("leaves"), &[]).await;
        let listed = async {
            while bench.directory.nodes().await.unwrap().nodes.iter().any(|(node, _)| *node == first) {
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(SOON, listed).await.expect("the retired incarnation is deregistered");
    }
}

#[tokio::test]
async fn a_room_that_fills_during_its_removal_is_added_afterwards() {
    let bench = Bench::start();
    let node = bench.roster.incarnation();
    let rooms = [room("a")];
    let leaves = bench.register("s1", &rooms);
    bench.reconciler.wait_for_ownership(&rooms, SOON).await.unwrap();
    let (go, held) = oneshot::channel();
    bench.directory.inject(DirectoryCall::RemoveOwner, Fault::Hold(held));
    drop(leaves);
    let removing = async {
        while bench.directory.call_sizes(DirectoryCall::RemoveOwner).is_empty() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(SOON, removing).await.expect("the removal is sent");
    let claims = bench.directory.call_sizes(DirectoryCall::AddOwner).len();
    let _comes = bench.register("s2", &rooms);
    let early = bench.reconciler.wait_for_ownership(&rooms, Duration::from_millis(100)).await;
    assert!(early.is_err(), "the removal may still remove a new entry");
    assert_eq!(bench.directory.call_sizes(DirectoryCall::AddOwner).len(), claims, "one command for a room at a time");
    go.send(()).unwrap();
    bench.reconciler.wait_for_ownership(&rooms, SOON).await.unwrap();
    assert_eq!(bench.owners(&rooms[0]).await, [node]);
}

#[tokio::test]
async fn a_refused_removal_is_retried_unless_the_room_fills() {
    let bench = Bench::start();
    let node = bench.roster.incarnation();
    let rooms = [room("a")];
    let leaves = bench.register("s1", &rooms);
    bench.reconciler.wait_for_ownership(&rooms, SOON).await.unwrap();
    bench.directory.inject(DirectoryCall::RemoveOwner, Fault::Refuse);
    drop(leaves);
    bench.until_owners(&rooms[0], &[]).await;
    assert_eq!(bench.directory.call_sizes(DirectoryCall::RemoveOwner).len(), 2);
    assert_eq!(bench.roster.incarnation(), node, "a refusal is an answer");

    let leaves = bench.register("s2", &rooms);
    bench.reconciler.wait_for_ownership(&rooms, SOON).await.unwrap();
    bench.directory.inject(DirectoryCall::RemoveOwner, Fault::Refuse);
    drop(leaves);
    let refused = async {
        while bench.directory.call_sizes(DirectoryCall::RemoveOwner).len() < 3 {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(SOON, refused).await.expect("refused once");
    let _comes = bench.register("s3", &rooms);
    bench.reconciler.wait_for_ownership(&rooms, SOON).await.unwrap();
    assert_eq!(bench.owners(&rooms[0]).await, [node]);
    assert_eq!(bench.directory.call_sizes(DirectoryCall::RemoveOwner).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn late_commands_are_corrected_at_the_next_reassertion() {
    let bench = Bench::start();
    let node = bench.roster.incarnation();
    let rooms = [room("left")];
    let stays = [room("stays")];
    bench.directory.inject(DirectoryCall::AddOwner, Fault::RunLate);
    let leaves = bench.register("s1", &rooms);
    bench.until_owners(&rooms[0], std::slice::from_ref(&node)).await;
    drop(leaves);
    bench.until_owners(&rooms[0], &[]).await;

    let listed = async |expected| {
        let account = async || bench.directory.leases_and_counts(&stays[0], std::slice::from_ref(&node)).await.unwrap();
        while account().await[0].sockets != expected {
            sleep(Duration::from_millis(2)).await;
        }
    };
    let _stays = bench.register("s2", &stays);
    timeout(SOON, listed(1)).await.expect("listed");
    bench.directory.inject(DirectoryCall::WriteSockets, Fault::RunLate);
    let leaves = bench.register("s3", &stays);
    timeout(SOON, listed(2)).await.expect("listed again");
    drop(leaves);
    timeout(SOON, listed(1)).await.expect("not listed any more");

    assert_eq!(bench.directory.run_late().await, 2);
    bench.until_owners(&rooms[0], std::slice::from_ref(&node)).await;
    timeout(SOON, listed(2)).await.expect("the late write has added it again");
    sleep(REASSERT_INTERVAL).await;
    bench.until_owners(&rooms[0], &[]).await;
    timeout(SOON, listed(1)).await.expect("corrected");
    assert_eq!(bench.roster.incarnation(), node);
}
