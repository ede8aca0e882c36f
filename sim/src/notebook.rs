//! What a timeline shows of the members and of the nemesis, noted while a run goes on, if somebody asked for it.
//!
//! ```text
//!   World: lives, pauses ─┐
//!   Net: links cut        ├─► Notebook ─► fill(&mut Timeline): nodes, faults, cuts, phases
//!   nemesis: faults       │
//!   probes, votes, logs  ─┘
//! ```
//!
//! It decides nothing and changes nothing: a run is the same with it and without. What clients saw is in the
//! history already.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use quorate_jepsen::timeline::{Cut, Ended, Fault, Life, Mark, Micros, Node, Phase, State, Timeline, Tone};

use crate::nemesis::{self, Class};
use crate::properties::Observation;
use crate::world::Nanos;
use crate::world::net::{HostId, LinkChange};

/// Remarks kept of one member: a member that repeats itself is heard often enough.
const MARKS_MAX: usize = 2_000;

/// See the module's text.
#[derive(Default)]
pub struct Notebook {
    /// `None`: nobody asked.
    notes: Option<Mutex<Notes>>,
}

#[derive(Default)]
struct Notes {
    nodes: BTreeMap<String, Node>,
    /// Member ids by the name of the member.
    ids: BTreeMap<u64, String>,
    faults: Vec<Fault>,
    /// When violations showed that the run itself saw.
    violated: Vec<Micros>,
    /// Beginnings of phases.
    phases: Vec<(String, Micros)>,
    /// Leaders are ids until all members are known.
    states: BTreeMap<String, Vec<(State, Option<u64>)>>,
}

/// What happens to a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step<'a> {
    Started,
    Ended(&'a str),
    Paused,
    Resumed,
}

fn micros(nanos: Nanos) -> Micros {
    nanos / 1_000
}

/// Whom a class strikes; nobody where the links that it cuts tell it better.
fn aims_at(fault: &nemesis::Fault, leader: Option<usize>) -> Vec<usize> {
    use Class::*;
    match fault.class {
        IsolateLeader | PowerLossLeader | PauseLeader | MoveLeader | RemoveLeader | CrashAtVote => {
            vec![leader.unwrap_or(fault.member)]
        }
        Delay | OneWay | TwoWay | Majority | Minority | Ring | Swizzle | PowerLossAll | Skew | DriftApart
        | Compaction | AuthOff | RollingRestart => Vec::new(),
        _ => vec![fault.member],
    }
}

impl Notebook {
    pub fn on() -> Self {
        Notebook {
            notes: Some(Mutex::default()),
        }
    }

    pub fn is_on(&self) -> bool {
        self.notes.is_some()
    }

