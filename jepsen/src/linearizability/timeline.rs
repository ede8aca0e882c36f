//! Rebuilds the write history, revision by revision, and compares every answer with it.
//!
//! A depth-first search whose only choices are the authors of gaps: revisions that exist but that no
//! answer claims. Usually what was seen of a gap leaves one author, and the search is a single pass.
//! On a contradiction it goes back to the nearest gap whose author could have mattered: one that
//! touches the keys of the contradiction. The work is bounded; out of budget means undecided.
//!
//! Watches show the changes of gaps too, but they are on trial themselves. So the search runs first
//! with what they show as binding; only if no history agrees with them does it run again with their
//! word as mere advice on what to try first, and it is left to the watch checks to say who lied.
//! Where the first search ran out of budget, nobody knows whether one lied: the history that the second
//! finds is kept up to where watches show another.

use std::cmp::Reverse;

use bytes::Bytes;
use quorate::proto::mvccpb::{Event, event::EventType};

use super::index::{Evidence, Index, KeyRange, Lives, footprint};
use super::told::{Cause, Expected};
use crate::history::{History, OpId, Operation, Request};
use crate::model::{Applied, Model, covers, same_answer};
use crate::property::Violation;

/// Contradictions after which the search gives up.
pub(super) const CONTRADICTIONS_MAX: u32 = 20_000;

/// Revisions taken back after which it does, too: each contradiction of a long history may take back most of it.
const TAKEN_BACK_MAX: u64 = 100_000_000;

/// Who made a revision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Author {
    Operation(OpId),
    /// A lease that ran out; `grant` is the operation that created it.
    Expiry {
        lease: i64,
        grant: OpId,
    },
}

/// One revision: its author and its changes, each with the pair before.
#[derive(Clone, Debug)]
pub struct Revision {
    pub author: Author,
    pub events: Vec<Event>,
}

/// The write history that explains the answers.
#[derive(Debug)]
pub struct Timeline {
    revisions: Vec<Revision>,
    /// Every version of every key.
    pub model: Model,
}

impl Timeline {
    /// The last revision that is known; later ones, if any, could not be explained.
    pub fn last(&self) -> i64 {
        self.revisions.len() as i64 + 1
    }

    /// Revision `number`; revision 1 is the empty store and has none.
    pub fn revision(&self, number: i64) -> Option<&Revision> {
        self.revisions.get(usize::try_from(number - 2).ok()?)
    }

    /// Revisions `from..=to` as far as they are known, with their numbers.
    pub fn between(&self, from: i64, to: i64) -> impl Iterator<Item = (i64, &Revision)> {
        let (from, to) = (from.max(2), to.min(self.last()));
        (from..=to).filter_map(|number| Some((number, self.revision(number)?)))
    }
}

pub(super) struct Built {
    pub timeline: Timeline,
    pub violation: Option<Violation>,
    pub undecided: Option<String>,
}

pub(super) fn build(history: &History, index: &Index<'_>, contradictions_max: u32) -> Built {
    let search = |hints| {
        let mut search = Search::new(history, index, hints);
        let end = search.run(contradictions_max);
        (search, end)
    };
    let gave_up = |search: &Search| {
        let furthest = search.furthest.as_ref();
        let furthest = furthest.map_or(String::new(), |furthest| {
            furthest.cause.tell(furthest.revision, history, index).text
        });
        let contradictions = search.contradictions.min(contradictions_max);
        format!("gave up after {contradictions} contradictions; the furthest one:\n{furthest}")
    };
    let (mut found, mut end) = search(Hints::Binding);
    let mut undecided = matches!(end, End::OutOfBudget).then(|| gave_up(&found));
    if !matches!(end, End::Explained) && !history.watches.is_empty() {
        (found, end) = search(Hints::Advice);
    }
    let mut violation = None;
    match end {
        End::Explained => {}
        End::Contradiction => {
            undecided = None;
            violation = found.verdict();
        }
        End::OutOfBudget => undecided = Some(gave_up(&found)),
    }
    found.replay_furthest();
    if undecided.is_some() {
        found.cut_to_what_watches_show();
    }
    Built {
        timeline: Timeline {
            revisions: found.revisions,
            model: found.model,
        },
        violation,
        undecided,
    }
}

