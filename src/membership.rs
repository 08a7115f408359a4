//! Membership: who belongs to the cluster, as known here, and whether this node is active.
//!
//! Owns this node's lease ([`lease`]), its word to the others ([`announcer`]) and the table of what the others said
//! ([`table`]). Owns no sockets and no claims: the roster says what this node's word is, and a roll call takes a
//! [`View`] and decides whom to ask.

pub mod announcer;
pub mod lease;
pub mod table;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use smol_str::SmolStr;
use tokio::sync::{Notify, watch};

use crate::clock::BootInstant;
use crate::directory::NodeEntry;
use crate::mesh::node_status::NodeStatus;
use crate::names::{NodeId, NodeName};
use crate::roster::Roster;
use table::Table;

pub use table::{Member, View};

/// What a node is known by apart from its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    pub name: NodeName,
    /// Where its mesh is reached, `host:port`.
    pub mesh: SmolStr,
    /// When the process started, RFC 3339.
    pub since: SmolStr,
}

/// Whether this node may acknowledge sockets, by the last answer of the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The incarnation this is about.
    pub node: NodeId,
    /// When its entry was sent to the index; `None` until that was answered.
    pub entered: Option<BootInstant>,
    /// When the renewal was *sent* that was answered last.
    pub confirmed: Option<BootInstant>,
    /// Every member has acknowledged the hello, or a whole lease has passed since the entry was written.
    pub born: bool,
    /// This process has been in an index and has read the list of the others afterwards. Outlives the incarnation.
    pub introduced: bool,
}

/// See [`Membership::readiness`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    pub directory: DirectoryState,
    pub mesh: MeshState,
    pub leaving: bool,
}

/// What the directory has to do with this node now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectoryState {
    /// It has confirmed the lease lately.
    LeaseConfirmed,
    /// It has not, and the others know this node all the same.
    Unavailable,
    /// It never has, so this node knows nobody.
    NeverReached,
}

/// What the others know of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MeshState {
    /// They know what they must, so that clients can be let in, and this node has heard what they know.
    Synced,
    /// The hello has not gone round yet, or not everybody knows yet that it must be asked always; or this node cannot say
    /// yet that it knows everybody.
    Announcing,
    /// Without a lease, and without an answer of most of them.
    Isolated,
}

/// Shared by `Arc`.
pub struct Membership {
    node_info: NodeInfo,
    lease: Duration,
    roster: Arc<Roster>,
    table: Mutex<Table>,
    standing: watch::Sender<Standing>,
    leaving: watch::Sender<Leaving>,
    /// The table or the own word changed in a way that the announcer should look at.
    news: Notify,
    acknowledgements: watch::Sender<()>,
}

/// How far this node is on its way out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leaving {
    #[default]
    Staying,
    Draining,
    Goodbye,
}

impl Readiness {
    /// Whether clients should be sent here.
    pub fn is_ready(&self) -> bool {
        self.mesh == MeshState::Synced && !self.leaving
    }
}

impl Membership {
    pub fn new(node_info: NodeInfo, lease: Duration, roster: Arc<Roster>) -> Arc<Self> {
        let node = roster.incarnation();
        let (standing, _) = watch::channel(Standing {
            node: node.clone(),
            entered: None,
            confirmed: None,
            born: false,
            introduced: false,
        });
        let (leaving, _) = watch::channel(Leaving::default());
        let table = Mutex::new(Table::new(&node, lease));
        let (acknowledgements, _) = watch::channel(());
        Arc::new(Self { node_info, lease, roster, table, standing, leaving, news: Notify::new(), acknowledgements })
    }

    pub fn node_info(&self) -> &NodeInfo {
        &self.node_info
    }

    /// The members other than this node, as known now.
    pub fn view(&self) -> View {
        self.lock().view()
    }

    /// Where the mesh of a process is reached; `None` when none of its incarnations is a member.
    pub fn mesh_of(&self, process: &str) -> Option<SmolStr> {
        self.lock().mesh_of(process)
    }

    /// How long a lease lasts.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Whether clients of `node` may be acknowledged whose rooms are claimed: its birth is over, and the index answered
    /// something that was sent less than ¾ of a lease ago. A process that was stopped for long may not, until it has
    /// renewed.
    pub fn may_acknowledge(&self, node: &NodeId) -> bool {
        self.standing.borrow().may_acknowledge(node, self.lease)
    }

    /// Whether clients of `node` may be acknowledged whatever is claimed: every member has acknowledged that this node
    /// is not whole and must be asked always, and answered something that was sent less than ¾ of a lease ago.
    pub fn everybody_asks(&self, node: &NodeId) -> bool {
        let mut table = self.lock();
        let word = self.roster.index_state().borrow().clone();
        if word.incarnation != *node || word.fully_indexed_in.is_some() || !self.standing.borrow().introduced {
            return false;
        }
        let sequence = table.number(&word, *self.leaving.borrow());
        table.all_answered(sequence, self.trusted_since())
    }

    /// Whether this node is active: it has a lease, or most of the members have acknowledged recently that they must
    /// always ask it. A node that is not active disconnects its sockets, because others may list them as gone.
    pub fn is_active(&self) -> bool {
        self.is_introduced() && (self.has_lease() || self.vouched_for_by().is_some())
    }

    /// Whether the index has confirmed this node's lease lately.
    pub fn has_lease(&self) -> bool {
        self.standing.borrow().confirmed_lately(self.lease)
    }

