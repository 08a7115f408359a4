//! The oracle knows every client and every signal to a process. From these it derives the sockets that a roll call may
//! list and those that it must list.
//!
//! Owns the histories and the judgement. A roll call lasts from its request to its answer:
//! - A complete answer *must* list a socket that was acknowledged before the request and still connected at the answer,
//!   on a node that was an active member all the time.
//! - Any answer *may* list only sockets that were possibly connected at some moment of the roll call.
//!
//! Two delays have no exact moment, only a bound. A node needs time to notice that a client has disconnected. A node
//! that was stopped for longer than its lease needs time to rejoin.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A running node notices a disconnected client within this time, on a loaded machine.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A client sees the end of its transport at most this long after its node released the socket. The oracle judges a roll
/// call only when this time has passed.
pub const TRANSPORT_END_TIMEOUT: Duration = Duration::from_millis(1500);
/// A node that was stopped for longer than its lease has rejoined within this time after it resumed.
const REJOIN_TIMEOUT: Duration = Duration::from_secs(3);
/// The oracle keeps the history of a disconnected socket for this time.
const HISTORY_RETENTION: Duration = Duration::from_secs(120);

/// One process of the cluster, over its whole life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(usize);

/// The current process of a node, which changes when the node is restarted. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CurrentProcess(Arc<AtomicUsize>);

impl CurrentProcess {
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

/// A span of time. A span without an end has not ended yet.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: Instant,
    to: Option<Instant>,
}

#[derive(Debug)]
struct Process {
    name: String,
    stopped: Vec<Span>,
    /// Spans in which the process ran but was no active member, for example because a scenario cut its links.
    inactive: Vec<Span>,
    /// From just before `kill -9` to the end of the process.
    killed: Option<Span>,
}

/// One socket's membership of one room, from the request to join to the acknowledged leave.
#[derive(Debug, Clone)]
struct RoomStay {
    room: String,
    requested: Instant,
    acknowledged: Option<Instant>,
    leaving: Option<Instant>,
    left: Option<Instant>,
}

#[derive(Debug, Clone)]
struct SocketHistory {
    user: String,
    process: ProcessId,
    stays: Vec<RoomStay>,
    /// When the client began to disconnect, in any way.
    going: Option<Instant>,
    /// When the client saw that its transport had ended.
    ended: Option<Instant>,
}

struct Record {
    lease: Duration,
    began: Instant,
    processes: Vec<Process>,
    sockets: HashMap<String, SocketHistory>,
    /// Socket.IO disconnect packets from the server. No scenario expects one.
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
    /// The name of the node, in answers that have it.
    pub node: Option<String>,
}

/// A roll call from the view of the HTTP client that requested it.
#[derive(Debug, Clone)]
pub struct Call {
    pub room: String,
    pub node: ProcessId,
    pub asked: Instant,
    pub answered: Instant,
    pub deadline: Duration,
    pub complete: bool,
    pub rows: Vec<Row>,
    /// Further details for the failure message.
    pub about: String,
}

impl Span {
    fn overlaps(&self, from: Instant, to: Instant) -> bool {
        self.from <= to && self.to.is_none_or(|end| end >= from)
    }
}

impl Process {
    /// Whether the process was possibly inactive at some moment from `asked` to `answered`. Only a socket that was
    /// acknowledged before a stop can be missing because of that stop.
    fn may_be_inactive(&self, lease: Duration, acknowledged: Instant, asked: Instant, answered: Instant) -> bool {
        let stopped = self.stopped.iter().any(|stop| {
            // A node renews its lease every fifth of it, and somewhat later on a loaded machine. At the stop, up to three
            // tenths of the lease may have passed.
            let expires = stop.from + lease * 7 / 10;
            let expired = stop.to.is_none_or(|to| to > expires);
            // A node whose lease expired acknowledges no client before it has rejoined.
            let before = stop.to.is_none_or(|to| acknowledged < to);
            let inactive = Span { from: expires, to: stop.to.map(|to| to + REJOIN_TIMEOUT) };
            expired && before && inactive.overlaps(asked, answered)
        });
        stopped || self.inactive.iter().any(|span| span.overlaps(asked, answered))
    }

    /// The latest moment at which the node notices a client that disconnected at `disconnected`. `None` while the process
    /// is stopped, because the moment depends on when it resumes.
    fn noticed(&self, disconnected: Instant) -> Option<Instant> {
        let mut latest = disconnected + DISCONNECT_TIMEOUT;
        for stop in &self.stopped {
            if stop.overlaps(disconnected, latest) {
                latest = latest.max(stop.to? + DISCONNECT_TIMEOUT);
            }
        }
        Some(latest)
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
        record.processes.push(Process {
            name: name.to_owned(),
            stopped: Vec::new(),
            inactive: Vec::new(),
            killed: None,
        });
        ProcessId(record.processes.len() - 1)
    }

