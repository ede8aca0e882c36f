//! Sweeps in pieces, as a member makes them: with commands, crashes and damage in between.

use super::*;
use crate::base::effort;
use crate::base::kv::Change;

fn taken<T>(list: &mut Vec<T>, count: usize) -> Vec<T> {
    list.drain(..count.min(list.len())).collect()
}

impl Machine {
    /// One step of a sweep, of at most so many entries, rows or records; whether there is anything to sweep.
    fn sweep_step(&mut self, effort_max: usize) -> bool {
        if self.sweep.is_none() && self.swept.is_none() {
            self.sweep = self.state.begin_sweep();
        }
        if let Some(mut sweep) = self.sweep.take() {
            let spent = effort::spent();
            self.state.sweep_on(&mut sweep, effort_max).unwrap();
            assert!(effort::spent() - spent <= effort_max as u64);
            match sweep.is_complete() {
                true => self.swept = Some(sweep.finish(&self.store).unwrap()),
                false => self.sweep = Some(sweep),
            }
            return true;
        }
        let Some(mut swept) = self.swept.take() else {
            return false;
        };
        if self.write_step(&mut swept, effort_max) {
            self.swept = Some(swept);
        }
        true
    }

    /// Whether something is left.
    fn write_step(&mut self, swept: &mut Swept, count: usize) -> bool {
        if !swept.rows.is_empty() {
            self.write_some(&mut swept.rows, count);
        } else if self.state.swept_revision() < swept.revision {
            self.end_sweep(swept);
        } else if !swept.outdated.is_empty() {
            self.write_some(&mut swept.outdated, count);
        } else {
            self.dead.extend(taken(&mut swept.dead, count));
            return !swept.dead.is_empty();
        }
        true
    }

    fn write_some(&mut self, changes: &mut Vec<Change>, count: usize) {
        let changes = taken(changes, count);
        self.store.write(Batch { changes });
    }

    fn end_sweep(&mut self, swept: &Swept) {
        self.state.end_sweep(swept).unwrap();
        let mut pending = Pending::new(&self.store);
        self.state.seal(&mut pending);
        let batch = pending.into_batch();
        self.store.write(batch);
        let plan = HashPlan::of_compaction(swept.since, swept.revision, &swept.dead, &self.store);
        self.hashes.push(plan.unwrap().run(&self.store).unwrap());
    }

    /// One step; 0: none.
    pub fn sweep_some(&mut self, effort_max: usize) {
        if effort_max > 0 {
            self.sweep_step(effort_max);
        }
    }

    /// Sweeps what there is to sweep.
    pub fn sweep(&mut self) {
        while self.sweep_step(usize::MAX) {}
    }

    /// What is dead and may still be stored, once all is swept.
    pub fn dead_records(&mut self) -> Vec<RevisionAt> {
        self.sweep();
        let mut dead = self.state.dead_records();
        dead.append(&mut self.dead);
        dead
    }

    /// The engine removes what was discarded so far.
    pub fn forget_dead(&mut self) {
        let mut dead = self.state.dead_records();
        dead.append(&mut self.dead);
        for at in dead {
            assert!(self.store.remove_record(at), "a dead record is named once");
        }
    }

    fn records(&self) -> Vec<RevisionAt> {
        let rows = self.store.0.keys();
        let keys = rows.filter(|(space, _)| *space == Space::Records);
        keys.map(|(_, key)| RevisionAt::from_bytes(key).unwrap())
            .collect()
    }
}

/// A store with a finished sweep, and a compaction that is not swept: at a deletion, behind which keys come and go.
fn compacted() -> Machine {
    let mut machine = Machine::new();
    for round in 0..4 {
        for key in ["a", "b", "c", "d"] {
            machine.put(key, &round.to_string());
        }
        machine.delete("b", "");
        if round == 1 {
            machine.ok(compact(9));
            machine.sweep();
            machine.forget_dead();
        }
    }
    machine.delete("d", "");
    machine.ok(compact(machine.state.revision()));
    machine.put("a", "last");
    machine.delete("c", "");
    machine
}

fn all(machine: &Machine) -> Vec<Result<pb::RangeResponse, Denied>> {
    let revisions = 1..=machine.state.revision();
    let at = |revision| {
        machine.range(pb::RangeRequest {
            revision,
            ..range("\0", "\0")
        })
    };
    revisions.map(at).collect()
}

