//! The rules of a roll call as a state machine, searched exhaustively within stated bounds.
//!
//! The model has one room, a node with sockets in it, a coordinator that runs a roll call, an optional witness, and a
//! Redis that can lose data. Owns the promises, the bounds, and for each rule the shortest run in which a promise
//! breaks without it. The parts are in [`node`], [`coordinator`], [`redis`] and [`state`], the switches in [`rules`].
//! `ROLLCALL_THOROUGH` widens the bounds. Contains no code of Rollcall: it checks the rules, not their implementation.

mod coordinator;
mod node;
mod redis;
mod rules;
mod state;

use std::collections::BTreeSet;
use std::env;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::coordinator::Answer;
use crate::rules::{Bound, Fault, Rule, Rules, Start};
use crate::state::{Action, CallState, ORDINARY, State};

const NO_GAPS: &str = "a complete answer misses no socket";
const NO_GHOSTS: &str = "no socket is listed after it left";
const NO_DUPLICATES: &str = "no socket is listed twice";
const ASKED: &str = "no member dies that would answer";
const LISTED: &str = "a complete answer lists the socket";
const SKIPPED: &str = "a complete answer skips the node";
const RECOVERED: &str = "a new epoch is trusted";
const INCOMPLETE: &str = "an answer that may miss a socket is incomplete";

struct RollCallModel {
    rules: Rules,
    bound: Bound,
}

impl Model for RollCallModel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::start(&self.bound, self.rules)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        // An answer changes nothing else, so no state after it needs a search: the same run without this roll call is
        // searched too.
        if answer(state).is_none() {
            actions.extend(ORDINARY);
            actions.extend(self.bound.faults.iter().map(|fault| Action::Inject(*fault)));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut next = *last;
        let taken = next.step(action, &self.bound, self.rules);
        (taken && next != *last).then_some(next)
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.node.incarnation <= self.bound.incarnations
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NO_GAPS, |_, state| !answer(state).is_some_and(|answer| answer.misses)),
            Property::always(NO_GHOSTS, |_, state| !answer(state).is_some_and(|answer| answer.ghost)),
            Property::always(NO_DUPLICATES, |_, state| !answer(state).is_some_and(|answer| answer.duplicate)),
            // A node that stops, or a mesh that heals, may answer after it was asked.
            Property::always(ASKED, |model: &Self, state: &State| {
                model.bound.faults != [Fault::CutNode] || !state.coordinator.removed_reachable
            }),
            Property::sometimes(LISTED, |_, state| {
                answer(state).is_some_and(|answer| answer.complete && answer.listed > 0)
            }),
            Property::sometimes(SKIPPED, |_, state| {
                answer(state).is_some_and(|answer| answer.complete && answer.skipped)
            }),
            Property::sometimes(RECOVERED, |_, state: &State| {
                let trusted = state.coordinator.fully_indexed_in.is_some()
                    && state.coordinator.fully_indexed_in == state.node.epoch;
                let again = state.node.incarnation > 1 && trusted;
                again && answer(state).is_some_and(|answer| answer.complete && answer.listed > 0)
            }),
            Property::sometimes(INCOMPLETE, |_, state| answer(state).is_some_and(|answer| !answer.complete)),
        ]
    }
}

fn answer(state: &State) -> Option<Answer> {
    match state.call {
        CallState::Answered(answer) => Some(answer),
        CallState::None | CallState::Running(_) => None,
    }
}

/// The other bounds differ from this one. A gap needs one socket. With one fault, every order of later actions is
/// searched. With two incarnations, one replaces a retired one.
const BASE: Bound = Bound {
    start: Start::Serving,
    faults: &[],
    max_faults: 1,
    joins: 1,
    incarnations: 2,
    heals: true,
    lags_any_time: false,
    witness: false,
    fails_back_unseen: false,
};

