//! From a history to a verdict: runs every check, counts what was exercised, and tells it to people
//! (text) and to programs (JSON).
//!
//! A report is a function of the history and the options. It contains no time of day and no path, so
//! two runs of one seed give the same report byte for byte.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use quorate::proto::etcdserverpb as pb;
use serde::Serialize;

use crate::history::{Answer, History, Nanos, OpId, Outcome, Request, WatchEvent};
use crate::lease::{self, LeaseTimes};
use crate::linearizability::{self, Author, partition};
use crate::property::{Property, Violation};
use crate::{alarm, claim, compaction, durability, identity, once, permission, watch};

/// What the tester knows beside the history.
#[derive(Clone, Debug, Default)]
pub struct JudgeOptions {
    /// Enables the lease checks.
    pub lease_times: Option<LeaseTimes>,
    /// What the quiet end could not reach; a violation of liveness.
    pub liveness_failure: Option<Violation>,
    /// Members that were replaced by new ones at the same address.
    pub replacements: u64,
    /// Members that ended by themselves.
    pub crashes: Vec<String>,
    /// The members compact by themselves: an answer may show a compaction that nobody asked for.
    pub auto_compaction: bool,
    /// The members write by themselves, as for locks: only what holds without knowledge of every write is judged.
    pub unknown_writes: bool,
    /// Leaves out the per-key search, the costliest check.
    pub skip_per_key: bool,
}

/// The verdict on a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every check accepts.
    Passed,
    /// At least one property does not hold.
    Refused,
    /// No violation, but a check could not come to an end, or there was nothing to judge.
    Undecided,
}

#[derive(Clone, Debug)]
pub struct Report {
    pub verdict: Verdict,
    pub violations: Vec<Violation>,
    /// Why something could not be decided.
    pub undecided: Vec<String>,
    pub counts: Counts,
    pub latencies: Latencies,
    /// The operations of the first violation, in full.
    pub first_operations: Vec<String>,
}

/// What the run exercised; a zero here means that a check had nothing to check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub operations: u64,
    pub ok: u64,
    pub denied: u64,
    pub unknown: u64,
    pub by_kind: BTreeMap<String, Outcomes>,
    /// Attempts that clients sent again by themselves, by how they had ended.
    pub again: BTreeMap<String, u64>,
    pub revisions: u64,
    /// Revisions made by operations with unknown result.
    pub revisions_of_unknown: u64,
    pub revisions_of_expiry: u64,
    pub failed_compares: u64,
    pub watches: u64,
    pub watch_streams: u64,
    pub watch_events: u64,
    pub watch_progress: u64,
    pub watch_compacted: u64,
    pub members_at_end: u64,
    pub keys_checked_alone: u64,
    pub keys_undecided_alone: u64,
    /// Keys that were to be written once, and those of them that have another version than 1 at the end.
    pub once: u64,
    pub once_other_versions: u64,
    /// Calls of limited users that were carried out, and refused.
    pub permitted: u64,
    pub not_permitted: u64,
    pub alarms: u64,
    pub refused_for_space: u64,
    /// Answers that somebody holds a lock, or leads.
    pub claims: u64,
    pub notes: u64,
}

/// Times of answered operations, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Latencies {
    pub p50_nanos: Nanos,
    pub p99_nanos: Nanos,
    pub max_nanos: Nanos,
    /// From the first invocation to the last return.
    pub duration_nanos: Nanos,
}

