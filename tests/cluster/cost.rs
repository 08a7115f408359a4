//! The cost of a roll call, in messages between nodes and commands to Redis. It grows with the owners of the room and with
//! the changes in it. It does not grow with the cluster or the room.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use futures::stream;
use prost::Message;
use rollcall::mesh::channel::PeerChannel;
use rollcall::mesh::proto::mesh_service_client::MeshServiceClient;
use rollcall::mesh::proto::{
    AnnounceRequest, AnnounceResponse, DescribeRequest, DescribeResponse, ListRoomsRequest, LookupSocketsRequest,
    LookupSocketsResponse, RevalidateRequest,
};
use rollcall::roster::Registration;
use serde_json::Value;
use testkit::cluster::{Cluster, ClusterNode, Index};
use testkit::fake_peer::{FakePeer, Revalidations, RosterSlices, serve_fake_peer};
use testkit::{listen_anywhere, mesh_client, until};
use tokio::task::JoinSet;
use tonic::{Response, Status, Streaming};

/// An unchanged part fits into it, ids and version included.
const SMALL: usize = 128;

/// One lookup that was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lookup {
    unchanged: bool,
    rows: usize,
    /// Bytes of the request and of the answer.
    bytes: usize,
}

/// The requests that a node received.
#[derive(Debug, Default)]
struct Seen {
    /// Lookups, those included whose caller did not wait for the answer.
    asked: usize,
    /// The unary calls among them.
    calls: usize,
    answered: Vec<Lookup>,
}

/// A proxy for the mesh service of a node. It counts the lookups, also those of a stream.
#[derive(Clone)]
struct Meter {
    node: MeshServiceClient<PeerChannel>,
    seen: Arc<Mutex<Seen>>,
}

impl Meter {
    fn new(node: SocketAddr) -> Self {
        Self { node: mesh_client(node), seen: Arc::default() }
    }

    fn note(&self, answer: &LookupSocketsResponse, bytes: usize) {
        let (unchanged, rows) = (answer.unchanged, answer.sockets.len());
        self.seen.lock().unwrap().answered.push(Lookup { unchanged, rows, bytes });
    }

