//! The rules of the model by example. That the rules are etcd's is tested against a real etcd in
//! `tests/model_against_etcd.rs`; these run everywhere and say what each rule is.

use bytes::Bytes;
use quorate::proto::etcdserverpb as pb;
use quorate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate::proto::etcdserverpb::request_op::Request as Op;

use super::{Applied, Model, Refusal, covers};
use crate::history::{Answer, Request};

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest {
        key: bytes(key),
        value: bytes(value),
        ..Default::default()
    }
}

fn range(key: &str, end: &str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: bytes(key),
        range_end: bytes(end),
        ..Default::default()
    }
}

fn delete(key: &str, end: &str) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest {
        key: bytes(key),
        range_end: bytes(end),
        ..Default::default()
    }
}

fn op(request: Op) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(request),
    }
}

fn txn(success: Vec<Op>) -> pb::TxnRequest {
    pb::TxnRequest {
        success: success.into_iter().map(op).collect(),
        ..Default::default()
    }
}

fn apply(model: &mut Model, request: impl Into<Request>) -> Applied {
    model.apply(&request.into(), None)
}

fn pairs(model: &Model, request: pb::RangeRequest) -> Vec<String> {
    let answer = model.range(&request, model.revision()).expect("a valid range");
    let show = |kv: &quorate::proto::mvccpb::KeyValue| {
        format!("{}={}", kv.key.escape_ascii(), kv.value.escape_ascii())
    };
    answer.kvs.iter().map(show).collect()
}

#[test]
fn only_changes_make_revisions_and_undo_takes_them_back() {
    let mut model = Model::strict();
    let mut revisions = vec![model.revision()];
    let requests: [Request; 6] = [
        put("a", "1").into(),
        put("a", "1").into(),
        delete("b", "").into(),
        delete("a", "\0").into(),
        txn(vec![Op::RequestRange(range("a", ""))]).into(),
        txn(vec![Op::RequestPut(put("a", "2")), Op::RequestPut(put("b", "2"))]).into(),
    ];
    for request in requests {
        let before = model.clone();
        let applied = apply(&mut model, request.clone());
        if !applied.events.is_empty() {
            let after = model.clone();
            model.undo(&applied);
            assert_eq!(model.revision(), before.revision());
            assert_eq!(
                pairs(&model, range("\0", "\0")),
                pairs(&before, range("\0", "\0"))
            );
            apply(&mut model, request);
            assert_eq!(model, after);
        }
        revisions.push(model.revision());
    }
    assert_eq!(revisions, [1, 2, 3, 3, 4, 4, 5]);
}

#[test]
fn versions_count_from_creation_and_old_revisions_stay() {
    let mut model = Model::strict();
    apply(&mut model, put("a", "1"));
    apply(&mut model, put("a", "2"));
    apply(&mut model, delete("a", ""));
    apply(&mut model, put("a", "3"));
    let seen = |revision| {
        model
            .get_at(b"a", revision)
            .map(|kv| (kv.create_revision, kv.version))
    };
    let history: Vec<_> = (1..=5).map(seen).collect();
    assert_eq!(history, [None, Some((2, 1)), Some((2, 2)), None, Some((5, 1))]);
}

#[test]
fn a_single_zero_byte_ends_a_range_at_infinity() {
    assert!(covers(b"a", b"", b"a") && !covers(b"a", b"", b"b"));
    assert!(covers(b"a", b"c", b"b") && !covers(b"a", b"c", b"c"));
    assert!(covers(b"b", b"\0", b"zz") && !covers(b"b", b"\0", b"a"));
    assert!(covers(b"\0", b"\0", b"\0"));
    let mut model = Model::strict();
    for key in ["a", "b", "c"] {
        apply(&mut model, put(key, key));
    }
    assert_eq!(pairs(&model, range("b", "\0")), ["b=b", "c=c"]);
    assert_eq!(pairs(&model, range("c", "a")), Vec::<String>::new());
}

#[test]
fn count_ignores_the_limit_and_keys_only_forgets_the_lease() {
    let mut model = Model::strict();
    apply(&mut model, pb::LeaseGrantRequest { ttl: 9, id: 7 });
    for key in ["a", "b", "c"] {
        let request = pb::PutRequest {
            lease: 7,
            ..put(key, "v")
        };
        apply(&mut model, request);
    }
    let request = pb::RangeRequest {
        limit: 2,
        keys_only: true,
        ..range("\0", "\0")
    };
    let answer = model.range(&request, model.revision()).expect("a valid range");
    assert_eq!((answer.count, answer.more, answer.kvs.len()), (3, true, 2));
    assert_eq!((answer.kvs[0].lease, answer.kvs[0].value.len()), (0, 0));
}

fn compare(key: &str, target: CompareTarget, result: CompareResult, operand: TargetUnion) -> pb::Compare {
    pb::Compare {
        result: result as i32,
        target: target as i32,
        key: bytes(key),
        target_union: Some(operand),
        ..Default::default()
    }
}

#[test]
fn a_missing_key_has_the_number_zero_and_no_value_at_all() {
    let mut model = Model::strict();
    let check = |model: &mut Model, compare, expected: bool| {
        let request = pb::TxnRequest {
            compare: vec![compare],
            ..Default::default()
        };
        let applied = apply(model, request);
        let Ok(Answer::Txn(answer)) = applied.result else {
            panic!("a transaction is answered");
        };
        assert_eq!(answer.succeeded, expected);
    };
    use CompareResult::{Equal, NotEqual};
    let zero = compare("a", CompareTarget::Version, Equal, TargetUnion::Version(0));
    check(&mut model, zero, true);
    let value = TargetUnion::Value(bytes("x"));
    let not_x = compare("a", CompareTarget::Value, NotEqual, value.clone());
    check(&mut model, not_x.clone(), false);
    apply(&mut model, put("a", "y"));
    check(&mut model, not_x, true);
    check(
        &mut model,
        compare("a", CompareTarget::Value, Equal, value),
        false,
    );
}

