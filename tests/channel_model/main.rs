//! The interleavings of threads at the channel between them, and proof that the check would notice what it is for.
//!
//! ```text
//!                          ┌─ faithful        every scenario holds
//!   queue.rs, scenarios ───┼─ deaf_receiver   the receiver is never woken: found
//!                          └─ deaf_senders    senders that wait are never woken: found
//! ```
//!
//! Each of the three compiles the product's own source, against loom's lock and its own functions that wake. loom executes a
//! scenario once for each order in which its threads can take locks (where there are three threads: with at most three
//! interruptions), and fails if in one of them all that are left wait.
#![allow(clippy::disallowed_methods, clippy::duplicate_mod, clippy::unwrap_used)]

mod deaf_receiver;
mod deaf_senders;
mod explore;
mod faithful;
mod looms;

use explore::{Mutant, explore, explore_most, finds_lost_wakes};
use faithful::scenarios;

#[test]
fn every_message_arrives_once_and_in_the_order_of_its_sender() {
    explore_most("two senders", scenarios::two_senders);
    explore_most("one goes beyond", scenarios::one_goes_beyond);
}

#[test]
fn who_waits_gets_the_room_that_is_made() {
    explore("room is made", scenarios::room_is_made);
    explore_most("first come", scenarios::first_come_first_served);
    explore_most("room for two", scenarios::room_for_two);
    explore(
        "a sender moves to another task",
        scenarios::a_sender_moves_to_another_task,
    );
}

#[test]
fn who_gives_up_passes_the_room_on() {
    explore_most(
        "gives up while room is made",
        scenarios::gives_up_while_room_is_made,
    );
    explore_most(
        "gives up what held up others",
        scenarios::gives_up_what_held_up_others,
    );
}

#[test]
fn a_receiver_that_is_gone_lets_nobody_wait() {
    explore("the receiver goes", scenarios::the_receiver_goes);
}

#[test]
fn senders_that_are_gone_let_the_receiver_go_on() {
    explore("the senders go", scenarios::the_senders_go);
    explore("the last sender sends", scenarios::the_last_sender_sends);
}

#[test]
fn a_receiver_that_gave_up_finds_all_when_it_comes_back() {
    explore("the receiver comes back", scenarios::the_receiver_comes_back);
}

#[test]
fn what_is_queued_stays_within_its_bytes() {
    explore_most("bytes", scenarios::bytes);
}

#[test]
fn a_receiver_that_is_not_woken_is_found() {
    use deaf_receiver::scenarios;
    let with_a_receiver_that_waits: Mutant = &[
        ("two senders", scenarios::two_senders),
        ("one goes beyond", scenarios::one_goes_beyond),
        ("the senders go", scenarios::the_senders_go),
        ("the last sender sends", scenarios::the_last_sender_sends),
        ("the receiver comes back", scenarios::the_receiver_comes_back),
    ];
    finds_lost_wakes(
        "a_receiver_that_is_not_woken_is_found",
        with_a_receiver_that_waits,
    );
}

#[test]
fn a_sender_that_is_not_woken_is_found() {
    use deaf_senders::scenarios;
    let with_a_sender_that_waits: Mutant = &[
        ("two senders", scenarios::two_senders),
        ("room is made", scenarios::room_is_made),
        ("room for two", scenarios::room_for_two),
        (
            "a sender moves to another task",
            scenarios::a_sender_moves_to_another_task,
        ),
        (
            "gives up while room is made",
            scenarios::gives_up_while_room_is_made,
        ),
        (
            "gives up what held up others",
            scenarios::gives_up_what_held_up_others,
        ),
        ("the receiver goes", scenarios::the_receiver_goes),
        ("bytes", scenarios::bytes),
    ];
    finds_lost_wakes("a_sender_that_is_not_woken_is_found", with_a_sender_that_waits);
}