/// Judges a history by every property.
pub fn judge(history: &History, options: &JudgeOptions) -> Report {
    let mut counts = count(history);
    let (mut violations, mut undecided) = (Vec::new(), Vec::new());
    if !options.unknown_writes {
        judge_writes(history, options, &mut counts, &mut violations, &mut undecided);
    }
    violations.extend(compaction::check(history, options.auto_compaction));
    violations.extend(identity::check(history, options.replacements));
    violations.extend(durability::check_convergence(history));
    violations.extend(permission::check(history));
    violations.extend(alarm::check(history));
    let (once, twice) = once::check(history);
    (counts.once, counts.once_other_versions) = (once.keys, once.other_versions);
    violations.extend(twice);
    let claims = claim::check(history);
    violations.extend(claims.violations);
    undecided.extend(claims.undecided);
    violations.extend(options.liveness_failure.clone());
    for text in &options.crashes {
        violations.push(Violation::of_operations(Property::StaysUp, [], text.clone()));
    }
    if counts.ok == 0 {
        undecided.push("no operation was answered: there is nothing to judge".into());
    }
    let verdict = match (violations.is_empty(), undecided.is_empty()) {
        (false, _) => Verdict::Refused,
        (true, false) => Verdict::Undecided,
        (true, true) => Verdict::Passed,
    };
    let first_operations = first_operations(history, violations.first());
    Report {
        verdict,
        violations,
        undecided,
        counts,
        latencies: latencies(history),
        first_operations,
    }
}

/// What can be judged by one who knows every write.
fn judge_writes(
    history: &History,
    options: &JudgeOptions,
    counts: &mut Counts,
    violations: &mut Vec<Violation>,
    undecided: &mut Vec<String>,
) {
    let checked = linearizability::check(history);
    violations.extend(checked.violations);
    undecided.extend(checked.undecided);
    violations.extend(watch::check(history, &checked.timeline, options.auto_compaction));
    violations.extend(durability::check(history));
    if let Some(times) = &options.lease_times {
        violations.extend(lease::check(history, &checked.timeline, times));
    }
    for (_, revision) in checked.timeline.between(2, checked.timeline.last()) {
        counts.revisions += 1;
        match revision.author {
            Author::Expiry { .. } => counts.revisions_of_expiry += 1,
            Author::Operation(id) if history.operations[id].outcome.is_unknown() => {
                counts.revisions_of_unknown += 1;
            }
            Author::Operation(_) => {}
        }
    }
    // One way of looking at all of a long run takes memory enough.
    drop(checked.timeline);
    if !options.skip_per_key {
        let per_key = partition::check(history);
        violations.extend(per_key.violations);
        counts.keys_checked_alone = per_key.keys as u64;
        counts.keys_undecided_alone = per_key.undecided as u64;
    }
}

fn first_operations(history: &History, violation: Option<&Violation>) -> Vec<String> {
    let ids: &[OpId] = violation.map_or(&[], |violation| &violation.operations);
    ids.iter()
        .filter_map(|id| history.operations.get(*id))
        .map(ToString::to_string)
        .collect()
}

/// The kinds of calls that the clients of a simulation make.
pub const KINDS: [&str; 13] = [
    "get",
    "get-serializable",
    "get-at-revision",
    "range",
    "put",
    "put-leased",
    "delete",
    "txn",
    "txn-nested",
    "compact",
    "lease-grant",
    "lease-revoke",
    "lease-keep-alive",
];

pub(crate) fn kind(request: &Request) -> &'static str {
    match request {
        Request::Range(r) if r.serializable => "get-serializable",
        Request::Range(r) if r.revision > 0 => "get-at-revision",
        Request::Range(r) if !r.range_end.is_empty() => "range",
        Request::Range(_) => "get",
        Request::Put(r) if r.lease != 0 => "put-leased",
        Request::Put(_) => "put",
        Request::Delete(_) => "delete",
        Request::Txn(r) if is_nested(r) => "txn-nested",
        Request::Txn(_) => "txn",
        Request::Compact(_) => "compact",
        Request::LeaseGrant(_) => "lease-grant",
        Request::LeaseRevoke(_) => "lease-revoke",
        Request::LeaseKeepAlive(_) => "lease-keep-alive",
        Request::LeaseTimeToLive(_) => "lease-time-to-live",
    }
}

fn is_nested(txn: &pb::TxnRequest) -> bool {
    let mut steps = txn.success.iter().chain(&txn.failure);
    steps.any(|step| matches!(step.request, Some(pb::request_op::Request::RequestTxn(_))))
}

