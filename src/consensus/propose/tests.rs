use std::collections::BTreeMap;
use std::sync::mpsc as std_mpsc;
use std::thread;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::consensus::command::decode;
use crate::proto::command::command::Request;
use crate::proto::etcdserverpb as pb;
use crate::state::Answer;

const MEMBER: MemberId = 7;
const NOW: Instant = Instant::from_nanos(0);
const LATER: Instant = Instant::from_nanos(1);

type Waiting = oneshot::Receiver<Result<Outcome, Denied>>;

fn proposals() -> Proposals {
    Proposals::new(MEMBER, 1).0
}

fn push(proposals: &Proposals, command: u64, only_in_term: Option<u64>) -> (Offered, Waiting) {
    let (answer, waiting) = oneshot::channel();
    let offered = Offered::default();
    let put = Request::Put(pb::PutRequest {
        key: Bytes::copy_from_slice(&command.to_le_bytes()),
        ..Default::default()
    });
    proposals.push(Proposal {
        needs_space: false,
        command: EncodedCommand::new(None, put).expect("it can be applied"),
        deadline: LATER,
        only_in_term,
        offered: offered.clone(),
        _charge: proposals.charge(size_of::<u64>()).expect("there is room"),
        answer,
    });
    (offered, waiting)
}

fn commands(batch: &Batch) -> impl Iterator<Item = u64> + '_ {
    let number = |bytes: &Bytes| match decode(bytes) {
        Ok((_, Request::Put(put))) => u64::from_le_bytes(put.key[..].try_into().expect("eight bytes")),
        other => panic!("{other:?}"),
    };
    batch.commands.iter().map(number)
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
    proposals.applied(
        term,
        batches.iter().map(|batch| ((*batch).clone(), outcomes(batch))),
    );
}

fn revision(waiting: &mut Waiting) -> Option<i64> {
    match waiting.try_recv() {
        Ok(Ok(outcome)) => Some(outcome.revision),
        Ok(Err(denied)) => panic!("{denied}"),
        Err(_) => None,
    }
}

#[test]
fn a_batch_that_is_applied_with_an_entry_of_a_later_term_is_not_offered_again() {
    let proposals = proposals();
    let (_, mut landed) = push(&proposals, 1, None);
    let first = proposals.next_batch(2, NOW).expect("a batch");
    let (_, mut stale) = push(&proposals, 2, None);
    let second = proposals.next_batch(2, NOW).expect("a batch");
    // Both were offered in term 2; the log holds the first, and then an entry of term 3.
    apply(&proposals, 3, &[&first]);
    assert_eq!(revision(&mut landed), Some(1));
    let again = proposals
        .next_batch(3, NOW)
        .expect("what is left is offered again");
    assert_eq!(commands(&again).collect::<Vec<_>>(), [2]);
    // Whatever is said of the old flight now is said too late.
    proposals.refused(second.sequence);
    proposals.abandon(second.sequence, Denied::TIMEOUT_CONNECTION_LOST);
    assert!(proposals.next_batch(3, NOW).is_none());
    apply(&proposals, 3, &[&again]);
    assert_eq!(revision(&mut stale), Some(2));
}

#[test]
fn nothing_is_offered_in_a_term_that_is_settled() {
    let proposals = proposals();
    let _waiting = push(&proposals, 1, None);
    apply(&proposals, 5, &[]);
    assert!(proposals.next_batch(4, NOW).is_none());
    assert!(proposals.next_batch(5, NOW).is_some());
}

#[test]
fn what_is_under_way_when_a_snapshot_is_installed_is_unknown() {
    let proposals = proposals();
    let (_, mut under_way) = push(&proposals, 1, None);
    let batch = proposals.next_batch(2, NOW).expect("a batch");
    let (_, mut in_line) = push(&proposals, 2, None);
    proposals.installed(4);
    let told = under_way.try_recv().expect("an answer");
    assert_eq!(told.map(drop), Err(Denied::TIMEOUT_LEADER_FAILURE));
    assert!(proposals.next_batch(3, NOW).is_none(), "term 3 is over");
    let next = proposals.next_batch(4, NOW).expect("what was in line is offered");
    assert_eq!(commands(&next).collect::<Vec<_>>(), [2]);
    apply(&proposals, 4, &[&batch, &next]);
    assert_eq!(revision(&mut in_line), Some(2));
}

