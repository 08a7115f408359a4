//! Signals to a process that a test has started.

use std::fs;
use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};

use super::until;

/// SIGSTOP. Ends when the whole process stands still: one of its threads takes the signal, when it runs next, and the
/// others work on until then.
pub async fn stop(process: &Child) {
    send(process, Signal::STOP);
    until("it stands still", || async { threads(process).iter().all(|state| *state == 'T') }).await;
}

/// SIGCONT.
pub fn go_on(process: &Child) {
    send(process, Signal::CONT);
}

/// SIGTERM.
pub fn terminate(process: &Child) {
    send(process, Signal::TERM);
}

fn send(process: &Child, signal: Signal) {
    kill_process(Pid::from_child(process), signal).unwrap();
}

/// The state of each of its threads: `T` when that is stopped, see proc(5).
fn threads(process: &Child) -> Vec<char> {
    let threads = fs::read_dir(format!("/proc/{}/task", process.id())).unwrap();
    // One that ended meanwhile works no more.
    let stats = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("stat")).ok());
    let state = |stat: String| stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    stats.map(|stat| state(stat).expect("it is there")).collect()
}
