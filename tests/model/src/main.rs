//! The rules of "Whom to ask" as a state machine, searched exhaustively within stated bounds.
//!
//! One room; a node whose socket is looked for, an asker that calls the roll, where wanted a witness, and a Redis that
//! forgets. Owns the promises, the bounds, and for each rule the run in which a promise breaks without it. The parts
//! are in [`node`], [`asker`], [`redis`] and [`state`], the switches in [`rules`]. `ROLLCALL_THOROUGH` widens the
//! bounds. Owns no code of Rollcall: it is the rules that are checked here, not what is made of them.

mod asker;
mod node;
mod redis;
mod rules;
mod state;

use std::collections::BTreeSet;
use std::env;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::asker::Answer;
use crate::rules::{Bound, Fault, Rule, Rules, Start};
use crate::state::{Action, ORDINARY, RollCall, State};

const NOTHING_IS_HIDDEN: &str = "a complete answer misses nobody";
const NO_GHOSTS: &str = "nobody is listed who was gone";
const NOBODY_TWICE: &str = "nobody is listed twice";
const LISTS: &str = "a complete answer lists the socket";
const SKIPS: &str = "a complete answer is had without asking the node";
const HEALS: &str = "a new index is believed";
const SAYS_SO: &str = "an answer that may miss somebody says so";

struct Rollcall {
    rules: Rules,
    bound: Bound,
}

impl Model for Rollcall {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::start(&self.bound, self.rules)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        // An answer is judged and then of no consequence: the same run without this roll call is searched, too.
        if answer(state).is_none() {
            actions.extend(ORDINARY);
            actions.extend(self.bound.faults.iter().map(|fault| Action::Strike(*fault)));
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
            Property::always(NOTHING_IS_HIDDEN, |_, state| !answer(state).is_some_and(|answer| answer.misses)),
            Property::always(NO_GHOSTS, |_, state| !answer(state).is_some_and(|answer| answer.ghost)),
            Property::always(NOBODY_TWICE, |_, state| !answer(state).is_some_and(|answer| answer.doubled)),
            Property::sometimes(LISTS, |_, state| {
                answer(state).is_some_and(|answer| answer.complete && answer.listed > 0)
            }),
            Property::sometimes(SKIPS, |_, state| {
                answer(state).is_some_and(|answer| answer.complete && answer.skipped)
            }),
            Property::sometimes(HEALS, |_, state: &State| {
                let believed = state.asker.word.is_some() && state.asker.word == state.node.index;
                let anew = state.node.incarnation > 1 && believed;
                anew && answer(state).is_some_and(|answer| answer.complete && answer.listed > 0)
            }),
            Property::sometimes(SAYS_SO, |_, state| answer(state).is_some_and(|answer| !answer.complete)),
        ]
    }
}

fn answer(state: &State) -> Option<Answer> {
    match state.call {
        RollCall::Answered(answer) => Some(answer),
        RollCall::None | RollCall::UnderWay(_) => None,
    }
}

/// What the bounds below differ from. One socket is the least that can be missed; one fault, then every order of what
/// can follow; the second incarnation is the one that succeeds a retired one.
const BASE: Bound = Bound {
    start: Start::Serving,
    faults: &[],
    strikes: 1,
    joins: 1,
    incarnations: 2,
    heals: true,
    lags_any_time: false,
    witness: false,
    fails_back_unseen: false,
};