/// Every fault once, and joining and leaving with two sockets.
const SMALL: &[Bound] = &[
    Bound { start: Start::Cold, ..BASE },
    Bound { start: Start::Warm, joins: 2, ..BASE },
    Bound { joins: 2, faults: &[Fault::CrashNode], ..BASE },
    Bound { start: Start::Warm, faults: &[Fault::NoAnswer], ..BASE },
    Bound { faults: &[Fault::Flush], ..BASE },
    Bound { faults: &[Fault::FailOver], ..BASE },
    Bound { faults: &[Fault::GoBack], ..BASE },
    Bound { start: Start::Warm, faults: &[Fault::GoBack], ..BASE },
    Bound { faults: &[Fault::ClockStep], ..BASE },
    Bound { faults: &[Fault::FarClockStep], ..BASE },
    Bound { faults: &[Fault::UnansweredRemovalElsewhere], ..BASE },
    Bound { faults: &[Fault::StopNode], ..BASE },
    Bound { faults: &[Fault::CutNode], ..BASE },
    Bound { start: Start::Warm, faults: &[Fault::StopCoordinator], ..BASE },
    Bound { start: Start::Warm, faults: &[Fault::RestartCoordinator], ..BASE },
    Bound { faults: &[Fault::CutCoordinator], ..BASE },
    Bound { start: Start::Warm, faults: &[Fault::CutMesh], ..BASE },
    Bound { witness: true, faults: &[Fault::RestartCoordinator], ..BASE },
    Bound { faults: &[Fault::Lie], ..BASE },
];

/// Two faults in one run, three incarnations, a witness, and a replica that may fall behind at any moment.
const THOROUGH: &[Bound] = &[
    Bound { start: Start::Cold, faults: &[Fault::Flush], ..BASE },
    Bound { start: Start::NewNode, faults: &[Fault::Flush], ..BASE },
    Bound { start: Start::Warm, joins: 2, faults: &[Fault::NoAnswer], ..BASE },
    Bound { start: Start::Warm, faults: &[Fault::FailOver], lags_any_time: true, ..BASE },
    Bound { joins: 2, faults: &[Fault::StopNode], ..BASE },
    Bound { max_faults: 2, faults: &[Fault::CutMesh, Fault::StopNode], ..BASE },
    Bound { max_faults: 2, faults: &[Fault::CutMesh, Fault::UnansweredRemovalElsewhere], ..BASE },
    Bound { max_faults: 2, faults: &[Fault::CutMesh, Fault::Flush], ..BASE },
    Bound { max_faults: 2, faults: &[Fault::CutCoordinator, Fault::NoAnswer], start: Start::Warm, ..BASE },
    Bound { max_faults: 2, faults: &[Fault::RestartCoordinator, Fault::Flush], ..BASE },
    Bound { max_faults: 2, faults: &[Fault::UnansweredRemovalElsewhere], incarnations: 3, ..BASE },
    Bound { max_faults: 2, faults: &[Fault::FailOver], ..BASE },
    Bound { max_faults: 2, faults: &[Fault::Lie, Fault::StopNode], ..BASE },
    Bound { max_faults: 2, faults: &[Fault::FailOver], fails_back_unseen: true, ..BASE },
    Bound { start: Start::Warm, faults: &[Fault::GoBack], lags_any_time: true, ..BASE },
    Bound { max_faults: 2, faults: &[Fault::GoBack, Fault::ClockStep], ..BASE },
    Bound { max_faults: 2, faults: &[Fault::CutMesh, Fault::ClockStep], ..BASE },
    Bound { witness: true, faults: &[Fault::StopNode], ..BASE },
    Bound { start: Start::CutOff, witness: true, faults: &[Fault::RestartCoordinator], ..BASE },
];

/// Searches all states within the bound. Returns their number, and the goals that were reached.
fn assert_promises(rules: Rules, bound: Bound) -> (usize, BTreeSet<&'static str>) {
    let began = Instant::now();
    let checker =
        RollCallModel { rules, bound }.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!("{:>8} states in {:>6.1?} with {rules:?}, {bound:?}", checker.unique_state_count(), began.elapsed());
    for promise in [NO_GAPS, NO_GHOSTS, NO_DUPLICATES, ASKED] {
        if let Some(path) = checker.discovery(promise) {
            panic!("broken: {promise}: {:?}", path.into_actions());
        }
    }
    assert!(checker.is_done(), "the search was not exhaustive");
    (checker.unique_state_count(), checker.discoveries().into_keys().collect())
}

fn search(bounds: &[Bound]) -> usize {
    let mut states = 0;
    let mut found = BTreeSet::new();
    for bound in bounds {
        let (more, goals) = assert_promises(Rules::ALL, *bound);
        states += more;
        found.extend(goals);
    }
    println!("{states} states");
    assert_eq!(found, BTreeSet::from([LISTED, SKIPPED, RECOVERED, INCOMPLETE]), "a goal was not reached");
    states
}

#[test]
fn with_all_rules_the_promises_hold() {
    assert!(search(SMALL) > 100_000);
    if env::var_os("ROLLCALL_THOROUGH").is_some() {
        assert!(search(THOROUGH) > 1_000_000);
    }
}