    pub fn stopping(&self, process: ProcessId) {
        self.lock().processes[process.0].stopped.push(Span { from: Instant::now(), to: None });
    }

    /// Call this *after* the process has resumed: the span must cover the whole stop.
    pub fn resumed(&self, process: ProcessId) {
        let mut record = self.lock();
        if let Some(stop) = record.processes[process.0].stopped.last_mut() {
            stop.to.get_or_insert_with(Instant::now);
        }
    }

    /// Records that the process is no active member from now on, although it runs. Answers need not list its sockets.
    pub fn inactive(&self, process: ProcessId) {
        self.lock().processes[process.0].inactive.push(Span { from: Instant::now(), to: None });
    }

    pub fn active_again(&self, process: ProcessId) {
        let mut record = self.lock();
        if let Some(span) = record.processes[process.0].inactive.last_mut() {
            span.to.get_or_insert_with(Instant::now);
        }
    }

    /// Call this before the signal, and [`Self::killed`] after the end of the process.
    pub fn killing(&self, process: ProcessId) {
        self.lock().processes[process.0].killed = Some(Span { from: Instant::now(), to: None });
    }

    /// Call this after the process has ended.
    pub fn killed(&self, process: ProcessId) {
        if let Some(killed) = &mut self.lock().processes[process.0].killed {
            killed.to = Some(Instant::now());
        }
    }

