//! The mesh and the roll call in a simulated network: production nodes without clients and HTTP, an index in memory,
//! and seeds that break everything between them.
//!
//! Owns how many seeds are run, and the proof that the oracle sees: flaws that are put in on purpose must be found.
//! [`world`] is one seed from its start to its end, [`host`] one node of it, [`oracle`] what must be true of every
//! answer, [`network`] the simulated sockets and the clock.
//!
//! `ROLLCALL_SEED=<seed>` runs one seed and tells what happens in it, with `RUST_LOG` also in the nodes;
//! `ROLLCALL_THOROUGH=1` runs thousands. A seed decides every fault, socket and roll call, and what the network does with
//! them. Two runs of one seed may still differ a little, by the order in which a node does things that are due at once.

mod host;
mod network;
mod oracle;
mod world;

use std::env;
use std::num::NonZero;
use std::sync::Mutex;
use std::thread;

use oracle::Flaw;
use world::Tally;

/// Seeds of `make test`: seconds on two cores.
const SEEDS: u64 = 400;
/// Seeds with `ROLLCALL_THOROUGH`.
const SEEDS_THOROUGH: u64 = 10_000;
/// A flaw must be found in this many.
const SEEDS_FLAWED: u64 = 60;

/// Runs seeds on every core, up to the first that finds something. Returns what the others amount to, and the finding.
fn run(seeds: impl Iterator<Item = u64> + Send, flaw: Flaw) -> (Tally, Option<String>) {
    let seeds = Mutex::new(seeds);
    let (tally, found) = (Mutex::new(Tally::default()), Mutex::new(None));
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while found.lock().unwrap().is_none() {
                    let Some(seed) = seeds.lock().unwrap().next() else { break };
                    match world::run(seed, flaw) {
                        Ok(one) => tally.lock().unwrap().add(&one),
                        Err(report) => {
                            found.lock().unwrap().get_or_insert(report);
                        }
                    }
                }
            });
        }
    });
    (tally.into_inner().unwrap(), found.into_inner().unwrap())
}

#[test]
fn every_answer_is_true_under_faults_and_the_cluster_recovers() {
    if let Ok(seed) = env::var("ROLLCALL_SEED") {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).without_time().init();
        let seed = seed.parse().expect("ROLLCALL_SEED is a number");
        let (tally, found) = run([seed].into_iter(), Flaw::None);
        println!("{tally}");
        assert!(found.is_none(), "{}", found.unwrap());
        return;
    }
    let count = if env::var_os("ROLLCALL_THOROUGH").is_some() { SEEDS_THOROUGH } else { SEEDS };
    let (tally, found) = run(0..count, Flaw::None);
    println!("{tally}");
    assert!(found.is_none(), "{}", found.unwrap());
    assert!(tally.complete > tally.calls / 4, "hardly any answer was complete: {tally}");
    assert!(tally.complete < tally.calls, "nothing broke: {tally}");
}

#[test]
fn a_node_that_calls_every_answer_complete_is_detected() {
    found_out(Flaw::GullibleAsker);
}

#[test]
fn an_edge_that_acknowledges_too_early_is_detected() {
    found_out(Flaw::HastyEdge);
}

#[test]
fn an_index_that_silently_loses_ownerships_is_detected() {
    found_out(Flaw::ForgetfulIndex);
}

fn found_out(flaw: Flaw) {
    let (tally, found) = run(0..SEEDS_FLAWED, flaw);
    assert!(found.is_some_and(|report| report.contains("misses")), "nothing was found: {tally}");
}