/// What the watches' word is worth.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hints {
    Binding,
    Advice,
}

enum End {
    Explained,
    Contradiction,
    OutOfBudget,
}

/// A gap and the author chosen for it.
struct Gap {
    revision: i64,
    /// The candidate in place, by number.
    chosen: usize,
    /// Candidates not yet tried; the next one is last.
    left: Vec<usize>,
    /// False while `left` holds only those that what was seen points to.
    widened: bool,
}

/// A revision that cannot be as the answers say.
struct Contradiction {
    revision: i64,
    cause: Cause,
    /// The keys it is about; `None`: the author is missing, so any choice before may be the cause.
    keys: Option<Vec<KeyRange>>,
    /// The gaps' authors when it arose.
    choices: Vec<(i64, usize)>,
}

struct Search<'a> {
    history: &'a History,
    index: &'a Index<'a>,
    hints: Hints,
    model: Model,
    revisions: Vec<Revision>,
    /// Revisions that ended a lease, and the lease.
    ended: Vec<(i64, i64)>,
    gaps: Vec<Gap>,
    used: Vec<bool>,
    /// The revision at which a candidate's value was seen, which can have made no other.
    seen_at: Vec<Option<i64>>,
    furthest: Option<Contradiction>,
    contradictions: u32,
    taken_back: u64,
}

impl<'a> Search<'a> {
    fn new(history: &'a History, index: &'a Index<'a>, hints: Hints) -> Self {
        Search {
            history,
            index,
            hints,
            model: Model::assuming_leases(),
            revisions: Vec::new(),
            ended: Vec::new(),
            gaps: Vec::new(),
            used: vec![false; index.candidates.len()],
            seen_at: seen_at(index, hints),
            furthest: None,
            contradictions: 0,
            taken_back: 0,
        }
    }

    fn run(&mut self, contradictions_max: u32) -> End {
        let mut result = self.check_reads(1);
        loop {
            if let Err(contradiction) = result {
                self.contradictions += 1;
                if self.contradictions > contradictions_max || self.taken_back > TAKEN_BACK_MAX {
                    return End::OutOfBudget;
                }
                if !self.go_back(contradiction) {
                    return End::Contradiction;
                }
                result = self.check_reads(self.model.revision());
                continue;
            }
            if self.model.revision() >= self.index.last {
                self.furthest = None;
                return End::Explained;
            }
            result = self.step();
        }
    }

    /// Makes the next revision and compares what was read at it.
    fn step(&mut self) -> Result<(), Contradiction> {
        let revision = self.model.revision() + 1;
        match self.index.writer(revision) {
            Some(id) => self.acknowledged(revision, id)?,
            None => self.open_gap(revision)?,
        }
        self.check_reads(revision)
    }

    fn push(&mut self, author: Author, applied: Applied) {
        let mut events = applied.events;
        events.shrink_to_fit();
        let ended = applied.ended.map(|lease| (self.model.revision(), lease));
        self.ended.extend(ended);
        self.revisions.push(Revision { author, events });
    }

    fn pop(&mut self) {
        let revision = self.model.revision();
        let made = self.revisions.pop().expect("the model's revisions are all here");
        let ended = self.ended.pop_if(|(number, _)| *number == revision);
        self.model.take_back(&made.events, ended.map(|(_, lease)| lease));
    }

