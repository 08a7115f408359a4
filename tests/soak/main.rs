//! Churn with faults: hundreds of clients join, leave and die on four real nodes while nodes are killed, stopped and
//! drained and Redis is killed, emptied and stopped, in a random order; all the time roll calls are judged by the oracle.
//!
//! `ROLLCALL_SOAK` is how long (`20s`, `10m`), `ROLLCALL_SEED` the seed of its choices, and `ROLLCALL_FAULTS` which
//! faults, by name and separated by commas. It prints what it did, and fails for one wrong answer.

mod chaos;
mod churn;

use std::env;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::Rng;
use testkit::process_cluster::{Options, ProcessCluster};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use chaos::{Fault, Faults};
use churn::{Checked, Scene};

const NODES: usize = 4;
const CLIENTS: u64 = 240;
const ASKERS: u64 = 4;
/// Fewer checked roll calls than this a second, or a smaller share of them complete, and the test has shown nothing.
const CHECKED_LEAST_PER_SECOND: f64 = 10.0;
const COMPLETE_LEAST_PERCENT: usize = 25;
/// How long the cluster may take to be whole when the faults are over.
const WHOLE_WITHIN: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    // As a test harness would: a filter that does not mean this test leaves it out, and there is nothing to list.
    let left_out = arguments.iter().any(|argument| !argument.starts_with('-') && !"soak".contains(argument.as_str()));
    if left_out || arguments.iter().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let duration = env::var("ROLLCALL_SOAK").unwrap_or_else(|_| "20s".to_owned());
    let duration = humantime::parse_duration(&duration).expect("ROLLCALL_SOAK is a duration, as in 10m");
    let seed = env::var("ROLLCALL_SEED").map_or_else(|_| rand::rng().random(), |seed| seed.parse().expect("a number"));
    let faults: Vec<Fault> = match env::var("ROLLCALL_FAULTS") {
        Ok(names) => names.split(',').map(|name| Fault::named(name).expect("a fault")).collect(),
        Err(_) => Fault::ALL.to_vec(),
    };
    println!("soak: {}, seed {seed}", humantime::format_duration(duration));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(soak(duration, seed, &faults))
}

async fn soak(duration: Duration, seed: u64, faults: &[Fault]) -> ExitCode {
    let mut cluster = ProcessCluster::start(NODES, Options::lease(2)).await;
    let scene = Scene::new(&cluster);
    let checked = Arc::new(Mutex::new(Checked::default()));
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    for number in 0..CLIENTS {
        tasks.spawn(churn::client(scene.clone(), seed.wrapping_add(1000 + number), stop.clone()));
    }
    let mut askers = JoinSet::new();
    for number in 0..ASKERS {
        let checked = Arc::clone(&checked);
        askers.spawn(churn::ask(scene.clone(), checked, seed.wrapping_add(number), stop.clone()));
    }

    let began = Instant::now();
    let mut done = Faults::new(seed, faults);
    let mut failures = Vec::new();
    while began.elapsed() < duration {
        if let Err(failure) = done.next(&mut cluster, &scene).await {
            failures.push(failure);
            break;
        }
    }
    failures.extend(whole_again(&cluster, &scene).await);
    stop.cancel();
    while askers.join_next().await.is_some() {}
    while tasks.join_next().await.is_some() {}

    let checked = checked.lock().unwrap();
    println!("faults: {done}");
    println!("{checked}");
    println!("clients: {} connections, {} Socket.IO disconnects", scene.connections(), cluster.oracle.disconnects());
    let seconds = began.elapsed().as_secs_f64();
    if (checked.calls() as f64) < CHECKED_LEAST_PER_SECOND * seconds {
        failures.push(format!("only {} roll calls were checked in {seconds:.0} s", checked.calls()));
    }
    if checked.complete() * 100 < checked.calls() * COMPLETE_LEAST_PERCENT {
        failures.push(format!("only {} of {} roll calls were complete", checked.complete(), checked.calls()));
    }
    failures.extend(checked.violations().iter().cloned());
    if failures.is_empty() {
        return ExitCode::SUCCESS;
    }
    for failure in &failures {
        println!("FAILED: {failure}");
    }
    println!("last faults: {}", done.last());
    if env::var_os("ROLLCALL_SOAK_LOGS").is_some() {
        for node in &cluster.nodes {
            println!("--- {} wrote:\n{}", node.name, node.log.text());
        }
    }
    ExitCode::FAILURE
}

/// Lets the clients rest, and waits until every node lists exactly who is there and Redis says the same.
async fn whole_again(cluster: &ProcessCluster, scene: &Scene) -> Vec<String> {
    scene.rest();
    let all: Vec<usize> = (0..NODES).collect();
    let began = Instant::now();
    loop {
        let mut missing = cluster.differences(&all).await;
        for room in cluster.oracle.rooms() {
            if !cluster.agree(&all, &room).await {
                missing.push(format!("the nodes do not agree on {room}"));
            }
        }
        if missing.is_empty() {
            return missing;
        }
        if began.elapsed() > WHOLE_WITHIN {
            return missing;
        }
        sleep(Duration::from_millis(200)).await;
    }
}
