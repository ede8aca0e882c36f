use bytes::Bytes;
use proptest::prelude::*;
use quorate::proto::etcdserverpb as pb;
use quorate::proto::mvccpb::{Event, KeyValue};

use super::search::{Store, Verdict, search, store_calls};
use super::{check, check_within, partition};
use crate::forge::{Forge, Lie};
use crate::history::{Answer, History, OpId, Outcome, Recorder, Request, WatchEvent};
use crate::property::Property;
use crate::report::{JudgeOptions, judge};
use crate::watch;
use crate::workload::{Shape, Weights, Workload};

/// Writes a history by hand, one event per call.
#[derive(Default)]
struct Script(Recorder);

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader {
        revision,
        ..Default::default()
    })
}

fn pair(key: &str, value: &str, create: i64, modified: i64, version: i64) -> KeyValue {
    KeyValue {
        key: bytes(key),
        value: bytes(value),
        create_revision: create,
        mod_revision: modified,
        version,
        lease: 0,
    }
}

impl Script {
    fn invoke(&self, client: u32, request: impl Into<Request>) -> OpId {
        self.0.invoke(client, 0, 0, request.into())
    }

    fn ok(&self, id: OpId, answer: impl Into<Answer>) {
        self.0.complete(id, 0, Outcome::Ok(answer.into()));
    }

    fn unknown(&self, id: OpId) {
        self.0.complete(id, 0, Outcome::unknown("lost"));
    }

    fn put_request(key: &str, value: &str) -> pb::PutRequest {
        pb::PutRequest {
            key: bytes(key),
            value: bytes(value),
            ..Default::default()
        }
    }

    fn put_ok(&self, id: OpId, revision: i64) {
        let header = header(revision);
        self.ok(
            id,
            pb::PutResponse {
                header,
                prev_kv: None,
            },
        );
    }

    /// A put from invocation to return.
    fn put(&self, key: &str, value: &str, revision: i64) -> OpId {
        let id = self.invoke(0, Self::put_request(key, value));
        self.put_ok(id, revision);
        id
    }

    fn get_request(key: &str) -> pb::RangeRequest {
        pb::RangeRequest {
            key: bytes(key),
            ..Default::default()
        }
    }

    fn get_ok(&self, id: OpId, revision: i64, found: Option<KeyValue>) {
        let kvs: Vec<KeyValue> = found.into_iter().collect();
        let (header, count) = (header(revision), kvs.len() as i64);
        self.ok(
            id,
            pb::RangeResponse {
                header,
                kvs,
                count,
                more: false,
            },
        );
    }

    fn get(&self, key: &str, revision: i64, found: Option<KeyValue>) -> OpId {
        let id = self.invoke(1, Self::get_request(key));
        self.get_ok(id, revision, found);
        id
    }

    /// Both checkers' verdicts have to agree; returns the fast one's properties.
    fn judge(&self) -> Vec<Property> {
        judge_both(&self.0.history())
    }
}

fn judge_both(history: &History) -> Vec<Property> {
    let checked = check(history);
    assert_eq!(checked.undecided, None);
    let found: Vec<Property> = checked
        .violations
        .iter()
        .map(|violation| violation.property)
        .collect();
    let oracle = search(&Store, &store_calls(history), 1_000_000);
    assert_ne!(oracle, Verdict::OutOfBudget);
    assert_eq!(
        oracle == Verdict::Linearizable,
        found.is_empty(),
        "the search says {oracle:?}, the revisions say {:#?}",
        checked.violations
    );
    found
}

#[test]
fn overlapping_writes_are_ordered_by_their_revisions() {
    let s = Script::default();
    let first = s.invoke(0, Script::put_request("a", "1"));
    let second = s.invoke(1, Script::put_request("a", "2"));
    s.put_ok(first, 3);
    s.put_ok(second, 2);
    s.get("a", 3, Some(pair("a", "1", 2, 3, 2)));
    assert_eq!(s.judge(), []);
}

#[test]
fn a_stale_read_is_refused() {
    let s = Script::default();
    s.put("a", "1", 2);
    s.put("a", "2", 3);
    s.get("a", 2, Some(pair("a", "1", 2, 2, 1)));
    assert_eq!(s.judge(), [Property::Linearizable]);
}

#[test]
fn an_old_value_under_a_new_revision_is_refused() {
    let s = Script::default();
    s.put("a", "1", 2);
    s.put("a", "2", 3);
    s.get("a", 3, Some(pair("a", "1", 2, 2, 1)));
    assert_eq!(s.judge(), [Property::Linearizable]);
}

#[test]
fn a_lost_acknowledged_write_is_refused() {
    let s = Script::default();
    s.put("a", "1", 2);
    s.put("b", "2", 2);
    assert_eq!(
        s.judge(),
        [Property::Linearizable, Property::ExactlyOnce],
        "the second write repeats revision 2, and comes too late for it"
    );
}

