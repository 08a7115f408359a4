//! The rules of a roll call, each with a switch, and the bounds of the search.
//!
//! Owns the parameters of a check: the rules in force, the possible faults and their number. Owns no behaviour: the
//! other modules ask whether a rule is in force.

/// One rule. Each has a counterexample when it is left out; `main.rs` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The member table is copied before the owner set is read.
    TableBeforeOwners,
    /// The owner set is read before the epoch.
    OwnersBeforeEpoch,
    /// The epoch names the Redis process that it was read from, or rather (see the next rule) the history of its data.
    EpochNamesProcess,
    /// The epoch names the history of the data: another one begins with each promotion, also of the same process.
    EpochNamesHistory,
    /// The epoch expires before any lease and any owner set.
    EpochExpiresFirst,
    /// After a step of the clock of Redis, a missing lease is no evidence until the index was the same for a lease.
    StepEndsSteadiness,
    /// An epoch that was created in another history is invalid for readers, and is replaced at the next
    /// registration.
    ForeignEpochIsInvalid,
    /// A member is skipped only if its last status is "fully indexed" in the epoch that was read.
    SkipOnlyFullyIndexed,
    /// A table older than half a lease lets no member be skipped or considered dead.
    TableIsFresh,
    /// A room is unowned before the removal of its owner entry is sent.
    UnownedBeforeRemoval,
    /// A removal without an answer retires the incarnation.
    UnansweredRemovalRetires,
    /// The next command of a room waits for the answer to the previous one.
    OneCommandPerRoom,
    /// A client is acknowledged if the room is owned, or if every member has acknowledged "not fully indexed".
    AckNeedsOwnershipOrStatus,
    /// A room that is unowned while the node is not fully indexed must be owned before that status ends.
    UnownedAckIsTracked,
    /// An acknowledgement, and an active node, need a confirmation of a message sent less than a lease ago.
    AcksAreRecent,
    /// A node that is not fully indexed acknowledges clients only after it has read the list of an epoch that was the
    /// same for a lease.
    SettledBeforeStatusAck,
    /// The first socket of an incarnation waits until the members of a list read after the registration know the
    /// incarnation.
    Birth,
    /// Instead, a lease after the registration, a confirmed renewal sent then is enough.
    BirthByRenewal,
    /// A lapsed lease is never revived.
    LapsedStaysLapsed,
    /// The entries of a retired incarnation are removed only when the next one is fully indexed.
    RetiredUntilFullyIndexed,
    /// While Redis cannot be read, no member is considered dead.
    NoDeathWhileUnreadable,
    /// A missing lease is evidence only in an epoch that was the same for a lease.
    SteadyBeforeDeath,
    /// The epoch in which a silent node has no lease is the steady one.
    JudgedInSteadyIndex,
    /// A process is dead, not an incarnation: no successor has a lease either.
    DeathIsPerProcess,
    /// A member that was heard within a lease is alive, whatever the index says.
    HeardIsAlive,
    /// Before a death, every member with a lease was asked whether it heard the silent one.
    WitnessesAreAsked,
    /// Before a death, the silent node itself was asked over the mesh, and did not answer.
    ProbedBeforeDeath,
    /// A statement about another node may only add nodes to ask and keep members alive. It removes none.
    HearsayOnlyAdds,
    /// Only entries of dead nodes, and of replaced incarnations, are repaired.
    RepairOnlyDead,
    /// The repair checks the lease in the script that removes the entry.
    RepairOnlyWithoutLease,
    /// A node without a lease and without a majority disconnects its clients.
    DisconnectsWithoutMajority,
    /// An answer is complete only if every known member has sent its status to the coordinator.
    SyncedBeforeComplete,
    /// These statuses came after the coordinator settled (see the next rule): earlier ones may contain members that
    /// have left.
    SyncedWhenSettled,
    /// An answer is complete only after the coordinator has read the list of an epoch that was the same for a lease,
    /// and has had a lease ever since. After a flush the list is empty, and a node that starts then knows no other.
    SettledBeforeComplete,
    /// A coordinator that was without a lease needs new statuses: other members may have considered it dead.
    StatusesEndWithLease,
    /// Only the node that owns a socket can add it to an answer.
    OnlyVouchedRows,
    /// A process that was asked under two incarnations has one snapshot.
    OneSnapshotPerProcess,
    /// A caller gets the answer of a roll call that begins after its question, and joins none that has begun.
    AnswersBeginAfterQuestion,
}

/// The rules in force.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    left_out: &'static [Rule],
}

/// Recovery needs no fault, and may always happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Redis loses its data and continues.
    Flush,
    /// The other Redis process takes over, with the content of an earlier moment.
    FailOver,
    /// The Redis process gets the content of an earlier moment. Connections stay.
    GoBack,
    /// The clock of Redis steps forward by half a lease.
    ClockStep,
    /// The clock of Redis steps past every expiry.
    FarClockStep,
    /// The removal of an owner entry of another room gets no answer.
    UnansweredRemovalElsewhere,
    /// A command of the node gets no answer in time. It may still run later.
    NoAnswer,
    /// The node is stopped (`SIGSTOP`).
    StopNode,
    CrashNode,
    /// The node loses Redis.
    CutNode,
    /// The coordinator is stopped.
    StopCoordinator,
    /// The coordinator leaves, and starts again as a process that knows no member.
    RestartCoordinator,
    /// The coordinator loses Redis.
    CutCoordinator,
    /// The coordinator and the node lose each other.
    CutMesh,
    /// The coordinator and Redis are on one side, the node and the witness on the other.
    Split,
    /// A member that lies says that the node is alive, or that it has said goodbye.
    Lie,
}

/// The first state of the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Redis is empty, and both nodes have just started.
    Cold,
    /// The coordinator has run for long, and the node has just started.
    NewNode,
    /// Both have run for long and know each other; the node owns no room.
    Warm,
    /// The node has a socket that joined, is owned and was acknowledged.
    Serving,
    /// The node has a socket, and lost Redis: every member has acknowledged that it is not fully indexed.
    CutOff,
}

/// The limits of the search. Within a bound it is exhaustive.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// The possible faults.
    pub faults: &'static [Fault],
    /// The number of faults in one run. Every order of all other actions may follow each fault.
    pub max_faults: u8,
    /// Sockets that join the room, one at a time. The second one finds the leftovers of the first one.
    pub joins: u8,
    /// Incarnations of the node. The second one replaces a retired one, the third one a successor.
    pub incarnations: u8,
    pub start: Start,
    /// Whether the other Redis process may fall behind at any moment, or only at the start.
    pub lags_any_time: bool,
    /// Whether lost connections can recover.
    pub heals: bool,
    /// Whether there is a third node, which has no sockets and can report to the coordinator whom it heard.
    pub witness: bool,
    /// Whether Redis may fail back to a process before any node has registered under the other one.
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
    /// Whether there is a copy of older data.
    pub fn has_replica(&self) -> bool {
        self.faults.iter().any(|fault| matches!(fault, Fault::FailOver | Fault::GoBack))
    }

    /// Whether the coordinator's lease can lapse.
    pub fn coordinator_may_lapse(&self) -> bool {
        self.faults.iter().any(|fault| matches!(fault, Fault::StopCoordinator | Fault::CutCoordinator))
    }
}
