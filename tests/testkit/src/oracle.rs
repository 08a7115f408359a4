//! The oracle: it knows every client, what was done to every process, and so what a roll call may and must list.
//!
//! Owns the histories and the judgement. A roll call that was asked and answered at known moments *must*, when it says
//! it is complete, list every socket that was acknowledged before it was asked and was still there when it was
//! answered, on a node that counted all the while; and it *may*, complete or not, list nothing but sockets that can
//! have been there at one moment of it. What is not known to the moment (how soon a node notices that a client went,
//! when a node that was stopped past its lease is out and in again) is left open by a bound.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A node that runs notices within this time that a client went, on a machine that has other things to do.
const GOING_WITHIN: Duration = Duration::from_secs(3);
/// A client may see the end of its transport so much later than its node had let go of it. Roll calls are judged when
/// this has passed.
pub const SEEING_WITHIN: Duration = Duration::from_millis(1500);
/// A node that was stopped past its lease is in again so long after it went on.
const BACK_WITHIN: Duration = Duration::from_secs(3);
/// Histories of sockets that went are kept for so long.
const KEPT: Duration = Duration::from_secs(120);

/// One process of the cluster, over its whole life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(usize);

/// The process that a node is at present. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Present(Arc<AtomicUsize>);

impl Present {
    pub fn new(process: ProcessId) -> Self {
        Self(Arc::new(AtomicUsize::new(process.0)))
    }

    pub fn get(&self) -> ProcessId {
        ProcessId(self.0.load(Ordering::SeqCst))
    }

    pub fn set(&self, process: ProcessId) {
        self.0.store(process.0, Ordering::SeqCst);
    }
}

/// A span of time; without an end it still lasts.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: Instant,
    to: Option<Instant>,
}

#[derive(Debug)]
struct Process {
    name: String,
    stopped: Vec<Span>,
    /// When it did not count although it ran: cut off, by a scenario that knows.
    out: Vec<Span>,
    /// From when `kill -9` was about to be sent, to when the process was gone.
    killed: Option<Span>,
}

/// One socket's stay in one room.
#[derive(Debug, Clone)]
struct Stay {
    room: String,
    asked_for: Instant,
    acknowledged: Option<Instant>,
    leaving: Option<Instant>,
    left: Option<Instant>,
}

#[derive(Debug, Clone)]
struct Life {
    user: String,
    process: ProcessId,
    stays: Vec<Stay>,
    /// When the client began to go, by whatever way.
    going: Option<Instant>,
    /// When it saw that its transport had ended.
    ended: Option<Instant>,
}

struct Record {
    lease: Duration,
    began: Instant,
    processes: Vec<Process>,
    sockets: HashMap<String, Life>,
    /// Socket.IO disconnects by the server: nobody should ever see one.
    disconnects: usize,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Oracle(Arc<Mutex<Record>>);

/// One row of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub socket: String,
    pub user: String,
    /// The name of the node, where the answer says it.
    pub node: Option<String>,
}

/// A roll call as the one who asked saw it.
#[derive(Debug, Clone)]
pub struct Call {
    pub room: String,
    pub node: ProcessId,
    pub asked: Instant,
    pub answered: Instant,
    pub deadline: Duration,
    pub complete: bool,
    pub rows: Vec<Row>,
    /// What else is worth telling when it was wrong.
    pub about: String,
}

impl Span {
    fn overlaps(&self, from: Instant, to: Instant) -> bool {
        self.from <= to && self.to.is_none_or(|end| end >= from)
    }
}