#[test]
fn revisions_against_real_time_are_refused() {
    let s = Script::default();
    s.put("a", "1", 3);
    s.put("b", "2", 2);
    assert_eq!(s.judge(), [Property::Linearizable]);
}

#[test]
fn a_write_that_takes_effect_twice_is_refused() {
    let s = Script::default();
    s.put("a", "1", 2);
    s.put("b", "x", 4);
    s.get("a", 4, Some(pair("a", "1", 2, 3, 2)));
    assert_eq!(s.judge(), [Property::ExactlyOnce]);
}

#[test]
fn a_refused_write_that_takes_effect_is_refused() {
    let s = Script::default();
    let id = s.invoke(0, Script::put_request("a", "1"));
    let text = "etcdserver: requested lease not found".to_owned();
    let code = tonic::Code::NotFound;
    s.0.complete(id, 0, Outcome::Denied { code, text });
    s.get("a", 2, Some(pair("a", "1", 2, 2, 1)));
    assert_eq!(s.judge(), [Property::RefusedNoEffect]);
}

#[test]
fn an_unknown_write_may_take_effect_late_once_or_never() {
    let s = Script::default();
    let lost = s.invoke(0, Script::put_request("a", "1"));
    s.unknown(lost);
    let never = s.invoke(0, Script::put_request("a", "never"));
    s.unknown(never);
    s.get("a", 1, None);
    s.put("b", "x", 2);
    s.get("a", 3, Some(pair("a", "1", 3, 3, 1)));
    assert_eq!(s.judge(), []);
    s.put("b", "y", 5);
    s.get("a", 5, Some(pair("a", "1", 3, 4, 2)));
    assert_eq!(s.judge(), [Property::ExactlyOnce], "a second time is too often");
}

#[test]
fn an_unknown_write_cannot_take_effect_before_it_was_sent() {
    let s = Script::default();
    s.put("b", "x", 3);
    let lost = s.invoke(0, Script::put_request("a", "1"));
    s.unknown(lost);
    s.get("a", 3, Some(pair("a", "1", 2, 2, 1)));
    assert_eq!(s.judge(), [Property::ExactlyOnce]);
}

#[test]
fn gaps_that_nobody_saw_are_filled_by_what_fits_later_answers() {
    let s = Script::default();
    s.put("a", "1", 2);
    s.put("b", "2", 3);
    for key in ["a", "b", "c"] {
        let request = pb::DeleteRangeRequest {
            key: bytes(key),
            ..Default::default()
        };
        let id = s.invoke(0, request);
        s.unknown(id);
    }
    // Revision 4 is the delete of a or of b; that it was a's shows only later.
    s.put("c", "3", 5);
    s.get("b", 5, Some(pair("b", "2", 3, 3, 1)));
    s.get("a", 5, None);
    s.get("c", 5, Some(pair("c", "3", 5, 5, 1)));
    assert_eq!(s.judge(), []);
    s.get("a", 5, Some(pair("a", "1", 2, 2, 1)));
    assert_eq!(s.judge(), [Property::Linearizable]);
}

/// Seed 1114: an answer does not show which version it made; a watch does, and so says what became of the key before.
#[test]
fn a_gap_is_filled_by_what_goes_with_the_versions_that_a_watch_shows_later() {
    for (a, b) in [((5, 1), (3, 2)), ((2, 2), (6, 1))] {
        let s = Script::default();
        s.put("a", "1", 2);
        s.put("b", "1", 3);
        for key in ["a", "b"] {
            let delete = pb::DeleteRangeRequest {
                key: bytes(key),
                ..Default::default()
            };
            let lost = s.invoke(1, delete);
            s.unknown(lost);
        }
        s.put("a", "2", 5);
        s.put("b", "2", 6);
        let everything = pb::WatchCreateRequest {
            key: bytes("\0"),
            range_end: bytes("\0"),
            start_revision: 5,
            ..Default::default()
        };
        let watch = s.0.watch(0, everything);
        let opened = WatchEvent::Opened {
            stream: 0,
            member: 0,
            start_revision: 5,
        };
        s.0.watch_event(watch, 0, opened);
        for (key, modified, (create, version)) in [("a", 5, a), ("b", 6, b)] {
            let response = pb::WatchResponse {
                header: header(modified),
                events: vec![Event {
                    kv: Some(pair(key, "2", create, modified, version)),
                    ..Default::default()
                }],
                ..Default::default()
            };
            s.0.watch_event(watch, 0, WatchEvent::Received(Box::new(response)));
        }
        let history = s.0.history();
        let checked = check(&history);
        assert_eq!(checked.violations, []);
        assert_eq!(watch::check(&history, &checked.timeline, false), []);
    }
}

