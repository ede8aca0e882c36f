//! Where etcd differs from what its documentation, or common sense, suggests. The answers are those of 3.7.1.

use super::super::validate;
use super::*;
use crate::proto::command::command::Request as Command;
use crate::proto::etcdserverpb::alarm_request::AlarmAction::{Activate, Deactivate, Get};
use crate::proto::etcdserverpb::compare::{CompareResult, TargetUnion};
use crate::proto::membershippb;

#[test]
fn alarms_are_listed_by_type_and_disarmed_one_by_one() {
    let mut machine = Machine::new();
    let (none, nospace, corrupt) = (0, 1, 2);
    let mut ask = |action: pb::alarm_request::AlarmAction, member_id, alarm| {
        let request = pb::AlarmRequest {
            action: action.into(),
            member_id,
            alarm,
        };
        let Answer::Alarm(alarms) = machine.ok(Request::Alarm(request)) else {
            panic!("another answer")
        };
        alarms
            .iter()
            .map(|alarm| (alarm.member_id, alarm.alarm))
            .collect::<Vec<_>>()
    };
    for (action, member, alarm, expected) in [
        (Activate, 7, nospace, &[(7, 1)][..]),
        (Activate, 8, nospace, &[(8, 1)]),
        (Activate, 8, nospace, &[(8, 1)]),
        (Activate, 8, none, &[]),
        (Get, 7, none, &[(7, 1), (8, 1)]),
        (Get, 0, corrupt, &[]),
        (Deactivate, 0, nospace, &[]),
        (Deactivate, 7, none, &[]),
        (Get, 0, nospace, &[(7, 1), (8, 1)]),
        (Deactivate, 7, nospace, &[(7, 1)]),
        (Deactivate, 7, nospace, &[]),
        (Get, 0, none, &[(8, 1)]),
    ] {
        assert_eq!(
            ask(action, member, alarm),
            expected,
            "{action:?} {member} {alarm}"
        );
    }
}

#[test]
fn a_negative_revision_is_now_except_inside_a_transaction() {
    let mut machine = Machine::new();
    machine.put("a", "3");
    let at = |revision| pb::RangeRequest {
        revision,
        ..range("a", "")
    };
    let mut txn = |revision| {
        let read = op(request_op::Request::RequestRange(at(revision)));
        machine
            .apply(Request::Txn(then(vec![read, put_op("z", "1")])))
            .answer
            .err()
    };
    assert_eq!((txn(-5), txn(-1)), (Some(Denied::Compacted), None));
    assert_eq!(machine.range(at(-5)).unwrap().count, 1);
    let read_only = then(vec![op(request_op::Request::RequestRange(at(-5)))]);
    assert_eq!(
        machine.state.read_txn(&read_only, &machine.store).unwrap(),
        Err(Denied::Compacted)
    );
    machine.ok(compact(2));
    let now = op(request_op::Request::RequestRange(at(-1)));
    assert_eq!(
        machine.apply(Request::Txn(then(vec![now]))).answer,
        Err(Denied::Compacted)
    );
}

#[test]
fn an_unknown_compare_target_is_equal_and_an_unknown_result_holds() {
    let mut machine = Machine::new();
    machine.put("a", "3");
    for (target, result, key, expected) in [
        (9, CompareResult::Equal as i32, "a", true),
        (9, CompareResult::Greater as i32, "a", false),
        (9, CompareResult::NotEqual as i32, "a", false),
        (9, CompareResult::Equal as i32, "missing", true),
        (0, 9, "a", true),
        (3, 9, "missing", false),
    ] {
        let compare = pb::Compare {
            key: bytes(key),
            target,
            result,
            target_union: Some(TargetUnion::Version(77)),
            ..Default::default()
        };
        let request = pb::TxnRequest {
            compare: vec![compare],
            ..Default::default()
        };
        let found = responses(machine.ok(Request::Txn(request))).0;
        assert_eq!(found, expected, "target {target} result {result} {key}");
    }
}

