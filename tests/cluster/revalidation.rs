//! The revalidation stream between two nodes. Each answer goes to its lookup. Without the stream, or after a malformed
//! answer, the node uses unary calls.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream;
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_sdk::trace::SdkTracerProvider;
use rollcall::mesh::answers::{PeerError, PeerReply};
use rollcall::mesh::peers::Peers;
use rollcall::mesh::proto::{
    LookupSocketsRequest, LookupSocketsResponse, RevalidateRequest, RevalidateResponse, Socket,
};
use rollcall::mesh::{MAX_REVALIDATED_BYTES, MAX_REVALIDATED_ROWS};
use rollcall::names::{NodeId, Room};
use rollcall::roster::RowsUpdate;
use smol_str::SmolStr;
use testkit::cluster::{Cluster, Index};
use testkit::fake_peer::{FakePeer, Revalidations, serve_fake_peer};
use testkit::{listen_anywhere, mesh_client, until};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tonic::{Status, Streaming};
use tracing::Instrument as _;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::layer::SubscriberExt as _;

const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// The version that the caller has cached.
const HELD: u64 = 1;

type Script = fn(Streaming<RevalidateRequest>) -> Result<Revalidations, Status>;

/// A peer that lists one socket in each room: its user is the room, its id says which way the question came.
#[derive(Clone)]
struct RoomPeer {
    node: NodeId,
    script: Script,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    calls: AtomicUsize,
    opened: AtomicUsize,
    /// Each stream that has not ended has it too.
    open: Arc<()>,
}

fn listed(node: &str, id_socket: &str, room: &str) -> LookupSocketsResponse {
    let sockets = vec![Socket { id_socket: id_socket.into(), id_user: room.into() }];
    LookupSocketsResponse { node_id: node.into(), version: HELD + 1, sockets, ..Default::default() }
}

fn answer(RevalidateRequest { number, question, .. }: RevalidateRequest) -> RevalidateResponse {
    let question = question.unwrap();
    RevalidateResponse { number, answer: Some(listed(&question.node_id, "stream", &question.room)) }
}

#[tonic::async_trait]
impl FakePeer for RoomPeer {
    async fn lookup_sockets(&self, request: LookupSocketsRequest) -> Result<LookupSocketsResponse, Status> {
        self.seen.calls.fetch_add(1, Ordering::Relaxed);
        Ok(listed(self.node.as_str(), "call", &request.room))
    }

    async fn revalidate(&self, requests: Streaming<RevalidateRequest>) -> Result<Revalidations, Status> {
        self.seen.opened.fetch_add(1, Ordering::Relaxed);
        let answers = (self.script)(requests)?;
        let open = Arc::clone(&self.seen.open);
        Ok(answers.inspect(move |_| _ = &open).boxed())
    }
}

/// The asker, and the peer that it asks.
struct LookupFixture {
    peers: Peers,
    mesh: SmolStr,
    peer: RoomPeer,
    _serving: JoinHandle<()>,
}

impl LookupFixture {
    fn of(script: Script) -> Self {
        let peer = RoomPeer { node: NodeId::new_process(), script, seen: Arc::default() };
        let (listener, served) = (listen_anywhere(), peer.clone());
        let mesh = listener.local_addr().unwrap().to_string().into();
        let serving = tokio::spawn(serve_fake_peer(listener, served));
        Self { peers: Peers::default(), mesh, peer, _serving: serving }
    }

    async fn lookup(&self, room: &str, within: Duration) -> Result<PeerReply, PeerError> {
        self.peers.lookup(&self.mesh, &self.peer.node, &Room::parse(room).unwrap(), Some(HELD), within).await
    }

    /// The way of the answer: the stream or a unary call. Checks that it answers this question.
    async fn way(&self, room: &str) -> String {
        let reply = self.lookup(room, LOOKUP_TIMEOUT).await;
        let Ok(PeerReply::Snapshot(part)) = &reply else { panic!("{reply:?}") };
        let RowsUpdate::Full(rows) = &part.update else { panic!("{part:?}") };
        assert_eq!(rows.len(), 1, "the answer to another question");
        assert_eq!(rows[0].id_user.as_str(), room, "the answer to another question");
        rows[0].id_socket.to_string()
    }

    /// Ends when questions are put by the stream.
    async fn streams(&self) {
        until("the stream is open", || async { self.way("first").await == "stream" }).await;
    }

    fn opened(&self) -> usize {
        self.peer.seen.opened.load(Ordering::Relaxed)
    }

    fn calls(&self) -> usize {
        self.peer.seen.calls.load(Ordering::Relaxed)
    }