impl Process {
    /// Whether it may have been out at some moment between these two, for a socket acknowledged at `acknowledged`.
    fn may_be_out(&self, lease: Duration, acknowledged: Instant, asked: Instant, answered: Instant) -> bool {
        let stopped = self.stopped.iter().any(|stop| {
            // Its lease may have been renewed a fifth of it ago or, on a busy machine, a bit more.
            let out = stop.from + lease * 7 / 10;
            let lapsed = stop.to.is_none_or(|to| to > out);
            // A node that was stopped acknowledges nothing before it is in again.
            let before = stop.to.is_none_or(|to| acknowledged < to);
            let out = Span { from: out, to: stop.to.map(|to| to + BACK_WITHIN) };
            lapsed && before && out.overlaps(asked, answered)
        });
        stopped || self.out.iter().any(|out| out.overlaps(asked, answered))
    }

    /// When a client that went at `went` has been noticed at the latest; `None` while that cannot be said.
    fn noticed(&self, went: Instant) -> Option<Instant> {
        let mut by = went + GOING_WITHIN;
        for stop in &self.stopped {
            if stop.overlaps(went, by) {
                by = by.max(stop.to? + GOING_WITHIN);
            }
        }
        Some(by)
    }
}

impl Oracle {
    pub fn new(lease: Duration) -> Self {
        Self(Arc::new(Mutex::new(Record {
            lease,
            began: Instant::now(),
            processes: Vec::new(),
            sockets: HashMap::new(),
            disconnects: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap()
    }

    pub fn started(&self, name: &str) -> ProcessId {
        let mut record = self.lock();
        record.processes.push(Process { name: name.to_owned(), stopped: Vec::new(), out: Vec::new(), killed: None });
        ProcessId(record.processes.len() - 1)
    }

    pub fn stopping(&self, process: ProcessId) {
        self.lock().processes[process.0].stopped.push(Span { from: Instant::now(), to: None });
    }

    /// To be told *after* the process went on.
    pub fn went_on(&self, process: ProcessId) {
        let mut record = self.lock();
        if let Some(stop) = record.processes[process.0].stopped.last_mut() {
            stop.to.get_or_insert_with(Instant::now);
        }
    }

    /// From now on it need not be listed, whatever it says itself.
    pub fn out(&self, process: ProcessId) {
        self.lock().processes[process.0].out.push(Span { from: Instant::now(), to: None });
    }

    pub fn in_again(&self, process: ProcessId) {
        let mut record = self.lock();
        if let Some(out) = record.processes[process.0].out.last_mut() {
            out.to.get_or_insert_with(Instant::now);
        }
    }

    /// To be told before the signal…
    pub fn killing(&self, process: ProcessId) {
        self.lock().processes[process.0].killed = Some(Span { from: Instant::now(), to: None });
    }

    /// …and when the process is gone.
    pub fn killed(&self, process: ProcessId) {
        if let Some(killed) = &mut self.lock().processes[process.0].killed {
            killed.to = Some(Instant::now());
        }
    }

    /// To be told before the client asks to be connected.
    pub fn connecting(&self, socket: &str, user: &str, process: ProcessId, rooms: &[String]) {
        let mut record = self.lock();
        let life = Life { user: user.to_owned(), process, stays: Vec::new(), going: None, ended: None };
        record.sockets.insert(socket.to_owned(), life);
        drop(record);
        for room in rooms {
            self.joining(socket, room);
        }
    }

    pub fn connected(&self, socket: &str) {
        let now = Instant::now();
        if let Some(life) = self.lock().sockets.get_mut(socket) {
            for stay in &mut life.stays {
                stay.acknowledged.get_or_insert(now);
            }
        }
    }

    /// To be told before the client asks.
    pub fn joining(&self, socket: &str, room: &str) {
        let asked_for = Instant::now();
        if let Some(life) = self.lock().sockets.get_mut(socket) {
            let room = room.to_owned();
            life.stays.push(Stay { room, asked_for, acknowledged: None, leaving: None, left: None });
        }
    }

    pub fn joined(&self, socket: &str, room: &str) {
        self.change(socket, room, |stay| stay.acknowledged = Some(Instant::now()));
    }

    /// To be told before the client asks.
    pub fn leaving(&self, socket: &str, room: &str) {
        self.change(socket, room, |stay| stay.leaving = Some(Instant::now()));
    }

    pub fn left(&self, socket: &str, room: &str) {
        self.change(socket, room, |stay| stay.left = Some(Instant::now()));
    }

    fn change(&self, socket: &str, room: &str, change: impl FnOnce(&mut Stay)) {
        if let Some(life) = self.lock().sockets.get_mut(socket)
            && let Some(stay) = life.stays.iter_mut().rev().find(|stay| stay.room == room)
        {
            change(stay);
        }
    }

    /// To be told before the client goes.
    pub fn going(&self, socket: &str) {
        if let Some(life) = self.lock().sockets.get_mut(socket) {
            life.going.get_or_insert_with(Instant::now);
        }
    }

    /// The client's transport has ended.
    pub fn ended(&self, socket: &str) {
        let now = Instant::now();
        let mut record = self.lock();
        if let Some(life) = record.sockets.get_mut(socket) {
            life.ended.get_or_insert(now);
        }
    }

    pub fn disconnected_by_server(&self) {
        self.lock().disconnects += 1;
    }

    /// How many Socket.IO disconnects clients have received.
    pub fn disconnects(&self) -> usize {
        self.lock().disconnects
    }

    /// Whether it has been stopped, or killed, at some moment between these two.
    pub fn was_disturbed(&self, process: ProcessId, from: Instant, to: Instant) -> bool {
        let record = self.lock();
        let process = &record.processes[process.0];
        process.stopped.iter().chain(&process.killed).any(|span| span.overlaps(from, to))
    }

    pub fn is_stopped(&self, process: ProcessId) -> bool {
        self.lock().processes[process.0].stopped.last().is_some_and(|stop| stop.to.is_none())
    }

    /// The sockets that are acknowledged in the room and have not begun to go, on whatever node.
    pub fn present(&self, room: &str) -> BTreeSet<String> {
        let record = self.lock();
        let there = |life: &Life| {
            let stays = |stay: &Stay| stay.room == room && stay.acknowledged.is_some() && stay.leaving.is_none();
            life.going.is_none() && life.ended.is_none() && life.stays.iter().any(stays)
        };
        record.sockets.iter().filter(|(_, life)| there(life)).map(|(socket, _)| socket.clone()).collect()
    }

    /// Every room that a socket has been in.
    pub fn rooms(&self) -> BTreeSet<String> {
        let record = self.lock();
        record.sockets.values().flat_map(|life| life.stays.iter().map(|stay| stay.room.clone())).collect()
    }

    /// What is wrong with an answer. To be asked when [`SEEING_WITHIN`] has passed since it came.
    pub fn judge(&self, call: &Call, slack: Duration) -> Vec<String> {
        let record = self.lock();
        let mut wrong = Vec::new();
        let mut listed = BTreeSet::new();
        for row in &call.rows {
            let socket = &row.socket;
            if !listed.insert(socket.as_str()) {
                wrong.push(format!("{socket} is listed twice"));
            }
            let Some(life) = record.sockets.get(socket) else {
                wrong.push(format!("{socket} ({}) is nobody's socket", row.user));
                continue;
            };
            if life.user != row.user {
                wrong.push(format!("{socket} is said to be {}: {}", row.user, record.tell(socket, life, call)));
            }
            let process = &record.processes[life.process.0];
            if row.node.as_ref().is_some_and(|node| *node != process.name) {
                wrong.push(format!("{socket} is said to be on {:?}: {}", row.node, record.tell(socket, life, call)));
            }
            if !life.stays.iter().any(|stay| record.may(life, stay, call)) {
                wrong.push(format!("EXTRA {}", record.tell(socket, life, call)));
            }
        }
        if call.complete {
            for (socket, life) in &record.sockets {
                let must = life.stays.iter().any(|stay| record.must(life, stay, call));
                if must && !listed.contains(socket.as_str()) {
                    wrong.push(format!("MISSING {}", record.tell(socket, life, call)));
                }
            }
        }
        let disturbed = {
            let process = &record.processes[call.node.0];
            process.stopped.iter().chain(&process.killed).any(|span| span.overlaps(call.asked, call.answered))
        };
        let took = call.answered - call.asked;
        if took > call.deadline + slack && !disturbed {
            wrong.push(format!("LATE by {:?}", took - call.deadline));
        }
        if wrong.is_empty() {
            return wrong;
        }
        let node = &record.processes[call.node.0].name;
        let at = |moment: Instant| (moment - record.began).as_secs_f64();
        let context = format!(
            "room {}, asked on {node} from {:.3} to {:.3}, complete: {}, {} rows; {}",
            call.room,
            at(call.asked),
            at(call.answered),
            call.complete,
            call.rows.len(),
            call.about
        );
        wrong.iter().map(|wrong| format!("{wrong}\n    in {context}")).collect()
    }

    /// Forgets sockets that went long ago.
    pub fn forget_old(&self) {
        self.lock().sockets.retain(|_, life| {
            let went = life.going.or(life.ended);
            went.is_none_or(|went| went.elapsed() < KEPT)
        });
    }

    /// Seconds since the oracle was made: how its messages name moments.
    pub fn clock(&self) -> f64 {
        self.lock().began.elapsed().as_secs_f64()
    }
}

impl Record {
    /// Whether a complete answer must list it.
    fn must(&self, life: &Life, stay: &Stay, call: &Call) -> bool {
        let process = &self.processes[life.process.0];
        let Some(acknowledged) = stay.acknowledged.filter(|moment| *moment <= call.asked) else { return false };
        let after = |moment: Option<Instant>| moment.is_none_or(|moment| moment > call.answered);
        stay.room == call.room
            && after(stay.leaving)
            && after(life.going)
            && life.ended.is_none_or(|ended| ended > call.answered + SEEING_WITHIN)
            && after(process.killed.map(|killed| killed.from))
            && !process.may_be_out(self.lease, acknowledged, call.asked, call.answered)
    }

    /// Whether an answer may list it.
    fn may(&self, life: &Life, stay: &Stay, call: &Call) -> bool {
        let process = &self.processes[life.process.0];
        let gone = |moment: Option<Instant>| moment.is_some_and(|moment| moment < call.asked);
        let went = life.going.into_iter().chain(life.ended).min();
        stay.room == call.room
            && stay.asked_for <= call.answered
            && !gone(stay.left)
            && !gone(process.killed.and_then(|killed| killed.to))
            && !gone(went.and_then(|went| process.noticed(went)))
    }

    fn tell(&self, socket: &str, life: &Life, call: &Call) -> String {
        let at = |moment: Instant| (moment - self.began).as_secs_f64();
        let maybe = |what: &str, moment: Option<Instant>| {
            moment.map(|moment| format!(", {what} {:.3}", at(moment))).unwrap_or_default()
        };
        let process = &self.processes[life.process.0];
        let mut text = format!("{socket} ({}) on {}", life.user, process.name);
        for stay in life.stays.iter().filter(|stay| stay.room == call.room) {
            let _ = write!(text, ", asked for {:.3}", at(stay.asked_for));
            text += &maybe("acknowledged", stay.acknowledged);
            text += &maybe("leaving", stay.leaving);
            text += &maybe("left", stay.left);
        }
        text += &maybe("going", life.going);
        text += &maybe("ended", life.ended);
        for stop in &process.stopped {
            let _ = write!(text, "; stopped {:.3}{}", at(stop.from), maybe("went on", stop.to));
        }
        for out in &process.out {
            let _ = write!(text, "; out {:.3}{}", at(out.from), maybe("in", out.to));
        }
        text += &maybe("process killed", process.killed.map(|killed| killed.from));
        text
    }
}