#[test]
fn a_proposal_of_one_term_ends_with_it() {
    let proposals = proposals();
    let (_, mut first) = push(&proposals, 1, Some(2));
    proposals.next_batch(2, NOW).expect("a batch");
    let (_, mut second) = push(&proposals, 2, Some(2));
    apply(&proposals, 3, &[]);
    assert!(proposals.next_batch(3, NOW).is_none());
    for waiting in [&mut first, &mut second] {
        let told = waiting.try_recv().expect("an answer");
        assert_eq!(told.map(drop), Err(Denied::NOT_LEADER));
    }
}

#[test]
fn it_is_known_what_was_never_offered() {
    let proposals = proposals();
    let (offered, waiting) = push(&proposals, 1, None);
    // Its caller gives up first: it is left out.
    drop(waiting);
    assert!(!proposals.was_offered(&offered));
    assert!(proposals.next_batch(2, NOW).is_none());
    assert!(!proposals.was_offered(&offered));
    // The proposer is first: it may be in a log, and stays so, refused or not.
    let (offered, waiting) = push(&proposals, 2, None);
    let batch = proposals.next_batch(2, NOW).expect("a batch");
    drop(waiting);
    assert!(proposals.was_offered(&offered));
    proposals.refused(batch.sequence);
    assert!(proposals.was_offered(&offered));
    // One that is late is not offered, whether or not its caller knows that already.
    let (offered, _waiting) = push(&proposals, 3, None);
    assert!(proposals.next_batch(2, LATER).is_none());
    assert!(!proposals.was_offered(&offered));
}

#[test]
fn commands_that_wait_are_bounded_in_bytes() {
    let proposals = proposals();
    let large = limits::PROPOSALS_QUEUED_BYTES_MAX;
    let alone = proposals.charge(2 * large).expect("whatever is alone fits");
    assert!(proposals.charge(1).is_none());
    drop(alone);
    let half = proposals.charge(large / 2).expect("there is room");
    assert!(proposals.charge(large / 2 + 1).is_none());
    let other = proposals.charge(large / 2).expect("a refusal costs nothing");
    drop((half, other));
    assert_eq!(proposals.bytes.load(Ordering::Relaxed), 0);
}

/// A log with one leader in each term, which takes what is offered in its term or never does.
#[derive(Default)]
struct Log {
    term: u64,
    entries: Vec<(u64, Option<Batch>)>,
    committed: usize,
}

/// Real threads, and no time in them: one proposes, some carry batches to the leader, one elects leaders, one applies.
struct Rig {
    proposals: Proposals,
    log: Arc<Mutex<Log>>,
    over: Arc<AtomicBool>,
}

impl Rig {
    #[expect(clippy::disallowed_methods, reason = "several threads are what is tested")]
    fn spawn(
        &self,
        mut turn: impl FnMut(&Proposals, &Mutex<Log>) + Send + 'static,
    ) -> thread::JoinHandle<()> {
        let (proposals, log, over) = (self.proposals.clone(), self.log.clone(), self.over.clone());
        thread::spawn(move || {
            while !over.load(Ordering::SeqCst) {
                turn(&proposals, &log);
                thread::yield_now();
            }
        })
    }

    /// Offers what is in line, in a term that may be over, and has it carried.
    fn propose(&self, carried: std_mpsc::Sender<(u64, Batch)>) -> thread::JoinHandle<()> {
        self.spawn(move |proposals, log| {
            let term = log.lock().expect("no panic").term;
            thread::yield_now();
            if proposals.flights() < 4
                && let Some(batch) = proposals.next_batch(term, NOW)
            {
                let _ = carried.send((term, batch));
            }
        })
    }

