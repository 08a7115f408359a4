//! Signals to the processes that a test has started.

use std::fs;
use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};

use crate::until;

/// Sends SIGSTOP. Returns when every thread has stopped, because the kernel stops them one after another.
pub async fn stop(process: &Child) {
    send(process, Signal::STOP);
    until("every thread has stopped", || async { threads(process).iter().all(|state| *state == 'T') }).await;
}

/// Sends SIGCONT.
pub fn resume(process: &Child) {
    send(process, Signal::CONT);
}

/// Sends SIGTERM.
pub fn terminate(process: &Child) {
    send(process, Signal::TERM);
}

fn send(process: &Child, signal: Signal) {
    kill_process(Pid::from_child(process), signal).unwrap();
}

/// The state of each thread of the process: `T` for a stopped one, see proc(5).
fn threads(process: &Child) -> Vec<char> {
    let threads = fs::read_dir(format!("/proc/{}/task", process.id())).unwrap();
    // A thread may end between the listing and the read, and then has no file.
    let stats = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("stat")).ok());
    let state = |stat: String| stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    stats.map(|stat| state(stat).expect("stat has a state")).collect()
}