    /// Call this before the client sends its connect packet.
    pub fn connecting(&self, socket: &str, user: &str, process: ProcessId, rooms: &[String]) {
        let mut record = self.lock();
        let life = SocketHistory { user: user.to_owned(), process, stays: Vec::new(), going: None, ended: None };
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

    /// Call this before the client sends the event.
    pub fn joining(&self, socket: &str, room: &str) {
        let requested = Instant::now();
        if let Some(life) = self.lock().sockets.get_mut(socket) {
            let room = room.to_owned();
            life.stays.push(RoomStay { room, requested, acknowledged: None, leaving: None, left: None });
        }
    }

    pub fn joined(&self, socket: &str, room: &str) {
        self.change(socket, room, |stay| stay.acknowledged = Some(Instant::now()));
    }

    /// Call this before the client sends the event.
    pub fn leaving(&self, socket: &str, room: &str) {
        self.change(socket, room, |stay| stay.leaving = Some(Instant::now()));
    }

    pub fn left(&self, socket: &str, room: &str) {
        self.change(socket, room, |stay| stay.left = Some(Instant::now()));
    }

    fn change(&self, socket: &str, room: &str, change: impl FnOnce(&mut RoomStay)) {
        if let Some(life) = self.lock().sockets.get_mut(socket)
            && let Some(stay) = life.stays.iter_mut().rev().find(|stay| stay.room == room)
        {
            change(stay);
        }
    }

    /// Call this before the client begins to disconnect.
    pub fn going(&self, socket: &str) {
        if let Some(life) = self.lock().sockets.get_mut(socket) {
            life.going.get_or_insert_with(Instant::now);
        }
    }

    /// Records that the client's transport has ended.
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

    /// The number of Socket.IO disconnect packets that clients have received.
    pub fn disconnects(&self) -> usize {
        self.lock().disconnects
    }

    /// Whether the process was stopped or killed at some moment from `from` to `to`.
    pub fn was_disturbed(&self, process: ProcessId, from: Instant, to: Instant) -> bool {
        let record = self.lock();
        let process = &record.processes[process.0];
        process.stopped.iter().chain(&process.killed).any(|span| span.overlaps(from, to))
    }

    pub fn is_stopped(&self, process: ProcessId) -> bool {
        self.lock().processes[process.0].stopped.last().is_some_and(|stop| stop.to.is_none())
    }

    /// The sockets on any node that are acknowledged in the room and have not begun to leave or to disconnect.
    pub fn present(&self, room: &str) -> BTreeSet<String> {
        let record = self.lock();
        let present = |life: &SocketHistory| {
            let member = |stay: &RoomStay| stay.room == room && stay.acknowledged.is_some() && stay.leaving.is_none();
            life.going.is_none() && life.ended.is_none() && life.stays.iter().any(member)
        };
        record.sockets.iter().filter(|(_, life)| present(life)).map(|(socket, _)| socket.clone()).collect()
    }

    /// Every room that has had a socket.
    pub fn rooms(&self) -> BTreeSet<String> {
        let record = self.lock();
        record.sockets.values().flat_map(|life| life.stays.iter().map(|stay| stay.room.clone())).collect()
    }

    /// The errors of an answer. Call this when [`TRANSPORT_END_TIMEOUT`] has passed since the answer.
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
                wrong.push(format!("{socket} ({}) is not the socket of any client", row.user));
                continue;
            };
            if life.user != row.user {
                wrong.push(format!(
                    "{socket} is listed with user {}: {}",
                    row.user,
                    record.describe(socket, life, call)
                ));
            }
            let process = &record.processes[life.process.0];
            if row.node.as_ref().is_some_and(|node| *node != process.name) {
                wrong.push(format!(
                    "{socket} is listed on node {:?}: {}",
                    row.node,
                    record.describe(socket, life, call)
                ));
            }
            if !life.stays.iter().any(|stay| record.may_list(life, stay, call)) {
                wrong.push(format!("EXTRA {}", record.describe(socket, life, call)));
            }
        }
        if call.complete {
            for (socket, life) in &record.sockets {
                let must = life.stays.iter().any(|stay| record.must_list(life, stay, call));
                if must && !listed.contains(socket.as_str()) {
                    wrong.push(format!("MISSING {}", record.describe(socket, life, call)));
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

    /// Forgets sockets that disconnected long ago.
    pub fn forget_old(&self) {
        self.lock().sockets.retain(|_, life| {
            let disconnected = life.going.or(life.ended);
            disconnected.is_none_or(|moment| moment.elapsed() < HISTORY_RETENTION)
        });
    }

    /// Seconds since the oracle was created. Its messages name moments in these seconds.
    pub fn clock(&self) -> f64 {
        self.lock().began.elapsed().as_secs_f64()
    }
}

impl Record {
    /// Whether a complete answer must list this socket in this room.
    fn must_list(&self, life: &SocketHistory, stay: &RoomStay, call: &Call) -> bool {
        let process = &self.processes[life.process.0];
        let Some(acknowledged) = stay.acknowledged.filter(|moment| *moment <= call.asked) else { return false };
        let after = |moment: Option<Instant>| moment.is_none_or(|moment| moment > call.answered);
        stay.room == call.room
            && after(stay.leaving)
            && after(life.going)
            && life.ended.is_none_or(|ended| ended > call.answered + TRANSPORT_END_TIMEOUT)
            && after(process.killed.map(|killed| killed.from))
            && !process.may_be_inactive(self.lease, acknowledged, call.asked, call.answered)
    }

    /// Whether an answer may list this socket in this room.
    fn may_list(&self, life: &SocketHistory, stay: &RoomStay, call: &Call) -> bool {
        let process = &self.processes[life.process.0];
        let before = |moment: Option<Instant>| moment.is_some_and(|moment| moment < call.asked);
        let disconnected = life.going.into_iter().chain(life.ended).min();
        stay.room == call.room
            && stay.requested <= call.answered
            && !before(stay.left)
            && !before(process.killed.and_then(|killed| killed.to))
            && !before(disconnected.and_then(|moment| process.noticed(moment)))
    }

    /// The history of a socket, for the failure message.
    fn describe(&self, socket: &str, life: &SocketHistory, call: &Call) -> String {
        let at = |moment: Instant| (moment - self.began).as_secs_f64();
        let maybe = |event: &str, moment: Option<Instant>| {
            moment.map(|moment| format!(", {event} {:.3}", at(moment))).unwrap_or_default()
        };
        let process = &self.processes[life.process.0];
        let mut text = format!("{socket} ({}) on {}", life.user, process.name);
        for stay in life.stays.iter().filter(|stay| stay.room == call.room) {
            let _ = write!(text, ", requested {:.3}", at(stay.requested));
            text += &maybe("acknowledged", stay.acknowledged);
            text += &maybe("leaving", stay.leaving);
            text += &maybe("left", stay.left);
        }
        text += &maybe("disconnecting", life.going);
        text += &maybe("transport ended", life.ended);
        for stop in &process.stopped {
            let _ = write!(text, "; stopped {:.3}{}", at(stop.from), maybe("resumed", stop.to));
        }
        for span in &process.inactive {
            let _ = write!(text, "; inactive {:.3}{}", at(span.from), maybe("active", span.to));
        }
        text += &maybe("process killed", process.killed.map(|killed| killed.from));
        text
    }
}