/// Revisions in the headers of a transaction's answers, `None` without header.
#[test]
fn answers_inside_a_transaction_have_headers_of_their_own() {
    let mut machine = Machine::new();
    machine.put("a", "3");
    let inner = txn_op(then(vec![put_op("n", "1")]));
    let request = then(vec![
        delete_op("no", ""),
        range_op("a", ""),
        inner,
        delete_op("no", ""),
        range_op("a", ""),
    ]);
    let Answer::Txn(response) = machine.ok(Request::Txn(request)) else {
        panic!("another answer")
    };
    let revision = |op: &pb::ResponseOp| {
        use response_op::Response::{ResponseDeleteRange, ResponsePut, ResponseRange, ResponseTxn};
        match op.response.as_ref().unwrap() {
            ResponseRange(response) => response.header,
            ResponsePut(response) => response.header,
            ResponseDeleteRange(response) => response.header,
            ResponseTxn(response) => response.header,
        }
        .map(|header| header.revision)
    };
    let revisions: Vec<_> = response.responses.iter().map(revision).collect();
    assert_eq!(revisions, [Some(2), Some(2), Some(0), Some(3), Some(3)]);
    assert_eq!(response.header.unwrap().revision, 3);
}

/// The check at the front does not see the open end, so the order of operations decides. etcd panics where the put
/// must keep a value that the delete took away; every member here keeps nothing instead.
#[test]
fn a_put_behind_an_open_ended_delete_passes() {
    for (keeps_value, value) in [(false, "new"), (true, "")] {
        let mut machine = Machine::new();
        machine.ok(Request::LeaseGrant(pb::LeaseGrantRequest { id: 5, ttl: 9 }));
        machine.ok(leased("b", "old", 5));
        let put = pb::PutRequest {
            ignore_value: keeps_value,
            ignore_lease: true,
            ..put_request("b", if keeps_value { "" } else { value })
        };
        let request = then(vec![
            delete_op("a", "\0"),
            op(request_op::Request::RequestPut(put)),
        ]);
        assert_eq!(validate::txn(&request, 128), Ok(()));
        let outcome = machine.apply(Request::Txn(request));
        assert_eq!((outcome.revision, outcome.events.len()), (3, 2));
        for machine in [&machine, &machine.reopened()] {
            let kv = machine.range(range("b", "")).unwrap().kvs.remove(0);
            assert_eq!(
                (text(&kv.value).as_str(), kv.lease, kv.create_revision, kv.version),
                (value, 0, 3, 1)
            );
            assert!(machine.state.lease(5).unwrap().keys.is_empty());
        }
        // Both changes of that revision stay when it is the compact revision: a watch may start there.
        machine.ok(compact(3));
        let mut seen = 0;
        let told = machine.history(3, 9, &mut |_, events| {
            seen += events.len();
            true
        });
        assert_eq!((told, seen), (Ok(4), 2));
    }
}

#[test]
fn revision_filters_apply_to_what_the_limit_would_cut() {
    let mut machine = Machine::new();
    for (key, value) in [("a", "3"), ("b", "2"), ("c", "1"), ("a", "4")] {
        machine.put(key, value);
    }
    let filters = |limit, min_mod, max_mod, min_create, max_create| pb::RangeRequest {
        limit,
        min_mod_revision: min_mod,
        max_mod_revision: max_mod,
        min_create_revision: min_create,
        max_create_revision: max_create,
        ..range("a", "\0")
    };
    for (request, expected, more) in [
        (filters(1, -4, 0, 0, 0), "a=4", true),
        (filters(1, 0, -4, 0, 0), "", false),
        (filters(0, 4, 0, 0, 0), "a=4 c=1", false),
        (filters(1, 4, 4, 0, 0), "c=1", false),
        (filters(0, 0, 0, 3, 0), "b=2 c=1", false),
        (filters(1, 0, 0, 0, 3), "a=4", true),
    ] {
        let found = machine.range(request.clone()).unwrap();
        assert_eq!((found.count, found.more), (3, more), "{request:?}");
        assert_eq!(machine.pairs(request).join(" "), expected);
    }
}