/// Seed 2138: half of many lost writes are seen later, and so are not the authors of what nobody saw before. Any order of the others
/// will do, and that was tried after every wrong one.
#[test]
fn what_was_seen_at_its_revision_is_nobody_elses_guess() {
    let s = Script::default();
    for number in 0..24 {
        let id = s.invoke(0, Script::put_request("k", &format!("v{number}")));
        s.unknown(id);
    }
    s.put("l", "end", 26);
    for number in 12..24 {
        let revision = number + 2;
        let seen = pair("k", &format!("v{number}"), 2, revision, number + 1);
        let mut request = Script::get_request("k");
        request.revision = revision;
        let id = s.invoke(1, request);
        s.get_ok(id, 26, Some(seen));
    }
    let checked = check(&s.0.history());
    assert_eq!(checked.undecided, None);
    assert!(checked.violations.is_empty(), "{:?}", checked.violations);
}

#[test]
fn half_a_transaction_is_refused() {
    let s = Script::default();
    let op = |key: &str| pb::RequestOp {
        request: Some(pb::request_op::Request::RequestPut(Script::put_request(key, key))),
    };
    let put_response = pb::response_op::Response::ResponsePut(pb::PutResponse {
        header: header(2),
        prev_kv: None,
    });
    let response = pb::ResponseOp {
        response: Some(put_response),
    };
    let txn = pb::TxnRequest {
        success: vec![op("a"), op("b")],
        ..Default::default()
    };
    let id = s.invoke(0, txn);
    s.ok(
        id,
        pb::TxnResponse {
            header: header(2),
            succeeded: true,
            responses: vec![response.clone(), response],
        },
    );
    s.get("a", 2, Some(pair("a", "a", 2, 2, 1)));
    assert_eq!(s.judge(), []);
    s.get("b", 2, None);
    assert_eq!(s.judge(), [Property::Linearizable]);
}

#[test]
fn a_serializable_read_may_be_old_but_not_wrong_and_not_from_the_future() {
    let serializable = || pb::RangeRequest {
        serializable: true,
        ..Script::get_request("a")
    };
    let s = Script::default();
    s.put("a", "1", 2);
    s.put("a", "2", 3);
    let old = s.invoke(1, serializable());
    s.get_ok(old, 2, Some(pair("a", "1", 2, 2, 1)));
    assert_eq!(check(&s.0.history()).violations, []);

    let wrong = s.invoke(1, serializable());
    s.get_ok(wrong, 2, Some(pair("a", "2", 2, 3, 2)));
    let properties = |s: &Script| -> Vec<Property> {
        let violations = check(&s.0.history()).violations;
        violations.iter().map(|violation| violation.property).collect()
    };
    assert_eq!(properties(&s), [Property::SerializableRead]);

    let s = Script::default();
    let early = s.invoke(1, serializable());
    s.get_ok(early, 2, Some(pair("a", "1", 2, 2, 1)));
    s.put("a", "1", 2);
    assert_eq!(properties(&s), [Property::SerializableRead]);
}

#[test]
fn one_key_alone_shows_a_stale_read_without_any_revision() {
    let s = Script::default();
    s.put("a", "1", 0);
    s.put("a", "2", 0);
    s.get("a", 0, Some(pair("a", "2", 0, 0, 2)));
    assert_eq!(partition::check(&s.0.history()).violations, []);
    s.get("a", 0, Some(pair("a", "1", 0, 0, 1)));
    let found = partition::check(&s.0.history()).violations;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].property, Property::PerKey);
}

#[test]
fn forged_lies_are_found_by_the_property_they_break() {
    let check = |lie: Lie, expected: &[Property]| {
        let mut told = 0;
        for seed in 0..12 {
            let forge = Forge {
                lie: Some(lie),
                ..Forge::new(seed)
            };
            let (history, lied) = forge.run();
            if !lied {
                continue;
            }
            let report = judge(&history, &JudgeOptions::default());
            let found: Vec<Property> = report.violations.iter().map(|v| v.property).collect();
            told += 1;
            assert!(
                found.iter().any(|property| expected.contains(property)),
                "{lie:?} with seed {seed} was found as {found:?}"
            );
        }
        assert!(told >= 4, "{lie:?} was told only {told} times");
    };
    check(Lie::StaleRead, &[Property::Linearizable]);
    check(
        Lie::WrongState,
        &[Property::Linearizable, Property::SerializableRead],
    );
    check(Lie::LostWrite, &[Property::ExactlyOnce]);
    check(Lie::TwiceApplied, &[Property::ExactlyOnce]);
    check(Lie::RefusedYetApplied, &[Property::RefusedNoEffect]);
    check(Lie::HalfTxn, &[Property::Linearizable]);
    check(
        Lie::FutureRead,
        &[Property::SerializableRead, Property::Linearizable],
    );
}