/// Every fault once, and the way into the room and out of it with two sockets.
const SMALL: &[Bound] = &[
    Bound { start: Start::Cold, ..BASE },
    Bound { start: Start::Warm, joins: 2, ..BASE },
    Bound { joins: 2, faults: &[Fault::CrashNode], ..BASE },
    Bound { start: Start::Warm, faults: &[Fault::NoAnswer], ..BASE },
    Bound { faults: &[Fault::Flush], ..BASE },
    Bound { faults: &[Fault::FailOver], ..BASE },
    Bound { faults: &[Fault::LostRemovalElsewhere], ..BASE },
    Bound { faults: &[Fault::StopNode], ..BASE },
    Bound { faults: &[Fault::CutNode], ..BASE },
    Bound { start: Start::Warm, faults: &[Fault::StopAsker], ..BASE },
    Bound { start: Start::Warm, faults: &[Fault::RestartAsker], ..BASE },
    Bound { faults: &[Fault::CutAsker], ..BASE },
    Bound { start: Start::Warm, faults: &[Fault::CutMesh], ..BASE },
    Bound { witness: true, faults: &[Fault::RestartAsker], ..BASE },
];

/// Two faults in one run, three incarnations, a witness, a replica that may fall behind at any moment.
const THOROUGH: &[Bound] = &[
    Bound { start: Start::Cold, faults: &[Fault::Flush], ..BASE },
    Bound { start: Start::NewNode, faults: &[Fault::Flush], ..BASE },
    Bound { start: Start::Warm, joins: 2, faults: &[Fault::NoAnswer], ..BASE },
    Bound { start: Start::Warm, faults: &[Fault::FailOver], lags_any_time: true, ..BASE },
    Bound { joins: 2, faults: &[Fault::StopNode], ..BASE },
    Bound { strikes: 2, faults: &[Fault::CutMesh, Fault::StopNode], ..BASE },
    Bound { strikes: 2, faults: &[Fault::CutMesh, Fault::LostRemovalElsewhere], ..BASE },
    Bound { strikes: 2, faults: &[Fault::CutMesh, Fault::Flush], ..BASE },
    Bound { strikes: 2, faults: &[Fault::CutAsker, Fault::NoAnswer], start: Start::Warm, ..BASE },
    Bound { strikes: 2, faults: &[Fault::RestartAsker, Fault::Flush], ..BASE },
    Bound { strikes: 2, faults: &[Fault::LostRemovalElsewhere], incarnations: 3, ..BASE },
    Bound { strikes: 2, faults: &[Fault::FailOver], ..BASE },
    Bound { witness: true, faults: &[Fault::StopNode], ..BASE },
    Bound { start: Start::CutOff, witness: true, faults: &[Fault::RestartAsker], ..BASE },
];

/// Searches everything within the bound, and returns how many states there are and which good things can happen.
fn holds(rules: Rules, bound: Bound) -> (usize, BTreeSet<&'static str>) {
    let began = Instant::now();
    let checker =
        Rollcall { rules, bound }.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!("{:>8} states in {:>6.1?} with {rules:?}, {bound:?}", checker.unique_state_count(), began.elapsed());
    for promise in [NOTHING_IS_HIDDEN, NO_GHOSTS, NOBODY_TWICE] {
        if let Some(path) = checker.discovery(promise) {
            panic!("not so that {promise}: {:?}", path.into_actions());
        }
    }
    assert!(checker.is_done(), "the search was not exhaustive");
    (checker.unique_state_count(), checker.discoveries().into_keys().collect())
}

fn search(bounds: &[Bound]) -> usize {
    let mut states = 0;
    let mut found = BTreeSet::new();
    for bound in bounds {
        let (more, things) = holds(Rules::ALL, *bound);
        states += more;
        found.extend(things);
    }
    println!("{states} states");
    assert_eq!(found, BTreeSet::from([LISTS, SKIPS, HEALS, SAYS_SO]), "the model does less than it should");
    states
}

#[test]
fn with_every_rule_in_force_the_promises_hold() {
    assert!(search(SMALL) > 100_000);
    if env::var_os("ROLLCALL_THOROUGH").is_some() {
        assert!(search(THOROUGH) > 1_000_000);
    }
}