#[test]
fn what_is_not_a_key_or_lease_survives_a_restart_and_makes_no_revision() {
    let mut machine = Machine::new();
    let attributes = membershippb::Attributes {
        name: "one".into(),
        client_urls: vec!["http://one:2379".into()],
    };
    machine
        .state
        .found([(11, vec!["http://one:2380".to_owned()])].into_iter());
    for command in [
        Command::ClusterVersionSet(membershippb::ClusterVersionSetRequest { ver: "3.7.0".into() }),
        Command::ClusterMemberAttrSet(membershippb::ClusterMemberAttrSetRequest {
            member_id: 11,
            member_attributes: Some(attributes.clone()),
        }),
        Command::LeaseGrant(pb::LeaseGrantRequest { id: 3, ttl: 60 }),
        Command::LeaseCheckpoint(pb::LeaseCheckpointRequest {
            checkpoints: vec![
                pb::LeaseCheckpoint {
                    id: 3,
                    remaining_ttl: 40,
                },
                pb::LeaseCheckpoint {
                    id: 4,
                    remaining_ttl: 40,
                },
            ],
        }),
    ] {
        let before = machine.state.digest();
        let outcome = machine.apply(command);
        assert!(outcome.answer.is_ok() && outcome.events.is_empty());
        assert_ne!(machine.state.digest(), before);
    }
    for state in [&machine.state, &machine.reopened().state] {
        assert_eq!(state.revision(), 1);
        assert_eq!(state.cluster_version(), Some("3.7.0"));
        assert_eq!(state.attributes(11), Some(&attributes));
        assert_eq!(state.attributes(12), None);
        let lease = state.lease(3).unwrap();
        assert_eq!(
            (lease.ttl, lease.remaining_ttl, state.leases().count()),
            (60, 40, 1)
        );
        assert_eq!(state.digest(), machine.state.digest());
        assert_eq!(state.position(), Position { term: 1, index: 4 });
    }
}

#[test]
fn lease_grants_are_refused_in_etcds_order() {
    let mut machine = Machine::new();
    let mut grant = |id, ttl| {
        machine
            .apply(Request::LeaseGrant(pb::LeaseGrantRequest { id, ttl }))
            .answer
    };
    assert_eq!(grant(0, 5), Err(Denied::LeaseNotFound));
    assert_eq!(grant(1, 9_000_000_001), Err(Denied::LeaseTtlTooLarge));
    assert_eq!(
        grant(1, 9_000_000_000),
        Ok(Answer::LeaseGrant {
            id: 1,
            ttl: 9_000_000_000
        })
    );
    assert_eq!(grant(1, 9_000_000_001), Err(Denied::LeaseTtlTooLarge));
    assert_eq!(grant(1, 5), Err(Denied::LeaseExists));
    assert_eq!(grant(-1, 5), Ok(Answer::LeaseGrant { id: -1, ttl: 5 }));
}

/// Sizes are logical: they begin below the smallest quota of etcd's own tests, and fall with a compaction.
#[test]
fn sizes_begin_small_grow_with_history_and_fall_with_compaction() {
    let mut machine = Machine::new();
    let total = |machine: &Machine| machine.state.logical_bytes().0;
    let empty = total(&machine);
    assert!(empty < 50_000);
    for _ in 0..10 {
        machine.put("k", &"v".repeat(4096));
    }
    let full = total(&machine);
    assert!(full > empty + 10 * 4096);
    machine.delete("k", "");
    assert!(total(&machine) > full, "deleting does not help");
    machine.ok(compact(12));
    assert!(total(&machine) > full, "until it is swept");
    machine.sweep();
    assert!(total(&machine) < empty + 200);
}
