use bytes::Bytes;
use futures_util::FutureExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::command::decode;
use super::*;
use crate::proto::command::command::Request;
use crate::proto::etcdserverpb as pb;
use crate::runtime::channel::{Answered, answer};
use crate::state::Answer;

const MEMBER: MemberId = 7;
const NOW: Instant = Instant::from_nanos(0);
const LATER: Instant = Instant::from_nanos(1);

type Outcomes = Answered<Result<Outcome, Denied>>;

fn proposals() -> Proposals {
    Proposals::new(MEMBER, 1).0
}

fn push_bytes(proposals: &Proposals, command: u64, bytes: usize, only_in_term: Option<u64>) -> Outcomes {
    let (answer, answered) = answer();
    let put = Request::Put(pb::PutRequest {
        key: Bytes::copy_from_slice(&command.to_le_bytes()),
        value: vec![0; bytes].into(),
        ..Default::default()
    });
    let proposal = Proposal {
        needs_space: false,
        command: EncodedCommand::new(None, put).expect("it can be applied"),
        only_in_term,
        answer,
    };
    proposals.push(proposal, LATER, 1);
    answered
}

fn push(proposals: &Proposals, command: u64, only_in_term: Option<u64>) -> Outcomes {
    push_bytes(proposals, command, 0, only_in_term)
}

/// The answer, if there is one.
fn end(outcomes: &mut Outcomes) -> Option<Result<Outcome, Denied>> {
    outcomes.now_or_never().map(|end| end.expect("it was answered"))
}

fn commands(batch: &Batch) -> impl Iterator<Item = u64> + '_ {
    let number = |(_, bytes): (u64, Bytes)| match decode(&bytes) {
        Ok((_, Request::Put(put))) => u64::from_le_bytes(put.key[..].try_into().expect("eight bytes")),
        other => panic!("{other:?}"),
    };
    batch.commands().map(number)
}

/// The outcome of a command carries its number.
fn outcomes(batch: &Batch) -> Vec<Outcome> {
    let outcome = |number| Outcome {
        unread: Default::default(),
        answer: Ok(Answer::Empty),
        revision: number as i64,
        events: Vec::new(),
    };
    commands(batch).map(outcome).collect()
}

fn apply(proposals: &Proposals, term: u64, batches: &[&Batch]) {
    let replies = proposals.applied(term, batches.iter().map(|batch| (batch.name(), outcomes(batch))));
    replies
        .0
        .into_iter()
        .for_each(|(answer, outcome)| answer.send(Ok(outcome)));
}

fn revision(outcomes: &mut Outcomes) -> Option<i64> {
    end(outcomes).map(|end| end.expect("it was applied").revision)
}

#[test]
fn a_batch_that_is_applied_with_an_entry_of_a_later_term_is_not_offered_again() {
    let proposals = proposals();
    let mut landed = push(&proposals, 1, None);
    let first = proposals.next_batch(2, Level::NEWEST).expect("a batch");
    let mut stale = push(&proposals, 2, None);
    let second = proposals.next_batch(2, Level::NEWEST).expect("a batch");
    // Both were offered in term 2; the log holds the first, and then an entry of term 3.
    apply(&proposals, 3, &[&first]);
    assert_eq!(revision(&mut landed), Some(1));
    let again = proposals
        .next_batch(3, Level::NEWEST)
        .expect("what is left is offered again");
    assert_eq!(commands(&again).collect::<Vec<_>>(), [2]);
    // Whatever is said of the old flight now is said too late.
    proposals.refused(second.name().sequence);
    proposals.abandon(second.name().sequence, Denied::TimeoutConnectionLost);
    assert!(proposals.next_batch(3, Level::NEWEST).is_none());
    apply(&proposals, 3, &[&again]);
    assert_eq!(revision(&mut stale), Some(2));
}

#[test]
fn nothing_is_offered_in_a_term_that_is_settled() {
    let proposals = proposals();
    let _waiting = push(&proposals, 1, None);
    apply(&proposals, 5, &[]);
    assert!(proposals.next_batch(4, Level::NEWEST).is_none());
    assert!(proposals.next_batch(5, Level::NEWEST).is_some());
}