    /// A write that was answered must do in the model what its answer says.
    fn acknowledged(&mut self, revision: i64, id: OpId) -> Result<(), Contradiction> {
        let operation = &self.history.operations[id];
        let answer = operation.outcome.answer().expect("writers were answered");
        let applied = self.model.apply(&operation.request, Some(answer));
        let changed = !applied.events.is_empty();
        let expected = match &applied.result {
            Ok(expected) if changed && same_answer(&operation.request, expected, answer) => {
                if self.agrees(revision, &applied.events) {
                    self.push(Author::Operation(id), applied);
                    return Ok(());
                }
                Expected::Else("a change of another version".to_owned())
            }
            Ok(expected) => Expected::Answer(Box::new(expected.clone())),
            Err(refusal) => Expected::Else(format!("refusal \"{}\"", refusal.text)),
        };
        if changed {
            self.model.undo(&applied);
        }
        Err(self.mismatch(revision, operation, expected))
    }

    fn mismatch(&self, revision: i64, operation: &Operation, expected: Expected) -> Contradiction {
        Contradiction {
            revision,
            cause: Cause::Mismatch {
                operation: operation.id,
                expected,
            },
            keys: Some(footprint(&operation.request)),
            choices: self.choices(),
        }
    }

    fn choices(&self) -> Vec<(i64, usize)> {
        self.gaps.iter().map(|gap| (gap.revision, gap.chosen)).collect()
    }

    fn check_reads(&mut self, revision: i64) -> Result<(), Contradiction> {
        let Some(reads) = self.index.reads.get(&revision) else {
            return Ok(());
        };
        for id in reads {
            let operation = &self.history.operations[*id];
            let answer = operation.outcome.answer().expect("reads were answered");
            let applied = self.model.apply(&operation.request, Some(answer));
            if !applied.events.is_empty() {
                self.model.undo(&applied);
                let expected = Expected::Else("a change".to_owned());
                return Err(self.mismatch(revision, operation, expected));
            }
            let expected = match applied.result {
                Ok(expected) if same_answer(&operation.request, &expected, answer) => continue,
                Ok(expected) => Expected::Answer(Box::new(expected)),
                Err(refusal) => Expected::Else(format!("refusal \"{}\"", refusal.text)),
            };
            return Err(self.mismatch(revision, operation, expected));
        }
        Ok(())
    }

    /// Lists who could have made `revision`, the likeliest last, and takes that one.
    fn open_gap(&mut self, revision: i64) -> Result<(), Contradiction> {
        let gap = Gap {
            revision,
            chosen: usize::MAX,
            left: self.likely(revision),
            widened: false,
        };
        match self.choose(gap) {
            Ok(()) => Ok(()),
            Err(()) => Err(self.authorless(revision)),
        }
    }

    /// Candidates that may have made `revision` as far as time tells.
    fn possible(&self, revision: i64) -> impl Fn(&usize) -> bool + use<'_, 'a> {
        let before = self.index.made_before(revision);
        move |number| {
            let candidate = &self.index.candidates[*number];
            !self.used[*number]
                && self.seen_at[*number].is_none_or(|seen| seen == revision)
                && candidate.invoked < before
                && candidate.floor < revision
                && revision <= candidate.ceiling
        }
    }

    /// Those of them that what was seen points to: a value names its author.
    fn likely(&self, revision: i64) -> Vec<usize> {
        let possible = self.possible(revision);
        let seen = [&self.index.evidence, &self.index.hints];
        let Some(seen) = seen.into_iter().find_map(|table| table.get(&revision)) else {
            return Vec::new();
        };
        if let Some(kv) = seen.puts.values().next() {
            let authors = self.index.by_value.get(&kv.value);
            return authors.into_iter().flatten().copied().filter(possible).collect();
        }
        let mut likely: Vec<usize> = (0..self.index.candidates.len())
            .filter(possible)
            .filter(|number| self.may_delete(*number, &seen.deletes))
            .collect();
        self.doubtful_first(&mut likely);
        likely
    }

