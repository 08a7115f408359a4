//! A node that is stopped while questions are under way or wait in its kernel. An answer must not be older than its
//! question: the time of a question is when its caller sends it, and not when the node reads it.

use std::env;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use testkit::oracle::Call;
use testkit::process_cluster::{Options, ProcessCluster};
use testkit::redis_server::RedisServer;
use testkit::tracked_client::Disconnection;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

const NODES: usize = 4;
const ROOMS: [&str; 2] = ["a", "b"];
/// Callers that ask the node without a pause, so that it is stopped in the middle of roll calls.
const STEADY_CALLERS: usize = 8;
/// Sockets that join during a stop. Each acknowledgement is followed by questions to the stopped node.
const JOINS: usize = 6;
const TURNS: usize = 12;
const TURNS_THOROUGH: usize = 200;
/// The durations of the stops, all far below half a lease, so that the answers after a stop are complete.
const STOPS_MS: [u64; 4] = [60, 300, 900, 2_700];
/// No answer is judged by its duration here.
const SLACK: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_that_waited_in_the_kernel_get_no_older_answer() {
    let cluster = ProcessCluster::start_over(RedisServer::start_aged().await, NODES, Options::lease(20)).await;
    let mut clients = Vec::new();
    for number in 0..NODES * 3 {
        clients.push(cluster.connect(number % NODES, "stays", &["a", "b", "home"]).await);
    }
    let turns = if env::var_os("ROLLCALL_THOROUGH").is_some() { TURNS_THOROUGH } else { TURNS };
    let (mut answered, mut complete) = (0, 0);
    for turn in 0..turns {
        let stopped = turn % NODES;
        let (caller, endpoint) = (cluster.roll_call_client(), cluster.nodes[stopped].endpoint());
        let ask = move |room: &'static str| {
            let (caller, endpoint) = (caller.clone(), endpoint.clone());
            // A resumed node may close an idle connection before it reads the question in its kernel.
            async move { caller.ask(&endpoint, room).await.ok().map(|(_, _, call)| call) }
        };
        let calls: Arc<Mutex<Vec<Call>>> = Arc::default();
        let (end, mut steady) = (CancellationToken::new(), JoinSet::new());
        for number in 0..STEADY_CALLERS {
            let (ask, calls, end) = (ask.clone(), Arc::clone(&calls), end.clone());
            steady.spawn(async move {
                while !end.is_cancelled() {
                    let call = ask(ROOMS[number % ROOMS.len()]).await;
                    calls.lock().unwrap().extend(call);
                }
            });
        }
        sleep(Duration::from_millis(50)).await;
        cluster.stop(stopped).await;
        let mut waiting = JoinSet::new();
        let others = (0..NODES).filter(|node| *node != stopped);
        let mut joined = Vec::new();
        for (number, node) in others.cycle().take(JOINS).enumerate() {
            joined.push(cluster.connect(node, "comes", &ROOMS).await);
            // Two callers of one room share a roll call, as callers before the stop may do.
            for _ in 0..2 {
                waiting.spawn(ask(ROOMS[number % ROOMS.len()]));
            }
        }
        // The duration of the stop is part of the fault.
        sleep(Duration::from_millis(STOPS_MS[turn / NODES % STOPS_MS.len()])).await;
        cluster.resume(stopped);
        let waited: Vec<Call> = waiting.join_all().await.into_iter().flatten().collect();
        end.cancel();
        steady.join_all().await;
        answered += waited.len();
        complete += waited.iter().filter(|call| call.complete).count();
        let steady = std::mem::take(&mut *calls.lock().unwrap());
        let wrong: Vec<String> =
            waited.iter().chain(&steady).flat_map(|call| cluster.oracle.judge(call, SLACK)).collect();
        assert!(wrong.is_empty(), "turn {turn}:\n{}", wrong.join("\n"));
        join_all(joined.into_iter().map(|client| client.go(Disconnection::Close))).await;
    }
    assert!(answered > turns * JOINS, "hardly any question that waited got an answer: {answered}");
    assert!(complete > turns * JOINS / 2, "hardly any question that waited got a complete answer: {complete}");
    assert!(clients.iter().all(|client| !client.has_ended()));
}
