//! The soak test: hundreds of clients join, leave and disconnect on four node processes during random faults. The faults
//! kill, stop and drain nodes; kill, flush and stop Redis, give it older data, and step its clock. The oracle judges roll
//! calls all the time.
//!
//! `ROLLCALL_SOAK` is the duration (`20s`, `10m`), `ROLLCALL_SEED` the seed of the random choices, and `ROLLCALL_FAULTS`
//! the names of the faults, separated by commas. The test prints a summary, and fails for a single wrong answer.

mod chaos;
mod churn;

use std::env;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::Rng;
use testkit::process_cluster::{Options, ProcessCluster};
use testkit::redis_server::RedisServer;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use chaos::{Fault, Faults};
use churn::{Checked, Scene};

const NODES: usize = 4;
const CLIENTS: u64 = 240;
const ASKERS: u64 = 4;
/// The minimum rate of judged roll calls. A run with fewer proves nothing.
const MIN_CHECKED_PER_SECOND: f64 = 10.0;
/// The minimum share of complete answers. The oracle looks for missing sockets only in complete answers.
const MIN_COMPLETE_PERCENT: usize = 25;
/// The maximum duration from the last fault until the cluster has healed.
const HEALING_TIMEOUT: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    // Follow the protocol of test harnesses: a filter that does not match this test skips it, and `--list` lists none.
    let skipped = arguments.iter().any(|argument| !argument.starts_with('-') && !"soak".contains(argument.as_str()));
    if skipped || arguments.iter().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let duration = env::var("ROLLCALL_SOAK").unwrap_or_else(|_| "20s".to_owned());
    let duration = humantime::parse_duration(&duration).expect("ROLLCALL_SOAK must be a duration, for example 10m");
    let seed = env::var("ROLLCALL_SEED")
        .map_or_else(|_| rand::rng().random(), |seed| seed.parse().expect("ROLLCALL_SEED must be a number"));
    let faults: Vec<Fault> = match env::var("ROLLCALL_FAULTS") {
        Ok(names) => {
            names.split(',').map(|name| Fault::named(name).expect("ROLLCALL_FAULTS must be names of faults")).collect()
        }
        Err(_) => Fault::ALL.to_vec(),
    };
    println!("soak: {}, seed {seed}", humantime::format_duration(duration));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(soak(duration, seed, &faults))
}

async fn soak(duration: Duration, seed: u64, faults: &[Fault]) -> ExitCode {
    let mut cluster = ProcessCluster::start_over(RedisServer::start_with_clock().await, NODES, Options::lease(2)).await;
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
    let mut faults = Faults::new(seed, faults);
    let mut failures = Vec::new();
    while began.elapsed() < duration {
        if let Err(failure) = faults.next(&mut cluster, &scene).await {
            failures.push(failure);
            break;
        }
    }
    failures.extend(wait_until_healed(&cluster, &scene).await);
    stop.cancel();
    while askers.join_next().await.is_some() {}
    while tasks.join_next().await.is_some() {}

    let checked = checked.lock().unwrap();
    println!("faults: {faults}");
    println!("{checked}");
    println!("clients: {} connections, {} Socket.IO disconnects", scene.connections(), cluster.oracle.disconnects());
    let seconds = began.elapsed().as_secs_f64();
    if (checked.calls() as f64) < MIN_CHECKED_PER_SECOND * seconds {
        failures.push(format!("only {} roll calls were checked in {seconds:.0} s", checked.calls()));
    }
    if checked.complete() * 100 < checked.calls() * MIN_COMPLETE_PERCENT {
        failures.push(format!("only {} of {} roll calls were complete", checked.complete(), checked.calls()));
    }
    failures.extend(checked.violations().iter().cloned());
    if failures.is_empty() {
        return ExitCode::SUCCESS;
    }
    for failure in &failures {
        println!("FAILED: {failure}");
    }
    println!("last faults: {}", faults.last());
    if env::var_os("ROLLCALL_SOAK_LOGS").is_some() {
        for node in &cluster.nodes {
            println!("--- {} wrote:\n{}", node.name, node.log.text());
        }
    }
    ExitCode::FAILURE
}

/// Stops the churn, and waits until every node lists exactly the present sockets and Redis agrees with the rosters.
/// Returns the differences that remain at the timeout.
async fn wait_until_healed(cluster: &ProcessCluster, scene: &Scene) -> Vec<String> {
    scene.rest();
    let all: Vec<usize> = (0..NODES).collect();
    let began = Instant::now();
    loop {
        let mut differences = cluster.differences(&all).await;
        for room in cluster.oracle.rooms() {
            if !cluster.agree(&all, &room).await {
                differences.push(format!("not every node lists {room} completely and correctly"));
            }
        }
        if differences.is_empty() || began.elapsed() > HEALING_TIMEOUT {
            return differences;
        }
        sleep(Duration::from_millis(200)).await;
    }
}
