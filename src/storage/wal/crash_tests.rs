//! Any sequence of verbs, any crash point, any torn tail: what was acknowledged is there, whole and in
//! order; what was not is there as a prefix of what was asked for.
//!
//! Each case has a few lives. In a life the verbs are issued (some awaited, some not), the power fails after
//! some number of steps of the disk, and the log is opened again on what reached the platter. What is found
//! must be the model after some number of verbs: at least those acknowledged, at most those issued.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::{Either, select};
use proptest::prelude::*;

use super::tests::{id, options, record, start};
use super::*;
use crate::storage::fake_disk::{self, FakeDisk};

#[derive(Clone, Debug)]
enum Verb {
    /// Entries of these lengths; `new_term` raises the term first.
    Append {
        lengths: Vec<usize>,
        new_term: bool,
    },
    Vote,
    Committed,
    /// Keep this share of what is not purged, in 1/256.
    Truncate(u8),
    /// Purge this share, in 1/256.
    Purge(u8),
    /// Purge beyond the end, as an installed snapshot does.
    Install(u8),
}

#[derive(Clone, Debug)]
struct Life {
    /// Each verb, and whether it is awaited before the next.
    verbs: Vec<(Verb, bool)>,
    steps: u64,
    /// The process was killed, the power stayed: the page cache survives.
    killed: bool,
    power: u64,
}

fn any_verb() -> impl Strategy<Value = Verb> {
    let lengths = prop::collection::vec(prop_oneof![8 => 0..30usize, 1 => 100..900usize], 1..6);
    prop_oneof![
        8 => (lengths, prop::bool::weighted(0.2)).prop_map(|(lengths, new_term)| Verb::Append { lengths, new_term }),
        2 => Just(Verb::Vote),
        1 => Just(Verb::Committed),
        1 => any::<u8>().prop_map(Verb::Truncate),
        2 => any::<u8>().prop_map(Verb::Purge),
        1 => any::<u8>().prop_map(Verb::Install),
    ]
}

fn any_life() -> impl Strategy<Value = Life> {
    let verbs = prop::collection::vec((any_verb(), any::<bool>()), 0..25);
    let steps = prop_oneof![1 => 0..30u64, 3 => 0..200u64];
    let life = (verbs, steps, any::<bool>(), any::<u64>());
    life.prop_map(|(verbs, steps, killed, power)| Life {
        verbs,
        steps,
        killed,
        power,
    })
}

/// What the log should hold.
#[derive(Clone, PartialEq, Debug, Default)]
struct Model {
    entries: Vec<LogRecord>,
    vote: Option<Bytes>,
    purged: Option<LogId>,
    last: Option<LogId>,
}

/// What becomes durable as one.
#[derive(Clone, Debug)]
enum Unit {
    Entry(LogRecord),
    Vote(Bytes),
    Truncate(Option<LogId>),
    Purge(LogId),
    Reset(LogId),
}

impl Model {
    fn apply(&mut self, unit: &Unit) {
        match unit {
            Unit::Entry(record) => {
                self.entries.push(record.clone());
                self.last = Some(record.id());
            }
            Unit::Vote(vote) => self.vote = Some(vote.clone()),
            Unit::Truncate(end) => {
                self.entries
                    .retain(|entry| end.is_some_and(|end| entry.index <= end.index));
                self.last = *end;
            }
            Unit::Purge(upto) => {
                self.entries.retain(|entry| entry.index > upto.index);
                self.purged = Some(*upto);
            }
            Unit::Reset(upto) => {
                self.entries.clear();
                (self.purged, self.last) = (Some(*upto), Some(*upto));
            }
        }
    }

    fn next_index(&self) -> u64 {
        self.last.map_or(0, |last| last.index + 1)
    }
}

/// The test's side of one life.
struct Driver {
    env: Env,
    wal: Wal,
    /// After everything that was issued.
    model: Model,
    issued: Vec<Unit>,
    /// How many of the issued are acknowledged.
    acknowledged: Arc<AtomicUsize>,
    term: u64,
    votes: u64,
    /// What is committed is never truncated.
    committed: u64,
}

impl Driver {
    fn issue(&mut self, verb: &Verb) -> Option<Durable> {
        let at = |share: &u8, count: usize| count * usize::from(*share) / 256;
        let (units, durable) = match verb {
            Verb::Append { lengths, new_term } => {
                self.term += u64::from(*new_term);
                let next = self.model.next_index();
                let numbered = lengths.iter().zip(next..);
                let records: Vec<_> = numbered
                    .map(|(length, index)| record(self.term, index, *length))
                    .collect();
                let units = records.iter().cloned().map(Unit::Entry).collect();
                (units, self.wal.append(records))
            }
            Verb::Vote => {
                self.votes += 1;
                let vote = Bytes::from(format!("vote {}", self.votes));
                (vec![Unit::Vote(vote.clone())], self.wal.save_vote(vote))
            }
            Verb::Committed => {
                let last = self.model.last?;
                self.committed = last.index;
                self.wal.save_committed(last);
                return None;
            }
            Verb::Truncate(share) => {
                let committed = |entry: &&LogRecord| entry.index <= self.committed;
                let committed = self.model.entries.iter().filter(committed).count();
                let kept = at(share, self.model.entries.len()).max(committed);
                let end = match kept.checked_sub(1) {
                    Some(newest) => Some(self.model.entries[newest].id()),
                    None => self.model.purged,
                };
                self.term += 1;
                (vec![Unit::Truncate(end)], self.wal.truncate_after(end))
            }
            Verb::Purge(share) => {
                let upto = self.model.entries.get(at(share, self.model.entries.len()))?.id();
                (vec![Unit::Purge(upto)], self.wal.purge(upto))
            }
            Verb::Install(ahead) => {
                self.term += 1;
                let upto = id(self.term, self.model.next_index() + u64::from(*ahead));
                (vec![Unit::Reset(upto)], self.wal.purge(upto))
            }
        };
        units.iter().for_each(|unit| self.model.apply(unit));
        self.issued.extend(units);
        Some(durable)
    }