/// Finds the shortest run in which the promise is broken.
fn assert_broken(rules: Rules, promise: &'static str, bound: Bound) {
    let finish = HasDiscoveries::AnyOf(BTreeSet::from([promise]));
    let checker = RollCallModel { rules, bound }.checker().finish_when(finish).spawn_bfs().join();
    let path = checker.discovery(promise).map(|path| path.into_actions());
    let states = checker.unique_state_count();
    let Some(actions) = path else { panic!("no counterexample within this bound, after {states} states") };
    println!("{rules:?}: broken: {promise}; {} steps, {states} states: {actions:?}", actions.len());
}

macro_rules! broken_without {
    ($($name:ident: $rule:ident, $promise:ident, { $($bound:tt)* };)*) => {$(
        #[test]
        fn $name() {
            assert_broken(Rules::without(&[Rule::$rule]), $promise, Bound { $($bound)* ..BASE });
        }
    )*};
}

broken_without! {
    an_owner_added_after_the_owners_were_read_is_missed: TableBeforeOwners, NO_GAPS,
        { start: Start::Warm, faults: &[Fault::NoAnswer], };
    a_flush_between_epoch_and_owners_is_missed: OwnersBeforeEpoch, NO_GAPS, { faults: &[Fault::Flush], };
    a_lagging_replica_is_mistaken_for_the_index: EpochNamesProcess, NO_GAPS,
        { faults: &[Fault::FailOver], };
    a_process_with_older_data_is_mistaken_for_the_index: EpochNamesHistory, NO_GAPS,
        { start: Start::Warm, faults: &[Fault::GoBack], };
    an_unseen_failover_and_failback_are_not_noticed: EpochNamesHistory, NO_GAPS,
        { faults: &[Fault::FailOver], max_faults: 2, fails_back_unseen: true, };
    a_clock_step_removes_claims_and_not_the_epoch: EpochExpiresFirst, NO_GAPS, { faults: &[Fault::FarClockStep], };
    a_clock_step_makes_a_living_node_dead: StepEndsSteadiness, NO_GAPS,
        { faults: &[Fault::ClockStep, Fault::CutMesh], max_faults: 2, };
    a_node_that_is_not_fully_indexed_is_skipped: SkipOnlyFullyIndexed, NO_GAPS,
        { start: Start::Warm, faults: &[Fault::NoAnswer], };
    a_room_counts_as_owned_while_its_removal_is_in_flight: UnownedBeforeRemoval, NO_GAPS,
        { joins: 2, };
    a_late_removal_removes_a_newer_owner_entry: UnansweredRemovalRetires, NO_GAPS,
        { joins: 2, faults: &[Fault::NoAnswer], };
    a_removal_overtakes_an_addition: OneCommandPerRoom, NO_GAPS, { start: Start::Warm, joins: 2, };
    a_client_is_acknowledged_before_any_member_can_find_it: AckNeedsOwnershipOrStatus, NO_GAPS, { start: Start::Warm, };
    a_node_with_an_unowned_room_calls_itself_fully_indexed: UnownedAckIsTracked, NO_GAPS,
        { start: Start::Warm, faults: &[Fault::NoAnswer], };
    a_resumed_node_acknowledges_without_a_renewed_lease: AcksAreRecent, NO_GAPS, { faults: &[Fault::StopNode], };
    a_new_incarnation_is_unknown_after_a_flush: Birth, NO_GAPS, { start: Start::NewNode, faults: &[Fault::Flush], };
    a_birth_by_time_without_a_renewal_is_unknown: BirthByRenewal, NO_GAPS,
        { start: Start::NewNode, faults: &[Fault::Flush], };
    a_new_node_has_read_the_list_of_a_young_index: SettledBeforeStatusAck, NO_GAPS,
        { start: Start::NewNode, faults: &[Fault::Flush], };
    a_revived_lease_has_lost_its_owner_entries: LapsedStaysLapsed, NO_GAPS,
        { joins: 2, faults: &[Fault::StopNode], };
    owner_entries_are_removed_before_new_ones_exist: RetiredUntilFullyIndexed, NO_GAPS,
        { faults: &[Fault::UnansweredRemovalElsewhere], };
    a_silent_node_is_dead_while_redis_is_unreadable: NoDeathWhileUnreadable, NO_GAPS,
        { start: Start::Warm, faults: &[Fault::CutCoordinator, Fault::NoAnswer], max_faults: 2, };
    a_flush_makes_living_nodes_dead: SteadyBeforeDeath, NO_GAPS,
        { faults: &[Fault::Flush, Fault::CutMesh], max_faults: 2, };
    a_flush_during_the_judgement_makes_a_node_dead: JudgedInSteadyIndex, NO_GAPS,
        { faults: &[Fault::Flush, Fault::CutMesh], max_faults: 2, };
    a_process_dies_with_its_first_incarnation: DeathIsPerProcess, NO_GAPS,
        { faults: &[Fault::UnansweredRemovalElsewhere, Fault::CutMesh], max_faults: 2, };
    a_node_that_lost_redis_is_dead_while_it_sends_statuses: HeardIsAlive, NO_GAPS,
        { faults: &[Fault::CutNode, Fault::CutMesh], max_faults: 2, };
    one_cut_off_coordinator_makes_a_node_dead: WitnessesAreAsked, NO_GAPS,
        { witness: true, faults: &[Fault::CutNode, Fault::CutMesh], max_faults: 2, };
    a_node_that_lost_its_lease_is_dead_unasked: ProbedBeforeDeath, ASKED, { faults: &[Fault::CutNode], };
    a_lie_removes_a_living_node: HearsayOnlyAdds, NO_GAPS, { faults: &[Fault::Lie], };
    owner_entries_of_a_living_process_are_removed: RepairOnlyDead, NO_GAPS,
        { faults: &[Fault::StopNode], };
    an_inactive_node_keeps_its_clients: DisconnectsWithoutMajority, NO_GAPS,
        { faults: &[Fault::CutNode, Fault::CutMesh], max_faults: 2, };
    a_new_coordinator_does_not_know_all_members: SyncedBeforeComplete, NO_GAPS,
        { start: Start::CutOff, heals: false, witness: true, faults: &[Fault::RestartCoordinator], };
    an_coordinator_was_introduced_too_early: SyncedWhenSettled, NO_GAPS,
        { start: Start::CutOff, heals: false, witness: true, faults: &[Fault::RestartCoordinator], };
    the_list_of_a_young_index_is_empty: SettledBeforeComplete, NO_GAPS,
        { start: Start::Cold, faults: &[Fault::Flush], };
    a_status_is_older_than_the_lease_of_its_receiver: StatusesEndWithLease, NO_GAPS,
        { start: Start::Warm, faults: &[Fault::CutCoordinator, Fault::NoAnswer], max_faults: 2, };
    the_index_lists_sockets_of_dead_nodes: OnlyVouchedRows, NO_GHOSTS, { faults: &[Fault::CrashNode], };
    a_caller_gets_a_reply_that_is_older_than_its_question: AnswersBeginAfterQuestion, NO_GAPS, { joins: 2, };
    two_incarnations_give_two_snapshots: OneSnapshotPerProcess, NO_DUPLICATES, { faults: &[Fault::UnansweredRemovalElsewhere], };
}

