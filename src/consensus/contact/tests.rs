use futures_util::FutureExt;
use openraft::impls::leader_id_std::LeaderId;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(1);

fn at(millis: u64) -> Instant {
    Instant::from_nanos(millis * 1_000_000)
}

fn vote(term: u64) -> Vote {
    Vote {
        leader_id: LeaderId { term, voted_for: 7 },
        committed: true,
    }
}

fn names_leader(contact: &LeaderContact, term: u64, now: u64) -> bool {
    contact.time_left(term, at(now)).is_some()
}

/// Lets time pass in steps, as the status task does.
fn pass(contact: &LeaderContact, from: u64, to: u64) {
    (from..=to).step_by(250).for_each(|now| contact.look(at(now)));
}

#[test]
fn a_leader_that_is_silent_for_an_election_timeout_is_none() {
    let contact = LeaderContact::new(at(0), TIMEOUT);
    assert!(!names_leader(&contact, 3, 0), "nobody was heard yet");
    contact.hear(&vote(3), at(0));
    pass(&contact, 0, 750);
    assert_eq!(contact.time_left(3, at(999)), Some(Duration::from_millis(1)));
    assert!(!names_leader(&contact, 3, 1_000));
    contact.hear(&vote(3), at(1_100));
    assert!(names_leader(&contact, 3, 1_100));
}

#[test]
fn only_the_leader_of_the_term_counts() {
    let contact = LeaderContact::new(at(0), TIMEOUT);
    contact.hear(&vote(3), at(0));
    assert!(!names_leader(&contact, 4, 0), "that one has not been heard");
    contact.hear(&vote(5), at(100));
    pass(&contact, 100, 850);
    contact.hear(&vote(3), at(900));
    assert!(
        !names_leader(&contact, 5, 1_100),
        "one whose term is over says nothing"
    );
    assert!(!names_leader(&contact, 3, 1_100));
}

/// It has stood still itself: what came meanwhile has not been read yet.
#[test]
fn a_pause_of_this_process_is_not_the_leaders_silence() {
    let contact = LeaderContact::new(at(0), TIMEOUT);
    contact.hear(&vote(3), at(0));
    contact.look(at(250));
    contact.look(at(60_000));
    assert!(names_leader(&contact, 3, 60_000));
    pass(&contact, 60_250, 60_500);
    assert!(!names_leader(&contact, 3, 60_500));
}

#[test]
fn who_follows_is_told_of_a_leader_that_is_heard_again_and_of_no_more() {
    let contact = LeaderContact::new(at(0), TIMEOUT);
    let mut regained = contact.regained();
    let mut told = || regained.changed().now_or_never().is_some();
    contact.hear(&vote(3), at(0));
    assert!(told());
    contact.hear(&vote(3), at(100));
    assert!(!told());
    pass(&contact, 100, 1_350);
    contact.hear(&vote(3), at(1_400));
    assert!(told());
    contact.hear(&vote(4), at(1_450));
    assert!(told(), "another leader");
}