    async fn run(&mut self, verbs: &[(Verb, bool)]) {
        let mut waiting = Vec::new();
        for (verb, wait) in verbs {
            let Some(durable) = self.issue(verb) else {
                continue;
            };
            let (count, acknowledged) = (self.issued.len(), self.acknowledged.clone());
            let done = self.env.spawn(async move {
                durable.await.expect("the disk only crashes");
                acknowledged.fetch_max(count, Ordering::Relaxed);
            });
            waiting.push(done);
            if *wait {
                waiting.pop().expect("just pushed").await.expect("does not panic");
            }
            let found = self.wal.read(0, u64::MAX, None).await.expect("intact");
            assert_eq!(found, self.model.entries, "read in the same life");
        }
        for done in waiting {
            done.await.expect("does not panic");
        }
        self.wal.close().await;
    }
}

async fn open(disk: &FakeDisk) -> Wal {
    let env = fake_disk::env(disk);
    start(&env, Path::new("/wal"), options())
        .await
        .expect("a crash never makes a log unreadable")
}

async fn look(disk: &FakeDisk) -> Model {
    let wal = open(disk).await;
    let state = wal.state();
    let entries = wal.read(0, u64::MAX, None).await.expect("intact");
    let (vote, purged, last) = (state.vote, state.purged, state.last);
    if let Some(committed) = state.committed {
        let gone = purged.is_some_and(|purged| purged.index >= committed.index);
        assert!(
            gone || entries.iter().any(|entry| entry.id() == committed),
            "what is committed is in the log: {committed:?} in {entries:#?}"
        );
    }
    Model {
        entries,
        vote,
        purged,
        last,
    }
}

/// One life: returns what had been asked for and how much of it was acknowledged.
async fn live(disk: &FakeDisk, life: &Life, before: Model, number: u64) -> (Vec<Unit>, usize) {
    disk.crash_after(life.steps);
    let opening = Box::pin(open(disk));
    let wal = match select(opening, Box::pin(disk.crashed())).await {
        Either::Left((wal, _)) => wal,
        Either::Right(_) => return (Vec::new(), 0),
    };
    let term = before.last.map_or(0, |last| last.term) + 1;
    let committed = wal.state().committed.map_or(0, |committed| committed.index);
    let mut driver = Driver {
        env: fake_disk::env(disk),
        wal,
        model: before,
        issued: Vec::new(),
        acknowledged: Arc::default(),
        term,
        votes: number * 1000,
        committed,
    };
    let run = Box::pin(driver.run(&life.verbs));
    let _ = select(run, Box::pin(disk.crashed())).await;
    (driver.issued, driver.acknowledged.load(Ordering::Relaxed))
}

fn runtime() -> tokio::runtime::LocalRuntime {
    tokio::runtime::Builder::new_current_thread()
        .build_local(tokio::runtime::LocalOptions::default())
        .expect("no resources needed")
}

fn check_lives(lives: &[Life]) {
    let disk = FakeDisk::default();
    let mut model = Model::default();
    for (number, life) in (1..).zip(lives) {
        // Tasks end with their runtime, as a process's do.
        let (issued, acknowledged) = runtime().block_on(live(&disk, life, model.clone(), number));
        if life.killed {
            disk.restart();
        } else {
            disk.power_fail(life.power);
        }
        let found = runtime().block_on(look(&disk));
        // Whatever an open log shows is durable: raft acts on it.
        disk.power_fail(life.power + 1);
        assert_eq!(runtime().block_on(look(&disk)), found, "life {number}");
        let mut wanted = model.clone();
        issued[..acknowledged].iter().for_each(|unit| wanted.apply(unit));
        let first = wanted.clone();
        let mut rest = issued[acknowledged..].iter();
        while wanted != found {
            let Some(unit) = rest.next() else {
                panic!(
                    "life {number}: found {found:#?}\nwhich is nothing between {first:#?}\nand {wanted:#?}"
                );
            };
            wanted.apply(unit);
        }
        model = found;
    }
}

/// The committed entry of term 2 waits behind entries of term 1 that fill more than one group: no crash between the groups
/// leaves its mark over an entry of term 1.
#[test]
fn what_is_committed_is_marked_no_sooner_than_it_is_written() {
    let append = |count, new_term| Verb::Append {
        lengths: vec![29; count],
        new_term,
    };
    let verbs = [
        append(30, false),
        Verb::Truncate(0),
        append(2, true),
        Verb::Committed,
        Verb::Vote,
    ];
    for steps in 0..40 {
        let life = Life {
            verbs: verbs.iter().map(|verb| (verb.clone(), false)).collect(),
            steps,
            killed: false,
            power: steps,
        };
        check_lives(&[life]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn what_was_acknowledged_survives_any_crash(lives in prop::collection::vec(any_life(), 1..5)) {
        check_lives(&lives);
    }
}