/// Finds the shortest run in which the promise is broken.
fn breaks(rules: Rules, promise: &'static str, bound: Bound) {
    let finish = HasDiscoveries::AnyOf(BTreeSet::from([promise]));
    let checker = Rollcall { rules, bound }.checker().finish_when(finish).spawn_bfs().join();
    let path = checker.discovery(promise).map(|path| path.into_actions());
    let states = checker.unique_state_count();
    let Some(actions) = path else { panic!("not needed within this bound, after {states} states") };
    println!("{rules:?}: not so that {promise}, {} steps, {states} states: {actions:?}", actions.len());
}

macro_rules! without_it {
    ($($name:ident: $rule:ident, $promise:ident, { $($bound:tt)* };)*) => {$(
        #[test]
        fn $name() {
            breaks(Rules::without(&[Rule::$rule]), $promise, Bound { $($bound)* ..BASE });
        }
    )*};
}

without_it! {
    a_claim_between_owners_and_table_is_missed: TableBeforeOwners, NOTHING_IS_HIDDEN,
        { start: Start::Warm, faults: &[Fault::NoAnswer], };
    a_flush_between_epoch_and_owners_is_missed: OwnersBeforeEpoch, NOTHING_IS_HIDDEN, { faults: &[Fault::Flush], };
    a_replica_that_lags_is_taken_for_the_index: EpochNamesItsProcess, NOTHING_IS_HIDDEN,
        { faults: &[Fault::FailOver], };
    an_index_that_was_left_comes_back: EpochNeverComesBack, NOTHING_IS_HIDDEN,
        { faults: &[Fault::FailOver], strikes: 2, };
    a_node_that_is_not_whole_is_skipped: SkippedOnlyWhenWhole, NOTHING_IS_HIDDEN,
        { start: Start::Warm, faults: &[Fault::NoAnswer], };
    a_room_is_thought_claimed_while_its_removal_is_under_way: UnclaimedBeforeRemoval, NOTHING_IS_HIDDEN,
        { joins: 2, };
    a_late_removal_takes_a_newer_claim: LostRemovalRetires, NOTHING_IS_HIDDEN,
        { joins: 2, faults: &[Fault::NoAnswer], };
    a_removal_overtakes_a_claim: OneCommandPerRoom, NOTHING_IS_HIDDEN, { start: Start::Warm, joins: 2, };
    a_client_is_told_before_anybody_knows: AckRestsOnClaimOrWord, NOTHING_IS_HIDDEN, { start: Start::Warm, };
    a_node_is_whole_without_a_claim: UnclaimedIsOwed, NOTHING_IS_HIDDEN,
        { start: Start::Warm, faults: &[Fault::NoAnswer], };
    a_stopped_node_goes_on_as_if_nothing_had_been: AcksAreRecent, NOTHING_IS_HIDDEN, { faults: &[Fault::StopNode], };
    a_newborn_is_unknown_after_a_flush: Birth, NOTHING_IS_HIDDEN, { start: Start::NewNode, faults: &[Fault::Flush], };
    time_alone_makes_nobody_known: BirthByRenewal, NOTHING_IS_HIDDEN,
        { start: Start::NewNode, faults: &[Fault::Flush], };
    a_newcomer_has_read_the_list_of_a_young_index: SettledBeforeWord, NOTHING_IS_HIDDEN,
        { start: Start::NewNode, faults: &[Fault::Flush], };
    a_revived_lease_has_lost_its_claims: LapsedStaysLapsed, NOTHING_IS_HIDDEN,
        { joins: 2, faults: &[Fault::StopNode], };
    claims_go_before_their_successors_come: AbandonedUntilWhole, NOTHING_IS_HIDDEN,
        { faults: &[Fault::LostRemovalElsewhere], };
    silence_and_no_redis_are_taken_for_death: UnreadableKillsNobody, NOTHING_IS_HIDDEN,
        { start: Start::Warm, faults: &[Fault::CutAsker, Fault::NoAnswer], strikes: 2, };
    everybody_dies_in_a_flush: SteadyBeforeDeath, NOTHING_IS_HIDDEN, { faults: &[Fault::Flush], };
    a_flush_under_the_judge_kills: JudgedInTheSteadyIndex, NOTHING_IS_HIDDEN,
        { faults: &[Fault::Flush, Fault::CutMesh], strikes: 2, };
    a_process_is_buried_with_its_first_incarnation: DeathIsOfAProcess, NOTHING_IS_HIDDEN,
        { faults: &[Fault::LostRemovalElsewhere, Fault::CutMesh], strikes: 2, };
    a_node_without_redis_is_dead_while_it_talks: HeardIsAlive, NOTHING_IS_HIDDEN, { faults: &[Fault::CutNode], };
    one_deaf_asker_kills: WitnessesAreHeard, NOTHING_IS_HIDDEN,
        { witness: true, faults: &[Fault::CutNode, Fault::CutMesh], strikes: 2, };
    claims_of_a_living_process_are_repaired_away: RepairOnlyTheDead, NOTHING_IS_HIDDEN,
        { faults: &[Fault::StopNode], };
    a_node_that_nobody_counts_keeps_its_clients: LetsGoWithoutMajority, NOTHING_IS_HIDDEN,
        { faults: &[Fault::CutNode], };
    a_new_asker_has_not_heard_of_everybody: IntroducedBeforeComplete, NOTHING_IS_HIDDEN,
        { start: Start::CutOff, heals: false, witness: true, faults: &[Fault::RestartAsker], };
    an_asker_was_introduced_too_early: IntroducedWhenSettled, NOTHING_IS_HIDDEN,
        { start: Start::CutOff, heals: false, witness: true, faults: &[Fault::RestartAsker], };
    a_young_index_lists_nobody: SettledBeforeComplete, NOTHING_IS_HIDDEN,
        { start: Start::Cold, faults: &[Fault::Flush], };
    a_word_is_older_than_the_lease_of_who_heard_it: WordsEndWithTheLease, NOTHING_IS_HIDDEN,
        { start: Start::Warm, faults: &[Fault::CutAsker, Fault::NoAnswer], strikes: 2, };
    the_index_remembers_ghosts: OnlyVouchedRows, NO_GHOSTS, { faults: &[Fault::CrashNode], };
    two_incarnations_give_two_parts: OnePartPerProcess, NOBODY_TWICE, { faults: &[Fault::LostRemovalElsewhere], };
}