/// How many of a kind of call were answered, refused, and neither.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Outcomes {
    pub ok: u64,
    pub denied: u64,
    pub unknown: u64,
}

impl Outcomes {
    pub fn all(&self) -> u64 {
        self.ok + self.denied + self.unknown
    }
}

fn count(history: &History) -> Counts {
    let mut counts = Counts {
        operations: history.operations.len() as u64,
        watches: history.watches.len() as u64,
        members_at_end: history.finals.len() as u64,
        notes: history.notes.len() as u64,
        alarms: history.alarms.len() as u64,
        claims: history.claims.len() as u64,
        ..Default::default()
    };
    for operation in &history.operations {
        for code in &operation.again {
            *counts.again.entry(format!("{code:?}")).or_default() += 1;
        }
        counts.refused_for_space += u64::from(alarm::is_refused(operation));
        if history.limited.contains(&operation.client) {
            counts.permitted += u64::from(operation.outcome.answer().is_some());
            counts.not_permitted += u64::from(permission::is_refused(operation));
        }
        let of_kind = counts
            .by_kind
            .entry(kind(&operation.request).to_owned())
            .or_default();
        match &operation.outcome {
            Outcome::Ok(answer) => {
                counts.ok += 1;
                of_kind.ok += 1;
                let failed = matches!(answer, Answer::Txn(txn) if !txn.succeeded);
                counts.failed_compares += u64::from(failed);
            }
            Outcome::Denied { .. } => {
                counts.denied += 1;
                of_kind.denied += 1;
            }
            Outcome::Unknown { .. } => {
                counts.unknown += 1;
                of_kind.unknown += 1;
            }
        }
    }
    for entry in history.watches.iter().flat_map(|watch| &watch.entries) {
        match &entry.event {
            WatchEvent::Opened { .. } => counts.watch_streams += 1,
            WatchEvent::Received(response) => {
                counts.watch_events += response.events.len() as u64;
                counts.watch_compacted += u64::from(response.compact_revision > 0);
                let progress = response.events.is_empty() && !response.created && !response.canceled;
                counts.watch_progress += u64::from(progress);
            }
            _ => {}
        }
    }
    counts
}

fn latencies(history: &History) -> Latencies {
    let mut times: Vec<Nanos> = history
        .operations
        .iter()
        .filter(|operation| operation.outcome.answer().is_some())
        .filter_map(|operation| Some(operation.returned?.nanos.saturating_sub(operation.invoked.nanos)))
        .collect();
    times.sort_unstable();
    let at = |share: usize| {
        let index = (times.len() * share / 100).min(times.len().saturating_sub(1));
        times.get(index).copied().unwrap_or(0)
    };
    let first = history.operations.iter().map(|op| op.invoked.nanos).min();
    let last = history
        .operations
        .iter()
        .filter_map(|op| op.returned)
        .map(|moment| moment.nanos)
        .max();
    Latencies {
        p50_nanos: at(50),
        p99_nanos: at(99),
        max_nanos: times.last().copied().unwrap_or(0),
        duration_nanos: last.unwrap_or(0).saturating_sub(first.unwrap_or(0)),
    }
}

#[derive(Serialize)]
struct JsonViolation<'a> {
    property: &'static str,
    guarantee: &'static str,
    message: &'a str,
    operations: &'a [OpId],
    watches: &'a [OpId],
}

#[derive(Serialize)]
struct JsonReport<'a> {
    verdict: Verdict,
    properties: BTreeMap<&'static str, &'static str>,
    violations: Vec<JsonViolation<'a>>,
    undecided: &'a [String],
    counts: &'a Counts,
    latencies: Latencies,
    first_operations: &'a [String],
}

impl Report {
    pub fn passed(&self) -> bool {
        self.verdict == Verdict::Passed
    }