    fn open(&self) -> usize {
        Arc::strong_count(&self.peer.seen.open) - 1
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_lookups_share_a_stream_and_each_gets_its_own_answer() {
    let fixture = LookupFixture::of(|questions| Ok(questions.map(|question| question.map(answer)).boxed()));
    assert_eq!(fixture.way("first").await, "call", "nobody knew yet that there is a peer");
    fixture.streams().await;
    let calls = fixture.calls();
    let rooms: Vec<String> = (0..500).map(|number: usize| number.to_string()).collect();
    let ways = join_all(rooms.iter().map(|room| fixture.way(room)));
    assert_eq!(ways.await.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from(["stream".to_owned()]));
    assert_eq!(fixture.opened(), 1);
    assert_eq!(fixture.calls(), calls);
    assert_eq!(fixture.open(), 1);
    // A caller without a cached version needs all rows, whatever their number.
    let room = Room::parse("Maths").unwrap();
    fixture.peers.lookup(&fixture.mesh, &fixture.peer.node, &room, None, LOOKUP_TIMEOUT).await.unwrap();
    assert_eq!(fixture.calls(), calls + 1);
    fixture.peers.retain(|_| false);
    until("the stream has ended with the link", || async { fixture.open() == 0 }).await;
}

/// The trace context of a request in place of the socket id, so that the caller sees what arrived.
fn answer_with_trace(request: RevalidateRequest) -> RevalidateResponse {
    let trace = [&request.traceparent, &request.tracestate].map(|field| field.as_deref().unwrap_or("none").to_owned());
    let mut response = answer(request);
    response.answer.as_mut().unwrap().sockets[0].id_socket = trace.join(" ");
    response
}

#[tokio::test]
async fn a_traced_lookup_takes_the_stream_and_sends_its_context() {
    let fixture = LookupFixture::of(|questions| Ok(questions.map(|question| question.map(answer_with_trace)).boxed()));
    until("the stream is open", || async { fixture.way("untraced").await == "none none" }).await;
    let calls = fixture.calls();
    let provider = SdkTracerProvider::builder().build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let _default = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    let request = tracing::info_span!(target: "rollcall::traces", "request");
    let trace = request.context().span().span_context().trace_id().to_string();
    let way = fixture.way("traced").instrument(request).await;
    let [version, sent, parent, flags] = way.split(['-', ' ']).collect::<Vec<_>>()[..4] else { panic!("{way}") };
    assert_eq!(version, "00", "{way}");
    assert_eq!(sent, trace.as_str(), "{way}");
    assert_eq!(flags, "01", "{way}");
    assert_ne!(parent, "0".repeat(16), "{way}");
    assert_eq!(fixture.calls(), calls, "no unary call was made");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_answer_is_not_taken_for_that_of_the_next_lookup() {
    let fixture = LookupFixture::of(|questions| {
        let slowly = questions.then(|question| async {
            let answer = question.map(answer)?;
            let late = answer.answer.as_ref().is_some_and(|answer| answer.sockets[0].id_user == "late");
            sleep(Duration::from_millis(if late { 500 } else { 0 })).await;
            Ok(answer)
        });
        Ok(slowly.boxed())
    });
    fixture.streams().await;
    let calls = fixture.calls();
    for _ in 0..3 {
        assert_eq!(fixture.lookup("late", Duration::from_millis(20)).await.unwrap_err(), PeerError::Deadline);
        assert_eq!(fixture.way("in time").await, "stream");
    }
    assert_eq!(fixture.opened(), 1);
    assert_eq!(fixture.calls(), calls);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_without_the_stream_or_with_bad_answers_gets_calls() {
    let scripts: [(&str, Script); 7] = [
        ("of an older version", |_| Err(Status::unimplemented("what is that?"))),
        ("broken", |_| Err(Status::internal("no"))),
        ("breaking down", |questions| Ok(questions.map(|_| Err(Status::data_loss("where was I?"))).boxed())),
        ("that counts otherwise", |questions| {
            let other = |question: RevalidateRequest| RevalidateResponse { number: 1 << 40, ..answer(question) };
            Ok(questions.map(move |question| question.map(other)).boxed())
        }),
        ("that answers twice", |questions| {
            let twice = |question: Result<_, _>| {
                let answer = question.map(answer);
                stream::iter([answer.clone(), answer])
            };
            Ok(questions.flat_map(twice).boxed())
        }),
        ("that answers unasked", |questions| {
            let unasked = stream::iter([Ok(RevalidateResponse { number: 1, answer: None })]);
            Ok(unasked.chain(questions.map(|question| question.map(answer))).boxed())
        }),
        ("that tells too much", |questions| {
            let much = |question: RevalidateRequest| {
                let mut answer = answer(question);
                answer.answer.as_mut().unwrap().node_id = "x".repeat(MAX_REVALIDATED_BYTES);
                answer
            };
            Ok(questions.map(move |question| question.map(much)).boxed())
        }),
    ];
    for (peer, script) in scripts {
        let fixture = LookupFixture::of(script);
        assert_eq!(fixture.way("first").await, "call", "a peer {peer}");
        until(&format!("a peer {peer} is given up"), || async {
            // Twice, since only the second answer of two is one too many.
            let ways = [fixture.way("a").await, fixture.way("b").await];
            fixture.opened() == 1 && fixture.open() == 0 && ways == ["call"; 2]
        })
        .await;
        for room in 0..20 {
            assert_eq!(fixture.way(&room.to_string()).await, "call", "a peer {peer}");
        }
        assert_eq!(fixture.opened(), 1, "a peer {peer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ended_by_the_peer_is_reopened_and_lookups_answered() {
    let scripts: [Script; 2] = [
        |questions| Ok(questions.take(3).map(|question| question.map(answer)).boxed()),
        // As if the token were not one any more.
        |questions| {
            let places = questions.enumerate().map(|(place, question)| match place {
                3 => Err(Status::unauthenticated("who are you?")),
                _ => question.map(answer),
            });
            Ok(places.boxed())
        },
    ];
    for script in scripts {
        let fixture = LookupFixture::of(script);
        until("it was opened again and again", || async {
            fixture.way("Maths").await;
            fixture.opened() >= 5
        })
        .await;
        let calls = fixture.calls();
        fixture.streams().await;
        assert!(fixture.calls() <= calls + 50, "the streams are used");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_answers_a_lookup_or_leaves_it_to_a_call() {
    let cluster = Cluster::start(1, Index::memory()).await;
    let node = &cluster.nodes[0];
    let mut seats = vec![node.seat("s-0", "ann", "small")];
    seats.extend((0..=MAX_REVALIDATED_ROWS).map(|number| node.seat(&format!("l-{number}"), "ann", "large")));
    let id = node.roster.incarnation().to_string();
    let question = |room: &str, known_version| LookupSocketsRequest {
        room: room.into(),
        node_id: id.clone(),
        known_version,
        takes_changes: true,
        ..Default::default()
    };
    let held =
        async |room| mesh_client(node.mesh).lookup_sockets(question(room, None)).await.unwrap().into_inner().version;
    let [small, large] = [held("small").await, held("large").await];
    seats.push(node.seat("l-new", "bob", "large"));
    let ids = vec!["s-0".to_owned()];
    let questions = [
        question("small", Some(small)),
        question("small", Some(small + 1_000)),
        question("nobody", Some(7)),
        question("large", Some(large)),
        // More rows than one answer may have.
        question("large", Some(large + 1_000)),
        question("small", None),
        LookupSocketsRequest { node_id: NodeId::new_process().to_string(), ..question("small", Some(small)) },
        LookupSocketsRequest { node_id: String::new(), ..question("small", Some(small)) },
        LookupSocketsRequest { id_sockets: ids, ..question("small", Some(small)) },
        question("", Some(small)),
        question(&"x".repeat(300), Some(small)),
    ];
    let asked = questions.len();
    let questions = questions.map(Some).into_iter().chain([None]).zip(10..);
    let questions = questions.map(|(question, number)| RevalidateRequest { number, question, ..Default::default() });
    let answers = mesh_client(node.mesh).revalidate(stream::iter(questions.collect::<Vec<_>>())).await.unwrap();
    let answers: Vec<_> = answers.into_inner().map(Result::unwrap).collect().await;
    assert!(answers.iter().map(|answer| answer.number).eq(10..=10 + asked as u64), "{answers:?}");
    let told = |place: usize| answers[place].answer.as_ref().unwrap();
    assert!(answers.iter().flat_map(|answer| &answer.answer).all(|answer| answer.node_id == id));
    assert!(told(0).unchanged && told(0).sockets.is_empty() && told(0).version == small);
    assert!(!told(1).unchanged);
    assert_eq!(told(1).version, small);
    assert_eq!(&*told(1).sockets[0].id_socket, "s-0");
    assert_eq!(told(2).version, 0);
    assert_eq!(told(2).sockets.len(), 0);
    assert_eq!(told(3).changes_since, large);
    assert_eq!(&*told(3).sockets[0].id_socket, "l-new");
    assert_eq!(told(3).sockets.len(), 1);
    assert!(answers[4..].iter().all(|answer| answer.answer.is_none()), "{answers:?}");
    cluster.stop().await;
}