/// An asker that was away for a lease has to settle anew, which hides an old table: both rules are left out here.
#[test]
fn an_old_table_does_not_know_who_came_since() {
    let bound = Bound { start: Start::NewNode, faults: &[Fault::StopAsker], ..BASE };
    breaks(Rules::without(&[Rule::SettledBeforeComplete, Rule::TableIsFresh]), NOTHING_IS_HIDDEN, bound);
    holds(Rules::without(&[Rule::SettledBeforeComplete]), bound);
}

/// An incarnation that lost its lease never comes back, so what is removed late is not missed. The script looks all
/// the same: it costs nothing, and does not lean on another rule.
#[test]
fn a_repair_need_not_look_again_while_a_lapsed_lease_stays_lapsed() {
    let bound = Bound { faults: &[Fault::StopNode], ..BASE };
    holds(Rules::without(&[Rule::RepairOnlyWithoutLease]), bound);
}

/// Where the asker keeps Redis and the others keep the majority, both sides go on: the lease outvotes nobody.
#[test]
fn a_majority_without_redis_is_not_seen_by_a_minority_with_it() {
    breaks(Rules::ALL, NOTHING_IS_HIDDEN, Bound { witness: true, faults: &[Fault::Split], ..BASE });
}

/// The value of E and the `run_id` are those of before: only the failovers would tell, and nobody saw them.
#[test]
fn a_failover_and_back_that_no_node_saw_is_not_noticed() {
    let bound = Bound { faults: &[Fault::FailOver], strikes: 2, fails_back_unseen: true, ..BASE };
    breaks(Rules::ALL, NOTHING_IS_HIDDEN, bound);
}