    /// The requests since the last call.
    fn take(&self) -> Seen {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

#[tonic::async_trait]
impl FakePeer for Meter {
    async fn lookup_sockets(&self, request: LookupSocketsRequest) -> Result<LookupSocketsResponse, Status> {
        {
            let mut seen = self.seen.lock().unwrap();
            seen.asked += 1;
            seen.calls += 1;
        }
        let asked = request.encoded_len();
        let response = self.node.clone().lookup_sockets(request).await?.into_inner();
        self.note(&response, asked + response.encoded_len());
        Ok(response)
    }

    async fn revalidate(&self, requests: Streaming<RevalidateRequest>) -> Result<Revalidations, Status> {
        let meter = self.clone();
        let answers = requests.then(move |question| {
            let meter = meter.clone();
            async move {
                meter.seen.lock().unwrap().asked += 1;
                let question = question?;
                let asked = question.encoded_len();
                // A stream of its own for each, since this client sends nothing before it has all.
                let answers = meter.node.clone().revalidate(stream::iter([question])).await?;
                let response = answers.into_inner().message().await?.expect("each question is answered");
                if let Some(answer) = &response.answer {
                    meter.note(answer, asked + response.encoded_len());
                }
                Ok(response)
            }
        });
        Ok(answers.boxed())
    }

    async fn announce(&self, request: AnnounceRequest) -> Result<AnnounceResponse, Status> {
        self.node.clone().announce(request).await.map(Response::into_inner)
    }

    async fn describe(&self, request: DescribeRequest) -> Result<DescribeResponse, Status> {
        self.node.clone().describe(request).await.map(Response::into_inner)
    }

    async fn list_rooms(&self, request: ListRoomsRequest) -> Result<RosterSlices, Status> {
        Ok(self.node.clone().list_rooms(request).await?.into_inner().boxed())
    }
}

/// A cluster with a meter in front of each node.
struct Metered {
    cluster: Cluster,
    meters: Vec<Meter>,
    _tasks: JoinSet<()>,
}

impl Metered {
    async fn start(count: usize) -> Self {
        // Redis, since no node is asked early if the directory answers at once.
        let mut cluster = Cluster::start(0, Index::redis().await).await;
        let (mut meters, mut tasks) = (Vec::new(), JoinSet::new());
        for _ in 0..count {
            let (mesh, front) = (listen_anywhere(), listen_anywhere());
            let (meter, advertised) = (Meter::new(mesh.local_addr().unwrap()), front.local_addr().unwrap());
            tasks.spawn(serve_fake_peer(front, meter.clone()));
            cluster.add_behind(mesh, advertised).await;
            meters.push(meter);
        }
        Self { cluster, meters, _tasks: tasks }
    }

    /// Returns when each node answers for `count` sockets of the room, and asks no node about an empty room.
    async fn settled(&self, room: &str, sockets: usize) {
        for node in 0..self.meters.len() {
            until("the room is filled", || async {
                let (complete, users) = self.cluster.users(node, room).await;
                complete && users.len() == sockets
            })
            .await;
            until("the index is relied on", || async { self.asked(node, "nobody is here").await == 1 }).await;
        }
        self.forget();
    }

    /// The number of nodes that are asked, with the node itself.
    async fn asked(&self, node: usize, room: &str) -> usize {
        let room = percent_encoding::utf8_percent_encode(room, percent_encoding::NON_ALPHANUMERIC);
        let full: Value = self.cluster.get(node, &format!("/{room}/rollcall")).await.json().await.unwrap();
        full["nodes"].as_array().unwrap().len()
    }

    fn forget(&self) {
        for meter in &self.meters {
            meter.take();
        }
    }

    /// The lookups that each node received during one complete roll call with this number of sockets.
    async fn call(&self, node: usize, room: &str, sockets: usize) -> Vec<Seen> {
        let (complete, users) = self.cluster.users(node, room).await;
        assert!(complete);
        assert_eq!(users.len(), sockets);
        self.meters.iter().map(Meter::take).collect()
    }

    /// The number of lookups of each node during it.
    async fn counts(&self, node: usize, room: &str, sockets: usize) -> Vec<usize> {
        self.call(node, room, sockets).await.iter().map(|seen| seen.asked).collect()
    }

    /// The answers of each node during it, in their order.
    async fn answers(&self, node: usize, room: &str, sockets: usize) -> Vec<Lookup> {
        self.call(node, room, sockets).await.into_iter().flat_map(|seen| seen.answered).collect()
    }
}

/// Sockets with these numbers are in the room until the guards are dropped.
fn fill(node: &ClusterNode, room: &str, numbers: Range<usize>) -> Vec<Registration> {
    let seat = |number| node.seat(&format!("{}-{number:020}", node.name), &format!("user-{number}"), room);
    numbers.map(seat).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_owner_is_asked_once_and_no_other_node() {
    let metered = Metered::start(4).await;
    let nodes = &metered.cluster.nodes;
    let (stay, go) = (fill(&nodes[1], "Maths", 0..50), fill(&nodes[2], "Maths", 0..50));
    let _elsewhere = fill(&nodes[3], "Physics", 0..50);
    metered.settled("Maths", 100).await;
    for _ in 0..5 {
        assert_eq!(metered.counts(0, "Maths", 100).await, [0, 1, 1, 0]);
        assert_eq!(metered.counts(1, "Maths", 100).await, [0, 0, 1, 0], "what it has itself costs no message");
    }
    let calls: usize = metered.call(0, "Maths", 100).await.iter().map(|seen| seen.calls).sum();
    assert_eq!(calls, 0, "what is held is asked over streams that are open");
    drop(go);
    until("the claim is given back", || async { metered.asked(0, "Maths").await == 2 }).await;
    metered.forget();
    assert_eq!(metered.counts(0, "Maths", 50).await, [0, 1, 0, 0], "who had rows once is not asked for ever");
    drop(stay);
    metered.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_sends_its_rows_or_its_changes_or_a_small_message() {
    let metered = Metered::start(3).await;
    let nodes = &metered.cluster.nodes;
    let (_few, _many) = (fill(&nodes[1], "Maths", 0..5), fill(&nodes[2], "Maths", 0..2_000));
    metered.settled("Maths", 2_005).await;
    for _ in 0..5 {
        let said = metered.answers(0, "Maths", 2_005).await;
        let small = |lookup: &Lookup| lookup.unchanged && lookup.rows == 0 && lookup.bytes <= SMALL;
        assert!(said.len() == 2 && said.iter().all(small), "{said:?}");
    }
    let _one_more = fill(&nodes[1], "Maths", 5..6);
    let said = metered.answers(0, "Maths", 2_006).await;
    let rows: Vec<_> = said.iter().map(|lookup| (lookup.unchanged, lookup.rows)).collect();
    assert_eq!(rows, [(false, 6), (true, 0)], "few rows are all told");
    let bytes: usize = said.iter().map(|lookup| lookup.bytes).sum();
    assert!(bytes <= (6 + 2) * SMALL, "{bytes} bytes for 6 rows of 2006");
    let _another = fill(&nodes[2], "Maths", 2_000..2_001);
    let said = metered.answers(0, "Maths", 2_007).await;
    let rows: Vec<_> = said.iter().map(|lookup| (lookup.unchanged, lookup.rows)).collect();
    assert_eq!(rows, [(true, 0), (false, 1)], "of many rows what changed");
    metered.cluster.stop().await;
}

/// `MONITOR` shows which commands belong to a roll call. The counts of `INFO commandstats` also contain the commands of the
/// periodic tasks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_reads_only_owners_and_epoch_for_a_room_of_any_size() {
    const CALLS: usize = 10;
    let cluster = Cluster::start(2, Index::redis().await).await;
    let server = cluster.index.server();
    for (room, sockets) in [("small", 1), ("large", 5_000)] {
        let _present = [fill(&cluster.nodes[0], room, 0..sockets), fill(&cluster.nodes[1], room, 0..sockets)];
        let mut redis = server.connection().await;
        until("every socket is listed", || {
            let mut redis = redis.clone();
            async move {
                let sets: Vec<String> =
                    redis::cmd("KEYS").arg(format!("rollcall:room:*:{room}")).query_async(&mut redis).await.unwrap();
                let mut sizes = redis::pipe();
                for set in &sets {
                    sizes.cmd("SCARD").arg(set);
                }
                sizes.query_async::<Vec<usize>>(&mut redis).await.unwrap() == [sockets; 2]
            }
        })
        .await;
        let monitor = redis::Client::open(server.url()).unwrap().get_async_monitor().await.unwrap();
        for _ in 0..CALLS {
            let (complete, users) = cluster.users(0, room).await;
            assert!(complete);
            assert_eq!(users.len(), 2 * sockets);
        }
        redis::cmd("ECHO").arg("that was all").query_async::<()>(&mut redis).await.unwrap();
        let seen = monitor.into_on_message::<String>().take_while(|line| {
            let more = !line.contains("that was all");
            async move { more }
        });
        // Each is `<time> [<database> <client>] "<command>" "<argument>"…`.
        let seen: Vec<String> = seen.collect().await;
        let commands: Vec<&str> = seen.iter().map(|line| line.split_once("] ").unwrap().1).collect();
        let about_the_room: Vec<usize> =
            (0..commands.len()).filter(|place| commands[*place].contains(&format!(":{room}\""))).collect();
        assert_eq!(about_the_room.len(), CALLS, "{commands:?}");
        for place in about_the_room {
            let owners = format!(r#""SMEMBERS" "rollcall:owners:{room}""#);
            assert_eq!(commands[place..place + 3], [&owners, r#""GET" "rollcall:epoch""#, r#""INFO" "replication""#]);
        }
        let owners: usize =
            redis::cmd("SCARD").arg(format!("rollcall:owners:{room}")).query_async(&mut redis).await.unwrap();
        assert_eq!(owners, 2);
    }
    cluster.stop().await;
}