/// After each step the process may end, or a follower be sent a snapshot: what opens then is the same, and can be swept again.
#[test]
fn a_crash_between_any_two_pieces_loses_nothing() {
    let mut swept = compacted();
    swept.sweep();
    swept.forget_dead();
    let (hash, hashes) = (
        swept.state.hash_kv(0, &swept.store).unwrap(),
        swept.hashes.clone(),
    );
    let mut steps = 0;
    loop {
        let mut machine = compacted();
        if !(0..steps).all(|_| machine.sweep_step(2)) {
            break;
        }
        machine.forget_dead();
        let mut reopened = machine.reopened();
        for one in [&machine, &reopened] {
            assert_eq!(all(one), all(&swept), "after {steps} steps");
            assert_eq!(one.state.hash_kv(0, &one.store).unwrap(), hash);
            assert_eq!(one.state.digest(), swept.state.digest());
        }
        let is_swept = reopened.state.swept_revision() == swept.state.swept_revision();
        reopened.sweep();
        assert_eq!(reopened.hashes, hashes[usize::from(is_swept) + 1..]);
        reopened.forget_dead();
        assert_eq!(reopened.records(), swept.records());
        assert_eq!(reopened.state.logical_bytes(), swept.state.logical_bytes());
        if !is_swept {
            assert_eq!(reopened.store, swept.store);
        }
        steps += 1;
    }
    assert!(
        steps > 15,
        "{steps} steps are too few to be in the middle of anything"
    );
}

/// Until the sweep has ended all must be there that was not given up before.
#[test]
fn what_is_missing_in_the_middle_of_a_sweep_is_damage() {
    let before = compacted().state.swept_revision();
    for steps in 0.. {
        let mut machine = compacted();
        (0..steps).for_each(|_| machine.sweep_some(2));
        if machine.state.swept_revision() > before {
            assert!(
                steps > 5,
                "{steps} steps are too few to be in the middle of anything"
            );
            break;
        }
        machine.forget_dead();
        let records = machine.records();
        for at in records {
            let mut store = machine.store.clone();
            store.remove_record(at);
            let broken = State::open(&store).err().map(|broken| broken.to_string());
            let expected = format!("record {}_{} is missing", at.main, at.sub);
            assert_eq!(broken, Some(expected), "after {steps} steps");
        }
    }
}

#[test]
fn a_compaction_in_the_middle_of_a_sweep_is_swept_afterwards() {
    let mut machine = compacted();
    let first = machine.state.compact_revision();
    machine.sweep_step(2);
    machine.put("e", "1");
    machine.delete("e", "");
    machine.put("e", "2");
    machine.ok(compact(machine.state.revision()));
    machine.sweep();
    let revisions: Vec<i64> = machine.hashes.iter().map(|hash| hash.hash_revision).collect();
    assert_eq!(revisions, [9, first, machine.state.compact_revision()]);
    machine.forget_dead();
    assert_eq!(machine.records().len(), 2, "a and e live");
    let reopened = machine.reopened();
    assert_eq!(all(&reopened), all(&machine));
}

/// A snapshot takes the state's place: nothing of a sweep of the old one may reach it.
#[test]
fn a_sweep_ends_with_its_state() {
    let mut machine = compacted();
    let mut sweep = machine.state.begin_sweep().unwrap();
    machine.state.sweep_on(&mut sweep, 2).unwrap();
    let mut other = machine.reopened().state;
    assert_eq!(other.sweep_on(&mut sweep, 2), Err(Replaced));
    machine.state.sweep_on(&mut sweep, usize::MAX).unwrap();
    let swept = sweep.finish(&machine.store).unwrap();
    assert_eq!(other.end_sweep(&swept), Err(Replaced));
    assert_eq!(machine.state.end_sweep(&swept), Ok(()));
    assert_eq!(machine.state.end_sweep(&swept), Err(Replaced));
}

/// However many keys there are, and however many changes of one.
#[test]
fn no_piece_takes_more_than_its_bound() {
    const EFFORT_MAX: usize = 100;
    let (keys, versions) = (2_000, 5_000);
    let mut machine = Machine::with_cache(Maps::default(), 0);
    let key = |n: usize| put(&format!("k{n:05}"), "v");
    let hot = || put("k00700", "v");
    let requests: Vec<Request> = (0..keys).map(key).collect();
    machine.batch(&requests);
    machine.batch(&(0..versions).map(|_| hot()).collect::<Vec<_>>());
    machine.batch(&[delete("k01", "k015")]);
    machine.ok(compact(machine.state.revision()));
    machine.ok(hot());
    let mut pieces = 0;
    while machine.swept.is_none() {
        // It asserts that the bound is kept.
        machine.sweep_step(EFFORT_MAX);
        pieces += 1;
    }
    let least = (keys + versions + 500) / EFFORT_MAX;
    assert!((least..=least + 1).contains(&pieces), "{pieces} pieces");
    machine.sweep();
    assert_eq!(machine.dead.len(), versions + 500);
    assert_eq!(machine.range(range("\0", "\0")).unwrap().count, keys as i64 - 500);
}