    /// How long the lease of `node` lasts unless it is renewed, counted from when the last renewal was sent; `None` when
    /// it has run out or there never was one.
    pub fn lease_left(&self, node: &NodeId) -> Option<Duration> {
        let standing = self.standing.borrow();
        let sent = standing.confirmed.filter(|_| standing.node == *node)?;
        self.lease.checked_sub(sent.elapsed()).filter(|left| !left.is_zero())
    }

    /// Who has acknowledged lately that this node must be asked always, if these are most of the members: what a node
    /// without a lease counts by. To them and whoever hears of them it is alive; who hears of none of them takes it for
    /// dead, if the index can be read there.
    pub fn vouched_for_by(&self) -> Option<Vec<NodeId>> {
        let mut table = self.lock();
        let word = self.roster.index_state().borrow().clone();
        let sequence = table.number(&word, *self.leaving.borrow());
        table.most_answered(sequence, self.trusted_since()).filter(|_| word.fully_indexed_in.is_none())
    }

    /// Whether it is on its way out.
    pub fn is_leaving(&self) -> bool {
        *self.leaving.borrow() != Leaving::Staying
    }

    /// Ends when it is on its way out.
    pub async fn left(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.leaving.subscribe().wait_for(|leaving| *leaving != Leaving::Staying).await;
    }

    /// This process has been in an index and has read the list of the others afterwards. Until then it knows nobody.
    pub fn is_introduced(&self) -> bool {
        self.standing.borrow().introduced
    }

    /// Ends when it is introduced.
    pub async fn introduced(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.standing().wait_for(|standing| standing.introduced).await;
    }

    /// What stands between this node and new clients.
    pub fn readiness(&self) -> Readiness {
        let standing = self.standing.borrow().clone();
        let node = self.roster.incarnation();
        let known = standing.may_acknowledge(&node, self.lease) || self.everybody_asks(&node);
        let knows = self.lock().was_acquainted();
        Readiness {
            directory: match standing.confirmed_lately(self.lease) {
                true => DirectoryState::LeaseConfirmed,
                false if standing.introduced => DirectoryState::Unavailable,
                false => DirectoryState::NeverReached,
            },
            mesh: match known && knows {
                true => MeshState::Synced,
                false if self.is_active() || !standing.introduced => MeshState::Announcing,
                false => MeshState::Isolated,
            },
            leaving: self.is_leaving(),
        }
    }

    /// Answers to what was sent earlier than this are worth nothing any more.
    fn trusted_since(&self) -> BootInstant {
        BootInstant::now().before(trusted_for(self.lease))
    }

    /// There was a sign of life from this node over the mesh.
    pub fn heard(&self, node: &NodeId) {
        self.lock().heard(node, BootInstant::now());
    }

    /// Takes in what a node said of itself and of the members it knows.
    pub fn told(&self, said: &NodeStatus) {
        let changed = self.lock().told(said, BootInstant::now());
        if changed {
            self.news.notify_one();
        }
    }

    /// What this node says of itself now, and the members it knows.
    pub fn say(&self) -> NodeStatus {
        // Both are read under the table's lock: a later sequence number never carries an earlier word.
        let mut table = self.lock();
        let leaving = *self.leaving.borrow();
        let word = self.roster.index_state().borrow().clone();
        table.say(&self.node_info, &word, leaving, BootInstant::now())
    }

    /// The number of this node's word as it is now.
    fn number(&self) -> u64 {
        let mut table = self.lock();
        let word = self.roster.index_state().borrow().clone();
        table.number(&word, *self.leaving.borrow())
    }

    /// Takes a member in that a roll call came across in the index.
    pub fn found(&self, node: &NodeId, entry: &NodeEntry) {
        let changed = self.lock().found(node, entry, BootInstant::now());
        if changed {
            self.news.notify_one();
        }
    }

    /// Tells the index and the others that this node is on its way out. There is no way back.
    pub fn leave(&self, leaving: Leaving) {
        self.leaving.send_if_modified(|now| {
            let further = leaving > *now;
            *now = leaving.max(*now);
            further
        });
        self.news.notify_one();
    }

    /// Wakes whenever a member has answered this node.
    pub fn acknowledgements(&self) -> watch::Receiver<()> {
        self.acknowledgements.subscribe()
    }

    /// Ends when every member has acknowledged this node's present word.
    pub async fn everyone_knows(&self) {
        let mut acknowledgements = self.acknowledgements.subscribe();
        loop {
            let sequence = self.number();
            if self.lock().all_acknowledged(sequence) {
                return;
            }
            // The sender lives in `self`, so waiting cannot fail.
            let _ = acknowledgements.changed().await;
        }
    }

    fn entry(&self) -> NodeEntry {
        NodeEntry {
            name: self.node_info.name.clone(),
            mesh: self.node_info.mesh.clone(),
            since: self.node_info.since.clone(),
            draining: self.is_leaving(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no code panics while it holds the table")
    }
}

impl Standing {
    /// When this node's entry was sent to the index, if it is there.
    fn entered(&self, node: &NodeId) -> Option<BootInstant> {
        self.entered.filter(|_| self.node == *node)
    }

    fn may_acknowledge(&self, node: &NodeId, lease: Duration) -> bool {
        self.node == *node && self.born && self.confirmed_lately(lease)
    }

    fn confirmed_lately(&self, lease: Duration) -> bool {
        self.confirmed.is_some_and(|sent| sent.elapsed() < trusted_for(lease))
    }
}

/// How long an answer is relied on, counted from when its question was sent: the others go by the whole lease.
fn trusted_for(lease: Duration) -> Duration {
    lease * 3 / 4
}