/// Changes one answer a little: a revision, a value, a version, a count, or nothing.
fn perturb(history: &mut History, which: usize, how: u8) {
    let count = history.operations.len();
    let operation = &mut history.operations[which % count];
    let Outcome::Ok(answer) = &mut operation.outcome else {
        return;
    };
    let bump = |header: &mut Option<pb::ResponseHeader>, by: i64| {
        if let Some(header) = header {
            header.revision += by;
        }
    };
    match (how % 6, answer) {
        (0, Answer::Range(a)) => bump(&mut a.header, -1),
        (1, Answer::Range(a)) => bump(&mut a.header, 1),
        (2, Answer::Range(a)) => {
            a.kvs.pop();
            a.count = a.kvs.len() as i64;
        }
        (3, Answer::Put(a)) => bump(&mut a.header, 1),
        (4, Answer::Put(a)) => bump(&mut a.header, -1),
        (5, Answer::Txn(a)) => a.succeeded = !a.succeeded,
        _ => {}
    }
}

fn judge_perturbed(forge: Forge, which: usize, how: u8) {
    let (mut history, _) = forge.run();
    perturb(&mut history, which, how);
    // Final reads are not the search's business.
    history.finals.clear();
    judge_both(&history);
}

/// A share of the usual number of cases, which `PROPTEST_CASES` scales.
fn cases(divisor: u32) -> ProptestConfig {
    let mut config = ProptestConfig::default();
    config.cases = (config.cases / divisor).max(1);
    config
}

proptest! {
    #![proptest_config(cases(10))]

    #[test]
    fn what_a_correct_store_answers_is_accepted(seed in any::<u64>()) {
        let (history, _) = Forge::new(seed).run();
        let report = judge(&history, &JudgeOptions::default());
        prop_assert!(report.passed(), "{}", report.to_text());
        prop_assert!(report.counts.revisions > 100);
    }

    #[test]
    fn any_shape_of_workload_is_accepted(seed in any::<u64>()) {
        let shape = Shape { compaction_keeps: 10, ..Shape::drawn(seed) };
        let (history, _) = Forge { shape, ..Forge::new(seed) }.run();
        let report = judge(&history, &JudgeOptions::default());
        prop_assert!(report.passed(), "{}", report.to_text());
    }

    #[test]
    fn gaps_are_filled_without_any_watch(seed in any::<u64>()) {
        let forge = Forge { watches: false, unknown_percent: 15, ..Forge::new(seed) };
        let (history, _) = forge.run();
        let checked = check(&history);
        prop_assert_eq!(&checked.violations, &[]);
    }
}

/// As `Forge::small`, with leases that end unseen.
fn small_with_leases(seed: u64) -> Forge {
    let mut forge = Forge::small(seed);
    let usual = Weights::DEFAULT;
    let weights = &mut forge.shape.weights;
    (weights.lease_grant, weights.lease_revoke) = (usual.lease_grant, usual.lease_revoke);
    weights.leased_put = 4 * usual.leased_put;
    forge
}

proptest! {
    #![proptest_config(cases(1))]

    #[test]
    fn both_checkers_agree(seed in any::<u64>(), which in any::<usize>(), how in any::<u8>()) {
        judge_perturbed(Forge::small(seed), which, how);
    }

    #[test]
    fn both_checkers_agree_on_ends_of_leases(seed in any::<u64>(), which in any::<usize>(), how in any::<u8>()) {
        judge_perturbed(small_with_leases(seed), which, how);
    }
}

#[test]
fn the_perturbations_bite() {
    let refused = (0..200)
        .filter(|seed| {
            let (mut history, _) = Forge::small(*seed).run();
            perturb(&mut history, *seed as usize * 7, *seed as u8);
            !judge_both(&history).is_empty()
        })
        .count();
    assert!((20..180).contains(&refused), "{refused} of 200 were refused");
}

#[test]
fn a_write_cannot_have_the_revision_of_the_empty_store() {
    let s = Script::default();
    s.put("a", "1", 1);
    assert_eq!(s.judge(), [Property::Linearizable]);
}
#[test]
fn a_search_that_gives_up_accuses_nobody() {
    let workload = Workload::find("leases").expect("registered");
    let mut gave_up = 0;
    for seed in 0..500 {
        let shape = workload.load(seed).shape;
        let forge = Forge {
            shape,
            unknown_percent: 30,
            ..Forge::new(seed)
        };
        let (history, _) = forge.run();
        let checked = check_within(&history, 0);
        gave_up += u32::from(checked.undecided.is_some());
        assert_eq!(checked.violations, [], "{seed}");
        assert_eq!(watch::check(&history, &checked.timeline, false), [], "{seed}");
    }
    assert!(gave_up > 0);
}
