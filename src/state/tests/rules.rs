//! The rules of `semantics` sections 1 to 5, 7, 11 and 12, one test each, quirks included.

use super::super::validate;
use super::*;
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::mvccpb::event::EventType;

#[test]
fn revisions_grow_by_one_for_what_changes_something() {
    let mut machine = Machine::new();
    assert_eq!(machine.state.revision(), 1);
    let grant = |id| Request::LeaseGrant(pb::LeaseGrantRequest { id, ttl: 5 });
    let leased = |key: &str, lease| {
        Request::Put(pb::PutRequest {
            lease,
            ..put_request(key, "v")
        })
    };
    let revoke = |id| Request::LeaseRevoke(pb::LeaseRevokeRequest { id });
    let two = Request::Txn(then(vec![put_op("x", "1"), put_op("y", "1")]));
    for (request, revision) in [
        (put("a", "1"), 2),
        (put("a", "1"), 3),
        (delete("nothing", ""), 3),
        (delete("a", ""), 4),
        (delete("a", ""), 4),
        (Request::Txn(pb::TxnRequest::default()), 4),
        (
            Request::Txn(then(vec![range_op("a", ""), delete_op("zzz", "")])),
            4,
        ),
        (two, 5),
        (grant(1), 5),
        (grant(2), 5),
        (leased("l1", 1), 6),
        (leased("l2", 1), 7),
        (revoke(2), 7),
        (revoke(1), 8),
        (compact(5), 8),
    ] {
        let outcome = machine.apply(request.clone());
        assert!(outcome.answer.is_ok(), "{request:?}");
        assert_eq!(outcome.revision, revision, "{request:?}");
    }
}

#[test]
fn a_pair_knows_its_life() {
    let mut machine = Machine::new();
    machine.put("k", "1");
    machine.put("k", "2");
    let kv = machine.range(range("k", "")).unwrap().kvs.remove(0);
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 3, 2));
    machine.delete("k", "");
    machine.put("k", "3");
    let kv = machine.range(range("k", "")).unwrap().kvs.remove(0);
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (5, 5, 1));
    let at = |revision| {
        machine.pairs(pb::RangeRequest {
            revision,
            ..range("k", "")
        })
    };
    assert_eq!(
        (at(2), at(3), at(4), at(5)),
        (vec!["k=1".into()], vec!["k=2".into()], vec![], vec!["k=3".into()])
    );
}