#[test]
fn what_is_under_way_when_a_snapshot_is_installed_is_unknown() {
    let proposals = proposals();
    let mut under_way = push(&proposals, 1, None);
    let batch = proposals.next_batch(2, Level::NEWEST).expect("a batch");
    let mut in_line = push(&proposals, 2, None);
    proposals.installed(4);
    let told = end(&mut under_way).expect("an answer");
    assert_eq!(told.map(drop), Err(Denied::TimeoutLeaderFailure));
    assert!(proposals.next_batch(3, Level::NEWEST).is_none(), "term 3 is over");
    let next = proposals
        .next_batch(4, Level::NEWEST)
        .expect("what was in line is offered");
    assert_eq!(commands(&next).collect::<Vec<_>>(), [2]);
    apply(&proposals, 4, &[&batch, &next]);
    assert_eq!(revision(&mut in_line), Some(2));
}

#[test]
fn a_proposal_of_one_term_ends_with_it() {
    let proposals = proposals();
    let mut first = push(&proposals, 1, Some(2));
    proposals.next_batch(2, Level::NEWEST).expect("a batch");
    let mut second = push(&proposals, 2, Some(2));
    apply(&proposals, 3, &[]);
    assert!(proposals.next_batch(3, Level::NEWEST).is_none());
    for waiting in [&mut first, &mut second] {
        let told = end(waiting).expect("an answer");
        assert_eq!(told.map(drop), Err(Denied::NotLeader));
    }
}

#[test]
fn it_is_known_what_was_never_offered() {
    let offered = |proposals: &Proposals| {
        let late = proposals.take_late(LATER);
        let offered: Vec<bool> = late.into_iter().map(|late| late.offered).collect();
        offered
    };
    let proposals = proposals();
    let waiting = push(&proposals, 1, None);
    assert_eq!(proposals.next_deadline(), Some(LATER));
    assert!(proposals.take_late(NOW).is_empty());
    assert_eq!(offered(&proposals), [false]);
    assert_eq!(proposals.next_deadline(), None);
    assert!(
        proposals.next_batch(2, Level::NEWEST).is_none(),
        "what is late is left out"
    );
    drop(waiting);
    // It may be in a log, and stays so, refused or not.
    let _waiting = push(&proposals, 2, None);
    let batch = proposals.next_batch(2, Level::NEWEST).expect("a batch");
    proposals.refused(batch.name().sequence);
    assert_eq!(offered(&proposals), [true]);
    assert!(proposals.next_batch(2, Level::NEWEST).is_none());
    // Nobody waits for it any more.
    drop(push(&proposals, 3, None));
    assert!(proposals.next_batch(2, Level::NEWEST).is_none());
    assert!(offered(&proposals).is_empty());
}

#[test]
fn who_ran_out_of_time_leaves_a_batch_in_order() {
    let proposals = proposals();
    let _late = push(&proposals, 1, None);
    let batch = proposals.next_batch(2, Level::NEWEST).expect("a batch");
    proposals.refused(batch.name().sequence);
    let late = proposals.take_late(LATER);
    assert_eq!(late.len(), 1);
    let (mut a, mut b) = (push(&proposals, 2, None), push(&proposals, 3, None));
    let batch = proposals.next_batch(2, Level::NEWEST).expect("a batch");
    assert_eq!(commands(&batch).collect::<Vec<_>>(), [2, 3]);
    apply(&proposals, 2, &[&batch]);
    assert_eq!((revision(&mut a), revision(&mut b)), (Some(2), Some(3)));
}

#[test]
fn commands_that_wait_are_bounded_in_bytes() {
    const COMMAND: usize = limits::COMMAND_BYTES_MAX / 2;
    let proposals = proposals();
    let mut waiting = Vec::new();
    let refused = loop {
        let mut outcomes = push_bytes(&proposals, 1, COMMAND, None);
        if let Some(end) = end(&mut outcomes) {
            break end;
        }
        waiting.push(outcomes);
    };
    assert_eq!(refused.map(drop), Err(Denied::TooManyRequests));
    let full = limits::PROPOSALS_QUEUED_BYTES_MAX / COMMAND;
    assert!((full - 2..=full).contains(&waiting.len()), "{}", waiting.len());
    proposals.take_late(LATER);
    assert_eq!(proposals.inner().bytes, 0);
}

/// A log with one leader in each term, which takes what is offered in its term or never does.
#[derive(Default)]
struct Log {
    term: u64,
    entries: Vec<(u64, Option<Batch>)>,
    committed: usize,
    done: usize,
    /// How often each command was applied.
    applied: BTreeMap<u64, u32>,
    /// Batches on their way to the leader of a term.
    carried: VecDeque<(u64, Batch)>,
}