/// A coordinator that had no lease for a while must settle again, which hides an old table. So both rules are left out
/// here.
#[test]
fn an_old_table_lacks_newer_members() {
    let bound = Bound { start: Start::NewNode, faults: &[Fault::StopCoordinator], ..BASE };
    assert_broken(Rules::without(&[Rule::SettledBeforeComplete, Rule::TableIsFresh]), NO_GAPS, bound);
    assert_promises(Rules::without(&[Rule::SettledBeforeComplete]), bound);
}

/// No history repeats, so an abandoned index never becomes valid again. Nodes of earlier versions compare the process only,
/// which can be the same again. So both rules are left out here.
#[test]
fn an_abandoned_index_becomes_valid_again() {
    let bound = Bound { faults: &[Fault::FailOver], max_faults: 2, ..BASE };
    assert_broken(Rules::without(&[Rule::EpochNamesHistory, Rule::ForeignEpochIsInvalid]), NO_GAPS, bound);
    assert_promises(Rules::without(&[Rule::ForeignEpochIsInvalid]), Bound { max_faults: 1, ..bound });
}

/// An incarnation that lost its lease never comes back, so a late removal causes no gap. The script checks the lease
/// nevertheless: the check is cheap, and does not depend on another rule.
#[test]
fn a_repair_may_skip_the_lease_check_if_lapsed_leases_stay_so() {
    let bound = Bound { faults: &[Fault::StopNode], ..BASE };
    assert_promises(Rules::without(&[Rule::RepairOnlyWithoutLease]), bound);
}

/// If the coordinator reaches Redis and the others have the majority, both sides stay active: neither outvotes the
/// other.
#[test]
fn a_minority_with_redis_misses_a_majority_without_it() {
    assert_broken(Rules::ALL, NO_GAPS, Bound { witness: true, faults: &[Fault::Split], ..BASE });
}