#[test]
fn nested_compares_see_the_state_before() {
    let mut model = Model::strict();
    let nested = pb::TxnRequest {
        compare: vec![compare(
            "a",
            CompareTarget::Version,
            CompareResult::Equal,
            TargetUnion::Version(0),
        )],
        success: vec![op(Op::RequestPut(put("b", "not there before")))],
        ..Default::default()
    };
    let request = txn(vec![Op::RequestPut(put("a", "1")), Op::RequestTxn(nested)]);
    let applied = apply(&mut model, request);
    assert_eq!(applied.events.len(), 2);
    assert_eq!(pairs(&model, range("b", "")), ["b=not there before"]);
}

#[test]
fn refusals_leave_no_trace() {
    let check = |request: Request, refusal: Refusal| {
        let mut model = Model::strict();
        apply(&mut model, put("a", "1"));
        let before = model.clone();
        assert_eq!(apply(&mut model, request).result, Err(refusal));
        assert_eq!(model, before);
    };
    let put_twice = txn(vec![Op::RequestPut(put("x", "1")), Op::RequestPut(put("x", "2"))]);
    check(put_twice.into(), Refusal::DUPLICATE_KEY);
    let put_and_delete = txn(vec![
        Op::RequestPut(put("x", "1")),
        Op::RequestDeleteRange(delete("w", "y")),
    ]);
    check(put_and_delete.into(), Refusal::DUPLICATE_KEY);
    let late = txn(vec![
        Op::RequestPut(put("x", "1")),
        Op::RequestRange(pb::RangeRequest {
            revision: 3,
            ..range("a", "")
        }),
    ]);
    check(late.into(), Refusal::FUTURE_REVISION);
    let many = txn((0..129)
        .map(|n| Op::RequestPut(put(&n.to_string(), "")))
        .collect());
    check(many.into(), Refusal::TOO_MANY_OPS);
    check(put("", "1").into(), Refusal::EMPTY_KEY);
    let no_lease = pb::PutRequest {
        lease: 5,
        ..put("a", "2")
    };
    check(no_lease.into(), Refusal::LEASE_NOT_FOUND);
    check(pb::LeaseRevokeRequest { id: 5 }.into(), Refusal::LEASE_NOT_FOUND);
    let future = pb::CompactionRequest {
        revision: 3,
        physical: false,
    };
    check(future.into(), Refusal::FUTURE_REVISION);
}

#[test]
fn compaction_refuses_what_lies_below_and_a_second_time() {
    let mut model = Model::strict();
    for value in ["1", "2", "3"] {
        apply(&mut model, put("a", value));
    }
    let compact = |revision| pb::CompactionRequest {
        revision,
        physical: false,
    };
    assert!(apply(&mut model, compact(3)).result.is_ok());
    assert_eq!(apply(&mut model, compact(3)).result, Err(Refusal::COMPACTED));
    let at = |revision| pb::RangeRequest {
        revision,
        ..range("a", "")
    };
    assert_eq!(model.range(&at(2), 4), Err(Refusal::COMPACTED));
    assert!(model.range(&at(3), 4).is_ok());
}

#[test]
fn the_end_of_a_lease_is_one_revision_and_the_assuming_model_learns_of_leases_by_their_end() {
    let end = || pb::LeaseRevokeRequest { id: 7 };
    let leased = |key: &str| pb::PutRequest {
        lease: 7,
        ..put(key, "v")
    };
    let mut model = Model::assuming_leases();
    for key in ["b", "a"] {
        assert!(apply(&mut model, leased(key)).result.is_ok());
    }
    apply(&mut model, put("b", "detached"));
    let applied = apply(&mut model, end());
    let keys: Vec<_> = applied
        .events
        .iter()
        .filter_map(|event| event.kv.as_ref())
        .map(|kv| (kv.key.clone(), kv.mod_revision))
        .collect();
    assert_eq!(keys, [(bytes("a"), 5)]);
    assert_eq!(
        apply(&mut model, leased("a")).result,
        Err(Refusal::LEASE_NOT_FOUND)
    );
    model.undo(&applied);
    assert!(apply(&mut model, leased("a")).result.is_ok());
}

#[test]
fn a_watch_shows_the_pair_before_the_revision_however_often_a_key_changes_within_it() {
    let previous = |applied: &Applied| -> Vec<Option<String>> {
        let value = |kv: &quorate::proto::mvccpb::KeyValue| kv.value.escape_ascii().to_string();
        let events = applied.events.iter();
        events.map(|event| event.prev_kv.as_ref().map(value)).collect()
    };
    let mut model = Model::strict();
    let put_and_delete = || {
        txn(vec![
            Op::RequestPut(put("a", "new")),
            Op::RequestDeleteRange(delete("a", "\0")),
        ])
    };
    // etcd refuses a put and a delete of one key in one transaction, unless the delete's range has no end.
    // There was none before.
    assert_eq!(previous(&apply(&mut model, put_and_delete())), [None, None]);
    apply(&mut model, put("a", "old"));
    let old = Some("old".to_owned());
    assert_eq!(
        previous(&apply(&mut model, put_and_delete())),
        [old.clone(), old.clone()]
    );
    apply(&mut model, put("a", "old"));
    // A pair that is new has none.
    let delete_and_put = txn(vec![
        Op::RequestDeleteRange(delete("a", "\0")),
        Op::RequestPut(put("a", "new")),
    ]);
    assert_eq!(previous(&apply(&mut model, delete_and_put)), [old, None]);
}
