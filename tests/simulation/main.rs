//! The mesh and the roll call in a simulated network: the production core of nodes without sockets and HTTP, an index in
//! memory, and random faults between them.
//!
//! Owns the number of seeds, and the tests of the oracle itself: it must detect flaws that the simulation contains on
//! purpose. [`world`] runs one seed from start to end, [`host`] is one node, [`oracle`] judges every answer, and
//! [`network`] has the simulated sockets and the clock.
//!
//! `ROLLCALL_SEED=<seed>` runs one seed and logs its events, with `RUST_LOG` also those of the nodes.
//! `ROLLCALL_THOROUGH=1` runs thousands of seeds. A seed determines every fault, socket and roll call, and the network's
//! latencies. Two runs of one seed may still differ: a node may run simultaneous timers in another order.

mod host;
mod liar;
mod network;
mod oracle;
mod world;

use std::env;
use std::num::NonZero;
use std::sync::Mutex;
use std::thread;

use oracle::Flaw;
use world::Tally;

/// The number of seeds in `make test`. They take seconds on two cores.
const SEEDS: u64 = 400;
/// The number of seeds with `ROLLCALL_THOROUGH`.
const SEEDS_THOROUGH: u64 = 10_000;
/// The number of seeds with a member that lies, and with `ROLLCALL_THOROUGH`.
const SEEDS_LYING: u64 = 100;
const SEEDS_LYING_THOROUGH: u64 = 2_000;
/// The oracle must detect a flaw within this number of seeds.
const SEEDS_FLAWED: u64 = 200;

/// Runs seeds on every core until one fails with a report that is wanted. Returns the tally of the seeds that passed, and the
/// report.
fn run_until(
    seeds: impl Iterator<Item = u64> + Send,
    flaw: Flaw,
    is_wanted: impl Fn(&str) -> bool + Sync,
) -> (Tally, Option<String>) {
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
                        Err(report) if is_wanted(&report) => {
                            found.lock().unwrap().get_or_insert(report);
                        }
                        Err(_) => {}
                    }
                }
            });
        }
    });
    (tally.into_inner().unwrap(), found.into_inner().unwrap())
}

/// Runs seeds on every core until one fails.
fn run(seeds: impl Iterator<Item = u64> + Send, flaw: Flaw) -> (Tally, Option<String>) {
    run_until(seeds, flaw, |_| true)
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
    assert!(tally.complete > tally.calls / 5, "hardly any answer was complete: {tally}");
    assert!(tally.complete < tally.calls, "the faults made no answer incomplete: {tally}");
}

/// The liar may make answers incomplete. It hides no socket, and takes bounded memory of the others.
#[test]
fn a_lying_member_hides_no_socket() {
    let thorough = env::var_os("ROLLCALL_THOROUGH").is_some();
    let seeds = match env::var("ROLLCALL_SEED") {
        Ok(seed) => vec![seed.parse().expect("ROLLCALL_SEED is a number")],
        Err(_) => (0..if thorough { SEEDS_LYING_THOROUGH } else { SEEDS_LYING }).collect(),
    };
    let (tally, found) = run(seeds.into_iter(), Flaw::LyingMember);
    println!("{tally}");
    assert!(found.is_none(), "{}", found.unwrap());
    assert!(tally.complete > 0, "the liar made every answer incomplete: {tally}");
}

#[test]
fn a_node_that_calls_every_answer_complete_is_detected() {
    assert_detected(Flaw::IgnoresMissingReplies);
}

#[test]
fn an_edge_that_acknowledges_too_early_is_detected() {
    assert_detected(Flaw::EarlyAcknowledgement);
}

#[test]
fn an_index_that_silently_loses_ownerships_is_detected() {
    assert_detected(Flaw::SilentClaimLoss);
}

#[test]
fn an_answer_that_is_older_than_its_question_is_detected() {
    assert_detected(Flaw::JoinsRunningCalls);
}

fn assert_detected(flaw: Flaw) {
    // An old answer may also list a socket that has left. A flaw may break other promises too, such as the deadline.
    let is_wrong = |report: &str| report.contains("misses") || report.contains("was not in the room");
    let (tally, found) = run_until(0..SEEDS_FLAWED, flaw, is_wrong);
    assert!(found.is_some(), "the oracle did not detect {flaw:?}: {tally}");
}