    /// The property that failed first, if any did.
    pub fn first_property(&self) -> Option<Property> {
        self.violations.first().map(|violation| violation.property)
    }

    fn holds(&self, property: Property) -> bool {
        !self
            .violations
            .iter()
            .any(|violation| violation.property == property)
    }

    pub fn to_json(&self) -> String {
        let violations = self.violations.iter().map(|violation| JsonViolation {
            property: violation.property.name(),
            guarantee: violation.property.guarantee(),
            message: &violation.message,
            operations: &violation.operations,
            watches: &violation.watches,
        });
        let state = |property: &Property| {
            if self.holds(*property) {
                "holds"
            } else {
                "violated"
            }
        };
        let properties = Property::ALL
            .iter()
            .map(|property| (property.name(), state(property)))
            .collect();
        let report = JsonReport {
            verdict: self.verdict,
            properties,
            violations: violations.collect(),
            undecided: &self.undecided,
            counts: &self.counts,
            latencies: self.latencies,
            first_operations: &self.first_operations,
        };
        serde_json::to_string_pretty(&report).expect("a report has string keys and no custom serializer")
    }

    pub fn to_text(&self) -> String {
        let mut text = String::new();
        self.write_text(&mut text)
            .expect("writing to a string cannot fail");
        text
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        let c = &self.counts;
        writeln!(
            out,
            "operations   {} ({} ok, {} denied, {} unknown) in {:.1} s",
            c.operations,
            c.ok,
            c.denied,
            c.unknown,
            seconds(self.latencies.duration_nanos)
        )?;
        for (kind, outcomes) in &c.by_kind {
            let (ok, all) = (outcomes.ok, outcomes.all());
            writeln!(out, "  {kind:<20} {ok:>8} ok of {all}")?;
        }
        writeln!(
            out,
            "latency      p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            seconds(self.latencies.p50_nanos) * 1e3,
            seconds(self.latencies.p99_nanos) * 1e3,
            seconds(self.latencies.max_nanos) * 1e3
        )?;
        writeln!(
            out,
            "revisions    {} ({} of unknown writes, {} of expired leases), {} compares failed",
            c.revisions, c.revisions_of_unknown, c.revisions_of_expiry, c.failed_compares
        )?;
        writeln!(
            out,
            "watches      {} over {} streams: {} events, {} progress, {} compacted",
            c.watches, c.watch_streams, c.watch_events, c.watch_progress, c.watch_compacted
        )?;
        writeln!(
            out,
            "at the end   {} members compared, {} keys judged alone ({} undecided), {} faults and remarks",
            c.members_at_end, c.keys_checked_alone, c.keys_undecided_alone, c.notes
        )?;
        if c.once > 0 {
            let (all, other) = (c.once, c.once_other_versions);
            writeln!(
                out,
                "written once {all} keys, {other} of them with a version other than 1"
            )?;
        }
        if !c.again.is_empty() {
            writeln!(out, "sent again   {:?}", c.again)?;
        }
        writeln!(out, "properties")?;
        for property in Property::ALL {
            let count = self
                .violations
                .iter()
                .filter(|violation| violation.property == *property)
                .count();
            let state = match count {
                0 => "holds".into(),
                count => format!("VIOLATED ({count})"),
            };
            writeln!(out, "  {:<22} {state}", property.name())?;
        }
        for text in &self.undecided {
            writeln!(out, "undecided: {text}")?;
        }
        for violation in self.violations.iter().take(5) {
            writeln!(
                out,
                "\n{}: {}\n{}",
                violation.property.name(),
                violation.property.guarantee(),
                violation.message
            )?;
        }
        if self.violations.len() > 5 {
            writeln!(out, "\n… {} violations in all", self.violations.len())?;
        }
        let verdict = match self.verdict {
            Verdict::Passed => "PASSED",
            Verdict::Refused => "REFUSED",
            Verdict::Undecided => "UNDECIDED",
        };
        writeln!(out, "\nverdict: {verdict}")
    }
}

fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / 1e9
}