impl Log {
    /// Offers what is in line, in a term that may be over by now.
    fn propose(&mut self, proposals: &Proposals, behind: u64) {
        let term = self.term.saturating_sub(behind);
        if proposals.flights() < 4
            && let Some(batch) = proposals.next_batch(term, Level::NEWEST)
        {
            self.carried.push_back((term, batch));
        }
    }

    /// Appends a batch in its term; some are lost, or appended without anybody knowing.
    fn carry(&mut self, proposals: &Proposals, at: usize, fate: u32) {
        let Some((term, batch)) = self.carried.remove(at) else {
            return;
        };
        let sequence = batch.name().sequence;
        let taken = fate > 0 && self.term == term;
        if taken {
            self.entries.push((term, Some(batch)));
        }
        match (fate, taken) {
            (0 | 1, _) => proposals.abandon(sequence, Denied::TimeoutConnectionLost),
            (_, false) => proposals.refused(sequence),
            (_, true) => {}
        }
    }

    /// A new leader keeps what is committed, and some of the rest.
    fn elect(&mut self, rng: &mut StdRng) {
        self.term += 1;
        let kept = rng.random_range(self.committed..=self.entries.len());
        self.entries.truncate(kept);
        self.entries.push((self.term, None));
    }

    /// Commits what there is, and applies it in one piece.
    fn apply(&mut self, proposals: &Proposals) {
        self.committed = self.entries.len();
        let entries = &self.entries[self.done..];
        let Some((last, _)) = entries.last() else {
            return;
        };
        let batches: Vec<&Batch> = entries.iter().filter_map(|(_, batch)| batch.as_ref()).collect();
        for command in batches.iter().copied().flat_map(commands) {
            *self.applied.entry(command).or_default() += 1;
        }
        apply(proposals, *last, &batches);
        self.done = self.entries.len();
    }
}

/// Turns of those who elect, apply, carry and propose, in every order that dice give.
#[test]
fn whoever_has_the_next_turn_no_command_is_applied_twice() {
    const COMMANDS: u64 = 20_000;
    let (proposals, mut log) = (proposals(), Log::default());
    let mut rng = StdRng::seed_from_u64(1);
    let mut waiting: VecDeque<(u64, Outcomes)> = VecDeque::new();
    let (mut next, mut acknowledged) = (0, Vec::new());
    while next < COMMANDS || !waiting.is_empty() {
        match rng.random_range(0..100) {
            0..40 if next < COMMANDS && waiting.len() < 24 => {
                waiting.push_back((next, push(&proposals, next, None)));
                next += 1;
            }
            0..60 => log.propose(&proposals, rng.random_range(0..2)),
            60..80 => log.carry(&proposals, rng.random_range(0..4), rng.random_range(0..32)),
            80..97 => log.apply(&proposals),
            _ => log.elect(&mut rng),
        }
        waiting.retain_mut(|(command, outcomes)| match end(outcomes) {
            None => true,
            Some(Ok(outcome)) => {
                assert_eq!(
                    outcome.revision, *command as i64,
                    "the outcome is the command's own"
                );
                acknowledged.push(*command);
                false
            }
            Some(Err(denied)) => {
                assert!(denied.may_have_happened(), "{denied}");
                false
            }
        });
    }
    let twice: Vec<_> = log
        .applied
        .iter()
        .filter(|(_, times)| **times > 1)
        .take(5)
        .collect();
    assert!(twice.is_empty(), "applied more than once: {twice:?}");
    let is_lost = |command: &&u64| !log.applied.contains_key(command);
    let lost: Vec<_> = acknowledged.iter().filter(is_lost).collect();
    assert!(lost.is_empty(), "acknowledged and not applied: {lost:?}");
    assert!(
        log.term > 100,
        "only {} terms: nothing was offered again",
        log.term
    );
}

#[test]
fn what_lies_above_the_clusters_level_is_not_offered() {
    let proposals = proposals();
    let (answer, mut answered) = answer();
    let put = EncodedCommand::new(None, Request::Put(pb::PutRequest::default())).expect("it can be applied");
    let proposal = Proposal {
        needs_space: false,
        command: put.at_level(Level(9)),
        only_in_term: None,
        answer,
    };
    proposals.push(proposal, LATER, 1);
    let mut other = push(&proposals, 1, None);
    let batch = proposals.next_batch(1, Level(8)).expect("the other is offered");
    assert_eq!(commands(&batch).collect::<Vec<_>>(), [1]);
    assert_eq!(batch.level(), Level::FIRST);
    assert_eq!(end(&mut answered), Some(Err(Denied::UnreadableCommand)));
    assert_eq!(end(&mut other), None);
}