    /// All others are tried after them: a watch that shows something else may be lying.
    fn widen(&self, gap: &mut Gap) {
        if !gap.widened {
            gap.widened = true;
            let likely = self.likely(gap.revision);
            let mut left: Vec<usize> = (0..self.index.candidates.len())
                .filter(self.possible(gap.revision))
                .filter(|number| !likely.contains(number) && *number != gap.chosen)
                .collect();
            self.doubtful_first(&mut left);
            left.append(&mut gap.left);
            gap.left = left;
        }
    }

    /// Lets the ends of leases come last when candidates are taken from the end, those that were due last behind the others:
    /// where something else explains as much, nobody shall be accused of ending a lease too early.
    fn doubtful_first(&self, numbers: &mut [usize]) {
        numbers.sort_by_key(|number| Reverse(self.index.candidates[*number].due));
    }

    /// A cheap test whether a candidate may delete these keys now.
    fn may_delete(&self, number: usize, keys: &[Bytes]) -> bool {
        let candidate = &self.index.candidates[number];
        let lease_of = |key: &Bytes| self.model.get(key).map_or(0, |kv| kv.lease);
        keys.iter().all(|key| match &candidate.request {
            Request::LeaseRevoke(r) => lease_of(key) == r.id,
            _ => candidate
                .footprint
                .iter()
                .any(|(from, end)| covers(from, end, key)),
        })
    }

    /// Puts the next candidate that has an effect, and the effect that was seen, in the gap's place.
    fn choose(&mut self, mut gap: Gap) -> Result<(), ()> {
        let revision = gap.revision;
        loop {
            if gap.left.is_empty() {
                self.widen(&mut gap);
            }
            let Some(number) = gap.left.pop() else {
                return Err(());
            };
            let candidate = &self.index.candidates[number];
            let applied = self.model.apply(&candidate.request, None);
            if applied.events.is_empty() {
                self.model.forget_ended(applied.ended);
                continue;
            }
            if !self.agrees(revision, &applied.events) {
                self.model.undo(&applied);
                continue;
            }
            self.push(candidate.author, applied);
            self.used[number] = true;
            gap.chosen = number;
            self.gaps.push(gap);
            return Ok(());
        }
    }

    /// True if the changes are those that were seen of the revision.
    fn agrees(&self, revision: i64, events: &[Event]) -> bool {
        let index = self.index;
        let answered = index.evidence.get(&revision);
        if answered.is_some_and(|evidence| !shows(events, evidence)) {
            return false;
        }
        let all_allowed = |lives: &Lives<'_>| events.iter().all(|event| lives.allow(event, revision));
        if !all_allowed(&index.lives) {
            return false;
        }
        self.hints == Hints::Advice || self.agrees_with_watches(revision, events)
    }

    /// True if the changes of the revision are those that watches showed.
    fn agrees_with_watches(&self, revision: i64, events: &[Event]) -> bool {
        let allowed = |event| self.index.hinted_lives.allow(event, revision);
        let shown = self.index.hints.get(&revision).is_none_or(|hints| {
            shows(events, hints)
                && (!hints.complete || events.len() == hints.puts.len() + hints.deletes.len())
        });
        shown && events.iter().all(allowed)
    }

    /// Takes back the first revision that watches show otherwise, and all after it.
    fn cut_to_what_watches_show(&mut self) {
        let mut revisions = (2..).zip(&self.revisions);
        let doubted = revisions.find(|(number, made)| !self.agrees_with_watches(*number, &made.events));
        if let Some((number, _)) = doubted {
            while self.model.revision() >= number {
                self.pop();
            }
        }
    }

    /// Takes back everything up to the nearest gap that may be at fault and has another author to
    /// try; false if there is none.
    fn go_back(&mut self, contradiction: Contradiction) -> bool {
        let mut keys = contradiction.keys.clone();
        let further = self
            .furthest
            .as_ref()
            .is_none_or(|furthest| furthest.revision < contradiction.revision);
        if further {
            self.furthest = Some(contradiction);
        }
        while let Some(mut gap) = self.gaps.pop() {
            self.widen(&mut gap);
            let relevant = keys.as_ref().is_none_or(|keys| self.touches(&gap, keys));
            while self.model.revision() >= gap.revision {
                self.pop();
                self.taken_back += 1;
            }
            self.used[gap.chosen] = false;
            if relevant {
                if self.choose(gap).is_ok() {
                    return true;
                }
                // Every author failed here, perhaps because of who was used or what was there before.
                keys = None;
            }
        }
        false
    }