#[test]
fn events_show_changes_in_order_and_deletions_bare() {
    let mut machine = Machine::new();
    machine.put("b", "1");
    machine.put("a", "1");
    let outcome = machine.apply(delete("a", "c"));
    let seen: Vec<_> = outcome
        .events
        .iter()
        .map(|event| (event.r#type(), event.kv.clone().unwrap()))
        .collect();
    assert_eq!(seen.len(), 2);
    for ((kind, kv), key) in seen.into_iter().zip(["a", "b"]) {
        assert_eq!(kind, EventType::Delete);
        assert_eq!(
            kv,
            crate::proto::mvccpb::KeyValue {
                key: bytes(key),
                mod_revision: 4,
                ..Default::default()
            }
        );
    }
}

#[test]
fn ranges_count_cut_and_refuse() {
    let mut machine = Machine::new();
    for key in ["a", "b", "c", "d"] {
        machine.put(key, key);
    }
    let all = || range("a", "\0");
    let cut = machine.range(pb::RangeRequest { limit: 2, ..all() }).unwrap();
    assert_eq!((cut.kvs.len(), cut.count, cut.more), (2, 4, true));
    let counted = machine
        .range(pb::RangeRequest {
            count_only: true,
            ..all()
        })
        .unwrap();
    assert_eq!((counted.kvs.len(), counted.count, counted.more), (0, 4, false));
    assert_eq!(machine.pairs(range("b", "d")), ["b=b", "c=c"]);
    assert_eq!(machine.pairs(range("c", "a")), Vec::<String>::new());
    assert_eq!(machine.range(range("\0", "\0")).unwrap().count, 4);
    // Count ignores the filters; `more` does not.
    let filtered = machine
        .range(pb::RangeRequest {
            min_mod_revision: 4,
            limit: 1,
            ..all()
        })
        .unwrap();
    assert_eq!(
        (text(&filtered.kvs[0].key), filtered.count, filtered.more),
        ("c".into(), 4, true)
    );
    let old = machine
        .range(pb::RangeRequest {
            revision: 3,
            count_only: true,
            ..all()
        })
        .unwrap();
    assert_eq!((old.count, old.header.unwrap().revision), (2, 5));
    assert_eq!(
        machine.range(pb::RangeRequest { revision: 6, ..all() }),
        Err(Denied::FutureRevision)
    );
    machine.ok(compact(4));
    assert_eq!(
        machine.range(pb::RangeRequest { revision: 3, ..all() }),
        Err(Denied::Compacted)
    );
    assert_eq!(
        machine
            .range(pb::RangeRequest { revision: 4, ..all() })
            .unwrap()
            .count,
        3
    );
}

/// etcd reads one pair more than the limit before it sorts: the answers here are those of 3.7.1.
#[test]
fn order_none_with_a_target_reads_one_more_than_the_limit_then_sorts() {
    use SortOrder::{Ascend, Descend, None};
    use SortTarget::{Create, Key, Mod, Value, Version};
    let mut machine = Machine::new();
    for (key, value) in [("a", "3"), ("b", "2"), ("c", "1"), ("d", "0"), ("a", "4")] {
        machine.put(key, value);
    }
    for (order, target, limit, expected, more) in [
        (None, Value, 2, "c=1 b=2", true),
        (None, Value, 1, "b=2", true),
        (None, Value, 0, "d=0 c=1 b=2 a=4", false),
        (None, Version, 3, "b=2 c=1 d=0", true),
        (None, Key, 2, "a=4 b=2", true),
        (Ascend, Key, 4, "a=4 b=2 c=1 d=0", false),
        (Ascend, Value, 2, "d=0 c=1", true),
        (Descend, Value, 1, "a=4", true),
        (Descend, Key, 2, "d=0 c=1", true),
        (Descend, Create, 0, "d=0 c=1 b=2 a=4", false),
        (Descend, Mod, 0, "a=4 d=0 c=1 b=2", false),
    ] {
        let request = pb::RangeRequest {
            sort_order: order.into(),
            sort_target: target.into(),
            limit,
            ..range("a", "\0")
        };
        let found = machine.range(request.clone()).unwrap();
        let case = format!("{order:?} {target:?} {limit}");
        assert_eq!(machine.pairs(request).join(" "), expected, "{case}");
        assert_eq!((found.more, found.count), (more, 4), "{case}");
    }
}

#[test]
fn keys_only_loses_the_lease_unless_sorted_by_value() {
    let mut machine = Machine::new();
    machine.ok(Request::LeaseGrant(pb::LeaseGrantRequest { id: 9, ttl: 5 }));
    machine.ok(Request::Put(pb::PutRequest {
        lease: 9,
        ..put_request("k", "v")
    }));
    let keys_only = pb::RangeRequest {
        keys_only: true,
        ..range("k", "")
    };
    let kv = machine.range(keys_only.clone()).unwrap().kvs.remove(0);
    assert_eq!((kv.value.len(), kv.lease, kv.version), (0, 0, 1));
    let by_value = pb::RangeRequest {
        sort_target: SortTarget::Value.into(),
        ..keys_only
    };
    assert_eq!(machine.range(by_value).unwrap().kvs.remove(0).lease, 9);
}

#[test]
fn puts_keep_what_they_are_told_to_keep() {
    let mut machine = Machine::new();
    let keep = |value, lease| {
        Request::Put(pb::PutRequest {
            ignore_value: value,
            ignore_lease: lease,
            prev_kv: true,
            ..put_request("k", "")
        })
    };
    assert_eq!(machine.apply(keep(true, false)).answer, Err(Denied::KeyNotFound));
    assert_eq!(
        machine
            .apply(Request::Put(pb::PutRequest {
                lease: 3,
                ..put_request("k", "v")
            }))
            .answer,
        Err(Denied::LeaseNotFound)
    );
    machine.ok(Request::LeaseGrant(pb::LeaseGrantRequest { id: 3, ttl: 5 }));
    machine.ok(Request::Put(pb::PutRequest {
        lease: 3,
        ..put_request("k", "v")
    }));
    let Answer::Put(response) = machine.ok(keep(true, true)) else {
        panic!()
    };
    assert_eq!(text(&response.prev_kv.unwrap().value), "v");
    let kv = machine.range(range("k", "")).unwrap().kvs.remove(0);
    assert_eq!((text(&kv.value), kv.lease, kv.version), ("v".into(), 3, 2));
    machine.ok(keep(true, false));
    assert_eq!(machine.range(range("k", "")).unwrap().kvs.remove(0).lease, 0);
    assert!(machine.state.lease(3).unwrap().keys.is_empty());
}

#[test]
fn checks_at_the_front_name_what_is_wrong() {
    let ok = |request: pb::TxnRequest| validate::txn(&request, 3);
    let nested = |ops: Vec<pb::RequestOp>, otherwise: Vec<pb::RequestOp>| {
        txn_op(pb::TxnRequest {
            success: ops,
            failure: otherwise,
            ..Default::default()
        })
    };
    for (request, expected) in [
        (then(vec![put_op("a", ""), put_op("b", "")]), Ok(())),
        (
            then(vec![put_op("a", ""), put_op("a", "")]),
            Err(Denied::DuplicateKey),
        ),
        (
            then(vec![put_op("b", ""), delete_op("a", "c")]),
            Err(Denied::DuplicateKey),
        ),
        (then(vec![delete_op("a", "c"), delete_op("b", "d")]), Ok(())),
        // etcd does not see an open end in this check.
        (then(vec![put_op("b", ""), delete_op("a", "\0")]), Ok(())),
        (
            then(vec![put_op("a", ""), nested(vec![put_op("a", "")], vec![])]),
            Err(Denied::DuplicateKey),
        ),
        (
            then(vec![nested(vec![put_op("a", "")], vec![put_op("a", "")])]),
            Ok(()),
        ),
        (
            then(vec![
                nested(vec![put_op("a", "")], vec![]),
                nested(vec![put_op("a", "")], vec![]),
            ]),
            Err(Denied::DuplicateKey),
        ),
        (
            then(vec![delete_op("a", ""), nested(vec![put_op("a", "")], vec![])]),
            Err(Denied::DuplicateKey),
        ),
        (
            then(vec![put_op("a", ""), nested(vec![delete_op("a", "")], vec![])]),
            Err(Denied::DuplicateKey),
        ),
        (then(vec![range_op("a", ""); 4]), Err(Denied::TooManyOps)),
        (
            then(vec![
                range_op("a", ""),
                nested(vec![range_op("a", ""); 2], vec![]),
            ]),
            Err(Denied::TooManyOps),
        ),
        (
            then(vec![pb::RequestOp { request: None }]),
            Err(Denied::KeyNotFound),
        ),
        (then(vec![range_op("", "")]), Err(Denied::EmptyKey)),
    ] {
        assert_eq!(ok(request.clone()), expected, "{request:?}");
    }
    let unsorted = pb::RangeRequest {
        sort_order: 9,
        ..range("a", "")
    };
    assert_eq!(validate::range(&unsorted), Err(Denied::InvalidSortOption));
    let both = pb::PutRequest {
        ignore_value: true,
        ..put_request("k", "v")
    };
    assert_eq!(validate::put(&both), Err(Denied::ValueProvided));
    assert!(
        validate::is_serializable(&pb::TxnRequest::default()),
        "vacuously, as in etcd"
    );
    assert!(!validate::is_read_only(&then(vec![nested(
        vec![range_op("a", "")],
        vec![]
    )])));
}

fn compare(
    key: &str,
    end: &str,
    target: CompareTarget,
    result: CompareResult,
    union: TargetUnion,
) -> pb::Compare {
    pb::Compare {
        key: bytes(key),
        range_end: bytes(end),
        target: target.into(),
        result: result.into(),
        target_union: Some(union),
    }
}

#[test]
fn compares_see_keys_missing_keys_and_ranges() {
    use CompareResult::*;
    use CompareTarget::*;
    let mut machine = Machine::new();
    machine.put("a", "1");
    machine.put("b", "1");
    machine.put("b", "2");
    let number = |target, result, value| {
        let union = match target {
            Version => TargetUnion::Version(value),
            Create => TargetUnion::CreateRevision(value),
            Mod => TargetUnion::ModRevision(value),
            _ => TargetUnion::Lease(value),
        };
        (target, result, union)
    };
    let value = |result, text: &str| (Value, result, TargetUnion::Value(bytes(text)));
    for (key, end, (target, result, union), expected) in [
        ("a", "", value(Equal, "1"), true),
        ("a", "", value(NotEqual, "1"), false),
        ("b", "", value(Greater, "1"), true),
        ("b", "", value(Less, "1"), false),
        ("b", "", number(Version, Equal, 2), true),
        ("b", "", number(Create, Equal, 3), true),
        ("b", "", number(Mod, Greater, 3), true),
        ("b", "", number(Lease, Equal, 0), true),
        ("missing", "", number(Version, Equal, 0), true),
        ("missing", "", number(Mod, Less, 1), true),
        ("missing", "", value(Equal, ""), false),
        ("missing", "", value(NotEqual, "x"), false),
        ("a", "\0", number(Mod, Greater, 1), true),
        ("a", "\0", value(Equal, "1"), false),
        ("x", "\0", number(Create, Equal, 0), true),
        ("x", "\0", value(NotEqual, "1"), false),
    ] {
        let request = pb::TxnRequest {
            compare: vec![compare(key, end, target, result, union.clone())],
            ..Default::default()
        };
        let (succeeded, _) = responses(machine.ok(Request::Txn(request)));
        assert_eq!(
            succeeded, expected,
            "{key:?}..{end:?} {target:?} {result:?} {union:?}"
        );
    }
    let unknown = pb::Compare {
        result: 77,
        ..compare("a", "", Value, Equal, TargetUnion::Value(bytes("no")))
    };
    let request = pb::TxnRequest {
        compare: vec![unknown],
        ..Default::default()
    };
    assert!(
        responses(machine.ok(Request::Txn(request))).0,
        "an unknown operator holds"
    );
}

#[test]
fn nested_compares_see_the_state_before_and_operations_see_each_other() {
    let mut machine = Machine::new();
    let missing = compare(
        "k",
        "",
        CompareTarget::Version,
        CompareResult::Equal,
        TargetUnion::Version(0),
    );
    let inner = pb::TxnRequest {
        compare: vec![missing],
        success: vec![put_op("then", "1")],
        failure: vec![put_op("else", "1")],
    };
    let outer = then(vec![
        put_op("k", "v"),
        range_op("k", ""),
        txn_op(inner),
        delete_op("then", ""),
    ]);
    // The shape check at the front would refuse the delete; the state itself runs what it is given.
    let (succeeded, answers) = responses(machine.ok(Request::Txn(outer)));
    assert!(succeeded);
    let response_op::Response::ResponseRange(seen) = &answers[1] else {
        panic!()
    };
    assert_eq!((seen.count, seen.header.as_ref().unwrap().revision), (1, 2));
    assert_eq!(
        (machine.get("then"), machine.get("else"), machine.state.revision()),
        (None, None, 2)
    );
}

#[test]
fn one_bad_operation_refuses_the_whole_transaction() {
    let mut machine = Machine::new();
    machine.put("a", "1");
    let future = pb::RangeRequest {
        revision: 3,
        ..range("a", "")
    };
    let leased = pb::PutRequest {
        lease: 5,
        ..put_request("b", "v")
    };
    for (bad, expected) in [
        (request_op::Request::RequestRange(future), Denied::FutureRevision),
        (request_op::Request::RequestPut(leased), Denied::LeaseNotFound),
        (
            request_op::Request::RequestPut(pb::PutRequest {
                ignore_value: true,
                ..put_request("no", "")
            }),
            Denied::KeyNotFound,
        ),
    ] {
        let outcome = machine.apply(Request::Txn(then(vec![put_op("a", "2"), op(bad)])));
        assert_eq!(outcome.answer, Err(expected));
        assert_eq!((machine.get("a"), outcome.revision), (Some("1".into()), 2));
    }
}

#[test]
fn compaction_keeps_what_can_still_be_read() {
    let mut machine = Machine::new();
    machine.put("a", "1");
    machine.put("a", "2");
    machine.put("b", "1");
    machine.delete("b", "");
    machine.put("a", "3");
    assert_eq!(machine.apply(compact(7)).answer, Err(Denied::FutureRevision));
    machine.ok(compact(5));
    assert_eq!(machine.apply(compact(5)).answer, Err(Denied::Compacted));
    let dead: Vec<i64> = machine.dead_records().iter().map(|at| at.main).collect();
    // a at 2 is superseded, b at 4 deleted; the tombstone at 5 stays for a watch that starts there.
    assert_eq!(dead, [2, 4]);
    machine.ok(compact(6));
    let mut dead: Vec<i64> = machine.dead_records().iter().map(|at| at.main).collect();
    dead.sort_unstable();
    assert_eq!(dead, [3, 5]);
    assert_eq!(machine.get("a"), Some("3".into()));
    let mut reopened = machine.reopened();
    assert_eq!(
        reopened.dead_records().len(),
        4,
        "what is still stored is named again"
    );
    assert_eq!(reopened.state.logical_bytes(), machine.state.logical_bytes());
}

#[test]
fn revoking_a_lease_deletes_its_keys_in_one_revision() {
    let mut machine = Machine::new();
    machine.ok(Request::LeaseGrant(pb::LeaseGrantRequest { id: 1, ttl: 5 }));
    let again = Request::LeaseGrant(pb::LeaseGrantRequest { id: 1, ttl: 5 });
    assert_eq!(machine.apply(again).answer, Err(Denied::LeaseExists));
    for key in ["z", "a", "m"] {
        machine.ok(Request::Put(pb::PutRequest {
            lease: 1,
            ..put_request(key, "v")
        }));
    }
    machine.put("m", "detached");
    let mut machine = machine.reopened();
    let outcome = machine.apply(Request::LeaseRevoke(pb::LeaseRevokeRequest { id: 1 }));
    let keys: Vec<String> = outcome
        .events
        .iter()
        .map(|event| text(&event.kv.as_ref().unwrap().key))
        .collect();
    assert_eq!((keys, outcome.revision), (vec!["a".to_owned(), "z".into()], 6));
    let gone = Request::LeaseRevoke(pb::LeaseRevokeRequest { id: 1 });
    assert_eq!(machine.apply(gone).answer, Err(Denied::LeaseNotFound));
}

#[test]
fn alarms_stop_what_they_should() {
    let mut machine = Machine::new();
    machine.put("k", "v");
    let alarm = |action: pb::alarm_request::AlarmAction, alarm: pb::AlarmType| {
        Request::Alarm(pb::AlarmRequest {
            action: action.into(),
            member_id: 7,
            alarm: alarm.into(),
        })
    };
    use pb::alarm_request::AlarmAction::{Activate, Deactivate, Get};
    machine.ok(alarm(Activate, pb::AlarmType::Nospace));
    assert_eq!(machine.apply(put("k", "w")).answer, Err(Denied::NoSpace));
    assert_eq!(
        machine.apply(Request::Txn(then(vec![put_op("k", "w")]))).answer,
        Err(Denied::NoSpace)
    );
    assert!(
        machine
            .apply(Request::Txn(then(vec![range_op("k", "")])))
            .answer
            .is_ok()
    );
    assert_eq!(machine.delete("k", ""), 1);
    let mut machine = machine.reopened();
    let Answer::Alarm(listed) = machine.ok(alarm(Get, pb::AlarmType::None)) else {
        panic!()
    };
    assert_eq!(listed.len(), 1);
    machine.ok(alarm(Deactivate, pb::AlarmType::Nospace));
    machine.put("k", "w");
    machine.ok(alarm(Activate, pb::AlarmType::Corrupt));
    assert_eq!(machine.apply(delete("k", "")).answer, Err(Denied::Corrupt));
    assert_eq!(machine.get("k"), Some("w".into()));
}

#[test]
fn history_is_told_in_whole_revisions() {
    let mut machine = Machine::new();
    machine.put("a", "1");
    machine.ok(Request::Txn(then(vec![put_op("b", "1"), put_op("c", "1")])));
    machine.delete("a", "");
    let told = |from, most| {
        let mut told = Vec::new();
        let next = machine.history(from, most, &mut |revision, events| {
            told.push((revision, events.len()));
            true
        });
        (told, next)
    };
    assert_eq!(told(2, 100), (vec![(2, 1), (3, 2), (4, 1)], Ok(5)));
    assert_eq!(told(3, 1), (vec![(3, 2)], Ok(4)));
    assert_eq!(told(5, 100), (vec![], Ok(5)));
    assert_eq!(machine.history(2, 100, &mut |_, _| false), Ok(3));
    let before = machine.prev_kv(b"a", 4).unwrap();
    assert_eq!((text(&before.value), before.mod_revision), ("1".into(), 2));
    assert_eq!(machine.prev_kv(b"a", 2), None);
}

#[test]
fn history_below_the_compaction_is_refused() {
    let mut machine = Machine::new();
    for n in 0..5 {
        machine.put("a", &n.to_string());
    }
    machine.ok(compact(4));
    let from = |from| machine.history(from, 9, &mut |_, _| true);
    assert_eq!(from(3), Err(Denied::Compacted));
    assert_eq!(from(4), Ok(7));
    assert_eq!(machine.prev_kv(b"a", 4), None, "what it replaced is compacted");
}