    fn notes(&self) -> Option<MutexGuard<'_, Notes>> {
        // After a panic what was noted is still worth showing.
        let notes = self.notes.as_ref()?;
        Some(notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn phase(&self, now: Nanos, name: &str) {
        if let Some(mut notes) = self.notes() {
            notes.phases.push((name.to_owned(), micros(now)));
        }
    }

    /// Something happened to the process of a host.
    pub fn life(&self, now: Nanos, host: &str, step: Step<'_>) {
        let Some(mut notes) = self.notes() else { return };
        let at = micros(now);
        let lives = &mut notes.nodes.entry(host.to_owned()).or_default().lives;
        match step {
            Step::Started => lives.push(Life {
                from: at,
                ended: None,
                pauses: Vec::new(),
            }),
            Step::Ended(how) => {
                if let Some(life) = lives.last_mut() {
                    let how = how.to_owned();
                    life.ended = Some(Ended { at, how });
                }
            }
            Step::Paused => {
                if let Some(life) = lives.last_mut() {
                    life.pauses.push((at, Micros::MAX));
                }
            }
            Step::Resumed => {
                let pause = lives.last_mut().and_then(|life| life.pauses.last_mut());
                if let Some((_, to)) = pause {
                    *to = at;
                }
            }
        }
    }

    /// What a member says of itself has changed.
    pub fn observe(&self, now: Nanos, host: &str, seen: &Observation) {
        let Some(mut notes) = self.notes() else { return };
        notes.ids.insert(seen.id, host.to_owned());
        let state = State {
            at: micros(now),
            term: seen.term,
            leader: None,
            committed: seen.committed,
            applied: seen.applied,
            snapshot: 0,
        };
        let states = notes.states.entry(host.to_owned()).or_default();
        states.push((state, seen.leader));
    }

    pub fn violated(&self, now: Nanos) {
        if let Some(mut notes) = self.notes() {
            notes.violated.push(micros(now));
        }
    }

    /// When the violation of this number showed that the run itself saw.
    pub fn violated_at(&self, number: usize) -> Option<Micros> {
        self.notes()?.violated.get(number).copied()
    }

    /// The text, with the name of a member behind each of its ids.
    pub fn explain(&self, text: &str) -> String {
        let Some(notes) = self.notes() else {
            return text.to_owned();
        };
        let explain = |text: String, (id, name): (&u64, &String)| {
            let id = format!("{id:x}");
            text.replace(&id, &format!("{id} ({name})"))
        };
        notes.ids.iter().fold(text.to_owned(), explain)
    }

    /// A vote left a member.
    pub fn voted(&self, now: Nanos, voter: &str, term: u64, candidate: u64) {
        let Some(notes) = self.notes() else { return };
        let candidate = match notes.ids.get(&candidate) {
            Some(name) => name.clone(),
            None => format!("{candidate:x}"),
        };
        drop(notes);
        self.mark(
            now,
            voter,
            Tone::Vote,
            &format!("votes in term {term} for {candidate}"),
        );
    }

    /// A remark on a member's lane.
    pub fn mark(&self, now: Nanos, host: &str, tone: Tone, text: &str) {
        let Some(mut notes) = self.notes() else { return };
        let marks = &mut notes.nodes.entry(host.to_owned()).or_default().marks;
        if marks.len() < MARKS_MAX {
            let (at, text) = (micros(now), text.trim().to_owned());
            marks.push(Mark { at, tone, text });
        }
    }

    /// A fault strikes.
    pub fn fault(&self, now: Nanos, fault: &nemesis::Fault, leader: Option<usize>) {
        let Some(mut notes) = self.notes() else { return };
        notes.faults.push(Fault {
            name: format!("{:?}", fault.class),
            from: micros(now),
            to: Micros::MAX,
            nodes: aims_at(fault, leader),
            text: fault.to_string(),
        });
    }

    /// It has ended; `bit`: it had an effect.
    pub fn fault_ended(&self, now: Nanos, fault: &nemesis::Fault, bit: bool) {
        let Some(mut notes) = self.notes() else { return };
        let text = fault.to_string();
        let own = |open: &&mut Fault| open.to == Micros::MAX && open.text == text;
        if let Some(open) = notes.faults.iter_mut().find(own) {
            open.to = micros(now);
            if !bit {
                open.text.push_str(": which nothing noticed");
            }
        }
    }

    /// Fills what was noted into a timeline that ends at `end`; `names`: the members in order.
    pub fn fill(&self, timeline: &mut Timeline, end: Nanos, names: &[String]) {
        let Some(mut notes) = self.notes() else { return };
        let end = micros(end);
        timeline.end = timeline.end.max(end);
        let ids = notes.ids.clone();
        let index = |id: u64| names.iter().position(|name| ids.get(&id) == Some(name));
        for name in names {
            let mut node = notes.nodes.remove(name).unwrap_or_default();
            node.name = name.clone();
            let seen = notes.states.remove(name).unwrap_or_default();
            let named = |(state, leader): (State, Option<u64>)| State {
                leader: leader.and_then(index),
                ..state
            };
            node.states = seen.into_iter().map(named).collect();
            for life in &mut node.lives {
                let last = life.ended.as_ref().map_or(end, |ended| ended.at);
                for (_, to) in &mut life.pauses {
                    *to = (*to).min(last);
                }
            }
            timeline.nodes.push(node);
        }
        timeline.faults = std::mem::take(&mut notes.faults);
        for fault in &mut timeline.faults {
            fault.to = fault.to.min(end);
        }
        let begun = std::mem::take(&mut notes.phases);
        let ends = begun.iter().skip(1).map(|(_, at)| *at).chain([end]);
        let phases = begun.iter().zip(ends).map(|((name, from), to)| Phase {
            name: name.clone(),
            from: *from,
            to,
        });
        timeline.phases = phases.collect();
    }
}

/// Links that are cut, from what the network noted: each cut with its end.
pub fn cuts(changes: &[LinkChange], name: &dyn Fn(HostId) -> String, end: Nanos) -> Vec<Cut> {
    let mut open: BTreeMap<(HostId, HostId), Nanos> = BTreeMap::new();
    let mut cuts = Vec::new();
    let cut = |(from_host, to_host), begun, ended| Cut {
        from_host: name(from_host),
        to_host: name(to_host),
        from: micros(begun),
        to: micros(ended),
    };
    for change in changes {
        let link = (change.from, change.to);
        if change.is_cut {
            open.insert(link, change.at);
        } else if let Some(begun) = open.remove(&link) {
            cuts.push(cut(link, begun, change.at));
        }
    }
    cuts.extend(open.into_iter().map(|(link, begun)| cut(link, begun, end)));
    cuts.sort_by_key(|cut| cut.from);
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    fn fault(class: Class) -> nemesis::Fault {
        nemesis::Fault {
            at_ms: 2_000,
            lasts_ms: 1_000,
            class,
            member: 1,
            choice: 0,
        }
    }

    fn filled(notes: &Notebook) -> Timeline {
        let mut timeline = Timeline::default();
        notes.fill(&mut timeline, 10 * SECOND, &["m1".to_owned(), "m2".to_owned()]);
        timeline
    }

    #[test]
    fn lives_and_pauses_end_when_something_ends_them() {
        let notes = Notebook::on();
        notes.life(0, "m1", Step::Started);
        notes.life(2 * SECOND, "m1", Step::Paused);
        notes.life(3 * SECOND, "m1", Step::Resumed);
        notes.life(4 * SECOND, "m1", Step::Paused);
        notes.life(5 * SECOND, "m1", Step::Ended("lost power"));
        notes.life(6 * SECOND, "m1", Step::Started);
        notes.life(0, "c1", Step::Started);
        let timeline = filled(&notes);
        let [m1, m2] = timeline.nodes.as_slice() else {
            panic!("two members, and no client: {:?}", timeline.nodes);
        };
        assert_eq!((m1.name.as_str(), m2.name.as_str()), ("m1", "m2"));
        assert!(m2.lives.is_empty());
        let [first, second] = m1.lives.as_slice() else {
            panic!("two lives: {:?}", m1.lives);
        };
        assert_eq!(first.pauses, [(2_000_000, 3_000_000), (4_000_000, 5_000_000)]);
        let ended = first.ended.as_ref().expect("it lost power");
        assert_eq!((ended.at, ended.how.as_str()), (5_000_000, "lost power"));
        assert_eq!((second.from, &second.ended), (6_000_000, &None));
    }

    #[test]
    fn a_fault_strikes_whom_its_class_names_and_ends_with_the_run_at_the_latest() {
        let notes = Notebook::on();
        notes.fault(2 * SECOND, &fault(Class::IsolateLeader), Some(0));
        notes.fault(2 * SECOND, &fault(Class::PauseLeader), None);
        notes.fault(2 * SECOND, &fault(Class::Swizzle), Some(0));
        notes.fault(2 * SECOND, &fault(Class::Kill), Some(0));
        notes.fault_ended(3 * SECOND, &fault(Class::Kill), false);
        let faults = filled(&notes).faults;
        let aims: Vec<&[usize]> = faults.iter().map(|fault| fault.nodes.as_slice()).collect();
        assert_eq!(aims, [&[0][..], &[1], &[], &[1]]);
        let ends: Vec<Micros> = faults.iter().map(|fault| fault.to).collect();
        assert_eq!(ends, [10_000_000, 10_000_000, 10_000_000, 3_000_000]);
        assert!(faults[3].text.ends_with("which nothing noticed"));
    }

    #[test]
    fn a_cut_lasts_until_the_link_is_let_through_again() {
        let change = |at, from, to, is_cut| LinkChange { at, from, to, is_cut };
        let changes = [
            change(SECOND, 0, 1, true),
            change(2 * SECOND, 1, 0, true),
            change(3 * SECOND, 0, 1, false),
        ];
        let cuts = cuts(&changes, &|host| format!("h{host}"), 9 * SECOND);
        let shown: Vec<_> = cuts
            .iter()
            .map(|cut| (cut.from_host.as_str(), cut.to_host.as_str(), cut.from, cut.to))
            .collect();
        let expected = [
            ("h0", "h1", 1_000_000, 3_000_000),
            ("h1", "h0", 2_000_000, 9_000_000),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn nothing_is_noted_unless_somebody_asked() {
        let notes = Notebook::default();
        notes.life(0, "m1", Step::Started);
        notes.fault(0, &fault(Class::Kill), None);
        notes.phase(0, "heal");
        assert_eq!(filled(&notes), Timeline::default());
    }
}
