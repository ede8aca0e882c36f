use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::base::kv::Batch;
use crate::state::tests::Maps;

const ONE: Proposer = (7, 1);

/// A state and its store, which may be opened again at any time.
struct Machine {
    state: State,
    store: Maps,
    index: u64,
}

impl Machine {
    fn new() -> Machine {
        Machine {
            state: State::empty(0),
            store: Maps::default(),
            index: 0,
        }
    }

    fn take(&mut self, proposer: Proposer, floor: u64, numbers: &[u64]) -> Vec<Turn> {
        self.index += 1;
        let mut pending = Pending::new(&self.store);
        let numbers = numbers.iter().copied();
        let turns = self
            .state
            .take_turns(self.index, proposer, floor, numbers, &mut pending);
        self.store.write(pending.into_batch());
        turns
    }

    fn reopened(&self) -> BTreeMap<Proposer, Session> {
        let mut state = State::empty(0);
        state.load_sessions(&self.store).expect("just written");
        state.sessions
    }
}

#[test]
fn a_command_has_one_turn_until_it_is_given_up() {
    let mut machine = Machine::new();
    assert_eq!(machine.take(ONE, 1, &[1, 2, 4]), [Turn::First; 3]);
    assert_eq!(
        machine.take(ONE, 1, &[2, 3, 4]),
        [Turn::Again, Turn::First, Turn::Again]
    );
    assert_eq!(machine.take(ONE, 6, &[7]), [Turn::First]);
    // Its floor has risen meanwhile.
    assert_eq!(
        machine.take(ONE, 1, &[4, 5, 6]),
        [Turn::Late, Turn::Late, Turn::First]
    );
    assert_eq!(machine.take((8, 1), 1, &[4]), [Turn::First], "another member's");
    assert_eq!(
        machine.take((7, 2), 1, &[4]),
        [Turn::First],
        "another incarnation's"
    );
}

#[test]
fn a_row_is_as_drawn() {
    let mut machine = Machine::new();
    machine.take(ONE, 2, &[2, 3, 9]);
    let row = machine.store.get(Space::Meta, &row_key(ONE));
    let row = row.expect("readable").expect("just written");
    let numbers: Vec<u64> = row[1..]
        .chunks(8)
        .map(|number| u64::from_le_bytes(number.try_into().expect("eight bytes")))
        .collect();
    assert_eq!((row[0], numbers), (VERSION, vec![1, 2, 2, 3, 9, 9]));
}

#[test]
fn the_oldest_incarnations_are_forgotten() {
    let mut machine = Machine::new();
    // Their numbers are drawn, so the order of the numbers is none of age.
    for incarnation in [9, 3, 5, 1, 7, 4] {
        machine.take((7, incarnation), 1, &[1]);
    }
    machine.take((8, 9), 1, &[1]);
    let known: Vec<Proposer> = machine.state.sessions.keys().copied().collect();
    assert_eq!(known, [(7, 1), (7, 4), (7, 5), (7, 7), (8, 9)]);
    assert_eq!(machine.reopened(), machine.state.sessions);
}

/// What is remembered is part of the state: a member that forgot it would differ from the others, and be noticed.
#[test]
fn a_reopened_state_knows_whose_turn_was_taken() {
    let mut machine = Machine::new();
    machine.take(ONE, 1, &[1, 2]);
    let mut pending = Pending::new(&machine.store);
    machine.state.seal(&mut pending);
    machine.store.write(pending.into_batch());
    let mut reopened = State::open(&machine.store).expect("just written");
    assert_eq!(reopened.sessions, machine.state.sessions);
    let (mut ours, mut theirs) = (Pending::new(&machine.store), Pending::new(&machine.store));
    let again = [2, 3].into_iter();
    let turns = reopened.take_turns(2, ONE, 1, again.clone(), &mut ours);
    assert_eq!(turns, [Turn::Again, Turn::First]);
    assert_ne!(reopened.digest(), machine.state.digest());
    machine.state.take_turns(2, ONE, 1, again, &mut theirs);
    assert_eq!(reopened.digest(), machine.state.digest());
}

#[test]
fn a_malformed_row_is_damage() {
    let mut machine = Machine::new();
    machine.take(ONE, 1, &[1]);
    for bad in [&b""[..], b"\x02", b"\x01\0\0", &[1; 20]] {
        let mut row = Batch::default();
        row.put(Space::Meta, row_key(ONE), Bytes::copy_from_slice(bad));
        machine.store.write(row);
        let loaded = State::empty(0).load_sessions(&machine.store);
        assert!(loaded.is_err(), "{bad:?}");
    }
}

proptest! {
    /// Against a set that forgets nothing.
    #[test]
    fn turns_are_those_of_a_set(
        batches in prop::collection::vec((0..12u64, prop::collection::vec(0..30u64, 0..6)), 1..30),
    ) {
        let mut machine = Machine::new();
        let (mut applied, mut floor) = (BTreeSet::new(), 0);
        for (least, numbers) in batches {
            floor = floor.max(least);
            let turns = machine.take(ONE, least, &numbers);
            let expected: Vec<Turn> = numbers
                .iter()
                .map(|number| match applied.insert(*number) {
                    _ if *number < floor => Turn::Late,
                    true => Turn::First,
                    false => Turn::Again,
                })
                .collect();
            prop_assert_eq!(turns, expected);
            prop_assert_eq!(machine.reopened(), machine.state.sessions.clone());
        }
    }
}