    /// True if the author of a gap, or one that could take its place, concerns any of the keys.
    fn touches(&self, gap: &Gap, keys: &[KeyRange]) -> bool {
        let concerns = |number: usize| {
            let candidate = &self.index.candidates[number];
            let own = &candidate.footprint;
            // Which keys a lease takes with it depends on the state: any.
            matches!(candidate.request, Request::LeaseRevoke(_))
                || own.iter().any(|own| keys.iter().any(|key| overlap(own, key)))
        };
        concerns(gap.chosen) || gap.left.iter().any(|number| concerns(*number))
    }

    /// Nobody can have made `revision`.
    fn authorless(&self, revision: i64) -> Contradiction {
        Contradiction {
            revision,
            cause: Cause::Authorless,
            keys: None,
            choices: self.choices(),
        }
    }

    fn verdict(&self) -> Option<Violation> {
        let furthest = self.furthest.as_ref()?;
        let told = furthest.cause.tell(furthest.revision, self.history, self.index);
        let violation = Violation::of_operations(told.property, told.operations, told.text);
        let keys = furthest.keys.iter().flatten();
        let violation = keys.fold(violation, |violation, (key, _)| violation.on_key(key));
        Some(violation.at_revision(furthest.revision))
    }

    /// Rebuilds the part of the timeline that reaches furthest, so that others can use it.
    fn replay_furthest(&mut self) {
        let Some(furthest) = self.furthest.take() else {
            return;
        };
        while !self.revisions.is_empty() {
            self.pop();
        }
        let mut choices = furthest.choices.iter().peekable();
        while self.model.revision() + 1 < furthest.revision {
            let revision = self.model.revision() + 1;
            let (author, request) = match choices.next_if(|(gap, _)| *gap == revision) {
                Some((_, number)) => {
                    let candidate = &self.index.candidates[*number];
                    (candidate.author, &candidate.request)
                }
                None => match self.index.writer(revision) {
                    Some(id) => (Author::Operation(id), &self.history.operations[id].request),
                    None => return,
                },
            };
            let applied = self.model.apply(request, None);
            if applied.events.is_empty() {
                return;
            }
            self.push(author, applied);
        }
    }
}

/// Values are unique: which revision each candidate made, as far as its value was seen.
fn seen_at(index: &Index<'_>, hints: Hints) -> Vec<Option<i64>> {
    let mut seen_at = vec![None; index.candidates.len()];
    let hinted = (hints == Hints::Binding).then_some(&index.hints);
    for (revision, seen) in [&index.evidence].into_iter().chain(hinted).flatten() {
        for kv in seen.puts.values() {
            if let Some([author]) = index.by_value.get(&kv.value).map(Vec::as_slice) {
                seen_at[*author] = Some(*revision);
            }
        }
    }
    seen_at
}

/// True if the changes include what was seen of them.
fn shows(events: &[Event], evidence: &Evidence) -> bool {
    let is_put = |event: &&Event| event.r#type == EventType::Put as i32;
    let put = |kv| {
        events
            .iter()
            .filter(is_put)
            .any(|event| event.kv.as_ref() == Some(kv))
    };
    let deleted = |key: &Bytes| {
        let mut deletes = events.iter().filter(|event| !is_put(event));
        deletes.any(|event| event.kv.as_ref().is_some_and(|kv| kv.key == *key))
    };
    evidence.puts.values().all(put) && evidence.deletes.iter().all(deleted)
}

fn overlap(a: &KeyRange, b: &KeyRange) -> bool {
    covers(&a.0, &a.1, &b.0) || covers(&b.0, &b.1, &a.0)
}
