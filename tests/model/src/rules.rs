//! The rules of "Whom to ask", each with a switch, and the bounds within which their consequences are searched.
//!
//! Owns what is varied from check to check: the rules in force, the faults that may strike and how many. Owns no
//! behaviour: the parts of the model ask here whether a rule is in force.

/// One rule. Left out, it has a counterexample; `main.rs` shows each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The table of members is taken before the owner set is read.
    TableBeforeOwners,
    /// The owner set is read before E.
    OwnersBeforeEpoch,
    /// E names the Redis process it was read from.
    EpochNamesItsProcess,
    /// A value of E that was made under another process is replaced by whoever enters, and believed by nobody.
    EpochNeverComesBack,
    /// A member is skipped only when its last word is "whole under" the E that was read.
    SkippedOnlyWhenWhole,
    /// Nobody is skipped, left unasked or held dead by a table that is older than half a lease.
    TableIsFresh,
    /// A room counts as unclaimed before the removal of its claim is sent.
    UnclaimedBeforeRemoval,
    /// A removal without an answer retires the incarnation.
    LostRemovalRetires,
    /// The next command of a room waits for the answer to the last one.
    OneCommandPerRoom,
    /// A client is acknowledged when the claim is held, or when every member has acknowledged "not whole".
    AckRestsOnClaimOrWord,
    /// Every room without its claim that a node has while it is not whole must be claimed before it is whole again.
    UnclaimedIsOwed,
    /// An acknowledgement, and counting at all, rests on something sent less than a lease ago.
    AcksAreRecent,
    /// A node that is not whole acknowledges only once it has read the list of an index that was the same for a lease.
    SettledBeforeWord,
    /// The first socket of an incarnation waits until the members of a list read after the entry know of it.
    Birth,
    /// Without their word for it, a lease after the entry, and a renewal that was sent then, stand for it.
    BirthByRenewal,
    /// A lapsed lease is never revived.
    LapsedStaysLapsed,
    /// What a retired incarnation claimed is removed only when the next one is whole.
    AbandonedUntilWhole,
    /// A Redis that cannot be read says nothing about who is dead.
    UnreadableKillsNobody,
    /// A missing lease counts only in an index that was the same for a lease.
    SteadyBeforeDeath,
    /// The index in which a silent node has no lease is the one that was steady.
    JudgedInTheSteadyIndex,
    /// Dead is a process, not an incarnation: none of its successors has a lease either.
    DeathIsOfAProcess,
    /// Who was heard within a lease is alive, whatever the index says.
    HeardIsAlive,
    /// Before a death, every member with a lease has been asked whether it heard the silent one.
    WitnessesAreHeard,
    /// Only the claims of the dead, and of incarnations that a later one has replaced, are repaired.
    RepairOnlyTheDead,
    /// The repair looks for the lease in the script that removes the claim.
    RepairOnlyWithoutLease,
    /// A node without a lease and without a majority lets go of its sockets.
    LetsGoWithoutMajority,
    /// An answer is complete only if every member known has spoken to the asker.
    IntroducedBeforeComplete,
    /// And has done so since the asker settled, as said next: by then, what those who went have heard is of no use.
    IntroducedWhenSettled,
    /// An answer is complete only once the asker has read the list of an index that was the same for a lease, and has
    /// had a lease ever since: after a flush nobody is listed, and who starts then knows nobody.
    SettledBeforeComplete,
    /// An asker that was without a lease has the words told again: to some it was dead meanwhile.
    WordsEndWithTheLease,
    /// Only the node that owns a socket can put it into an answer.
    OnlyVouchedRows,
    /// A process that is asked under two incarnations has one part.
    OnePartPerProcess,
}

/// The rules in force.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    left_out: &'static [Rule],
}

/// What can go wrong. Healing is free and needs no fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Redis loses its data and goes on.
    Flush,
    /// Another Redis process takes over, with the content of an earlier moment.
    FailOver,
    /// The removal of a claim of another room is not answered.
    LostRemovalElsewhere,
    /// A command of the node is not answered in time. It may still run later.
    NoAnswer,
    /// The node is stopped (SIGSTOP).
    StopNode,
    /// The node crashes.
    CrashNode,
    /// The node does not reach Redis.
    CutNode,
    /// The asker is stopped.
    StopAsker,
    /// The asker leaves, and comes back as a process that knows nobody.
    RestartAsker,
    /// The asker does not reach Redis.
    CutAsker,
    /// The asker and the node do not reach each other.
    CutMesh,
    /// The asker and Redis on one side, the node and the witness on the other.
    Split,
}

/// Where the search starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Redis is empty, and both nodes have just started.
    Cold,
    /// The asker has been up for long, and the node has just started.
    NewNode,
    /// Both have been up for long and know each other; the node owns nothing yet.
    Warm,
    /// The node has a socket: joined, claimed and acknowledged.
    Serving,
    /// It has one, and lost Redis: everybody has acknowledged that it is not whole.
    CutOff,
}

/// How far the search goes. Within a bound it is exhaustive.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// The faults that may strike…
    pub faults: &'static [Fault],
    /// …and how many in one run. Each is followed by every order of everything else.
    pub strikes: u8,
    /// Sockets that join the room, one at a time. The second one finds what the first one left.
    pub joins: u8,
    /// Incarnations of the node. The second one succeeds a retired one, the third one a successor.
    pub incarnations: u8,
    pub start: Start,
    /// Whether the other Redis process may fall behind at any moment, or at the start only.
    pub lags_any_time: bool,
    /// Whether what is cut off is connected again.
    pub heals: bool,
    /// Whether there is a third node, which owns nothing and can tell the asker what it heard.
    pub witness: bool,
    /// Whether Redis may fail back to a process before any node has entered the one between.
    pub fails_back_unseen: bool,
}

impl Rules {
    pub const ALL: Self = Self { left_out: &[] };

    pub const fn without(left_out: &'static [Rule]) -> Self {
        Self { left_out }
    }

    pub fn has(self, rule: Rule) -> bool {
        !self.left_out.contains(&rule)
    }
}

impl Bound {
    /// Whether the asker's lease can lapse.
    pub fn asker_may_lapse(&self) -> bool {
        self.faults.iter().any(|fault| matches!(fault, Fault::StopAsker | Fault::CutAsker))
    }
}