    /// Appends a batch in its term; one in sixteen is lost or appended without anybody knowing.
    fn carry(
        &self,
        seed: u64,
        offered: Arc<Mutex<std_mpsc::Receiver<(u64, Batch)>>>,
    ) -> thread::JoinHandle<()> {
        let mut rng = StdRng::seed_from_u64(seed);
        self.spawn(move |proposals, log| {
            let Ok((term, batch)) = offered.lock().expect("no panic").try_recv() else {
                return;
            };
            let (sequence, fate) = (batch.sequence, rng.random_range(0..32));
            let append = |log: &mut Log| {
                let leads = log.term == term;
                if leads {
                    log.entries.push((term, Some(batch)));
                }
                leads
            };
            let taken = fate > 0 && append(&mut log.lock().expect("no panic"));
            match (fate, taken) {
                (0 | 1, _) => proposals.abandon(sequence, Denied::TIMEOUT_CONNECTION_LOST),
                (_, false) => proposals.refused(sequence),
                (_, true) => {}
            }
        })
    }

    /// A new leader keeps what is committed, and some of the rest.
    fn elect(&self, seed: u64) -> thread::JoinHandle<()> {
        let mut rng = StdRng::seed_from_u64(seed);
        self.spawn(move |_, log| {
            let mut log = log.lock().expect("no panic");
            log.term += 1;
            let kept = rng.random_range(log.committed..=log.entries.len());
            log.entries.truncate(kept);
            let term = log.term;
            log.entries.push((term, None));
            drop(log);
            for _ in 0..rng.random_range(0..20) {
                thread::yield_now();
            }
        })
    }

    /// Commits what there is, and applies it in one piece; counts how often each command was applied.
    fn apply(&self, applied: Arc<Mutex<BTreeMap<u64, u32>>>) -> thread::JoinHandle<()> {
        let mut done = 0;
        self.spawn(move |proposals, log| {
            let entries = {
                let mut log = log.lock().expect("no panic");
                log.committed = log.entries.len();
                log.entries[done..].to_vec()
            };
            let Some((last, _)) = entries.last().cloned() else {
                return;
            };
            done += entries.len();
            let batches: Vec<Batch> = entries.into_iter().filter_map(|(_, batch)| batch).collect();
            let mut applied = applied.lock().expect("no panic");
            for command in batches.iter().flat_map(commands) {
                *applied.entry(command).or_default() += 1;
            }
            drop(applied);
            apply(proposals, last, &batches.iter().collect::<Vec<_>>());
        })
    }
}

#[test]
fn threads_that_elect_apply_and_propose_never_apply_a_command_twice() {
    const COMMANDS: u64 = 20_000;
    const WAITING_MAX: usize = 24;
    let rig = Rig {
        proposals: proposals(),
        log: Arc::default(),
        over: Arc::default(),
    };
    let applied = Arc::<Mutex<BTreeMap<u64, u32>>>::default();
    let (carried, offered) = std_mpsc::channel();
    let offered = Arc::new(Mutex::new(offered));
    let threads = [
        rig.propose(carried),
        rig.carry(1, offered.clone()),
        rig.carry(2, offered),
        rig.elect(3),
        rig.apply(applied.clone()),
    ];
    let mut waiting = BTreeMap::new();
    for command in 0..COMMANDS {
        while rig.proposals.waiting() >= WAITING_MAX {
            thread::yield_now();
        }
        waiting.insert(command, push(&rig.proposals, command, None));
    }
    let mut acknowledged = Vec::new();
    for (command, (_, waiting)) in waiting {
        match waiting.blocking_recv().expect("every caller is answered") {
            Ok(outcome) => {
                assert_eq!(
                    outcome.revision, command as i64,
                    "the outcome is the command's own"
                );
                acknowledged.push(command);
            }
            Err(denied) => assert!(denied.may_have_happened(), "{denied}"),
        }
    }
    rig.over.store(true, Ordering::SeqCst);
    for thread in threads {
        thread.join().expect("no panic");
    }
    let applied = applied.lock().expect("no panic");
    let twice: Vec<_> = applied.iter().filter(|(_, times)| **times > 1).take(5).collect();
    assert!(twice.is_empty(), "applied more than once: {twice:?}");
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|command| !applied.contains_key(command))
        .collect();
    assert!(lost.is_empty(), "acknowledged and not applied: {lost:?}");
    let terms = rig.log.lock().expect("no panic").term;
    assert!(terms > 100, "only {terms} terms: nothing was offered again");
}
