use bytes::Bytes;
use quorate::proto::etcdserverpb as pb;
use quorate::proto::mvccpb::KeyValue;

use super::{check, check_convergence};
use crate::history::{History, OpId, Outcome, Recorder, Request};
use crate::property::Property;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader {
        revision,
        ..Default::default()
    })
}

fn put(recorder: &Recorder, key: &str, lease: i64, revision: Option<i64>) -> OpId {
    let request = pb::PutRequest {
        key: bytes(key),
        lease,
        ..Default::default()
    };
    let id = recorder.invoke(0, 0, 0, request.into());
    let outcome = match revision {
        Some(revision) => Outcome::Ok(
            pb::PutResponse {
                header: header(revision),
                prev_kv: None,
            }
            .into(),
        ),
        None => Outcome::unknown("lost"),
    };
    recorder.complete(id, 0, outcome);
    id
}

fn delete(recorder: &Recorder, key: &str, outcome: Outcome) {
    let request = pb::DeleteRangeRequest {
        key: bytes(key),
        ..Default::default()
    };
    let id = recorder.invoke(0, 0, 0, Request::from(request));
    recorder.complete(id, 0, outcome);
}

fn deleted(revision: i64) -> Outcome {
    let answer = pb::DeleteRangeResponse {
        header: header(revision),
        deleted: 1,
        prev_kvs: Vec::new(),
    };
    Outcome::Ok(answer.into())
}

fn pair(key: &str, mod_revision: i64) -> KeyValue {
    KeyValue {
        key: bytes(key),
        mod_revision,
        ..Default::default()
    }
}

fn holds(recorder: &Recorder, member: u32, revision: i64, kvs: Vec<KeyValue>, digest: u64) {
    let range = pb::RangeResponse {
        header: header(revision),
        count: kvs.len() as i64,
        kvs,
        more: false,
    };
    recorder.final_state(member, 0, revision, range, None, Some(digest));
}

fn lost(history: &History) -> Vec<OpId> {
    let violations = check(history);
    assert!(violations.iter().all(|v| v.property == Property::Durability));
    violations.iter().flat_map(|v| v.operations.clone()).collect()
}

#[test]
fn an_acknowledged_put_must_be_there_or_have_been_replaced() {
    let recorder = Recorder::new();
    put(&recorder, "a", 0, Some(2));
    let second = put(&recorder, "a", 0, Some(3));
    put(&recorder, "b", 0, None);
    let history = |kvs| {
        let copy = recorder.clone();
        holds(&copy, 0, 5, kvs, 0);
        let mut history = copy.history();
        history.finals = history.finals.pop().into_iter().collect();
        history
    };
    assert_eq!(lost(&history(vec![pair("a", 3)])), [0; 0]);
    assert_eq!(
        lost(&history(vec![pair("a", 5)])),
        [0; 0],
        "something later is fine"
    );
    assert_eq!(lost(&history(vec![pair("a", 2)])), [second]);
    assert_eq!(lost(&history(vec![])), [second]);
}

#[test]
fn only_what_may_have_removed_the_key_excuses_its_absence() {
    let check = |excuse: &dyn Fn(&Recorder), excused: bool| {
        let recorder = Recorder::new();
        put(&recorder, "a", 0, Some(4));
        excuse(&recorder);
        holds(&recorder, 0, 9, vec![], 0);
        assert_eq!(lost(&recorder.take()).is_empty(), excused);
    };
    check(&|r| delete(r, "a", deleted(5)), true);
    check(&|r| delete(r, "a", deleted(3)), false);
    check(&|r| delete(r, "b", deleted(5)), false);
    check(&|r| delete(r, "a", Outcome::unknown("lost")), true);
    let refused = Outcome::Denied {
        code: tonic::Code::InvalidArgument,
        text: "etcdserver: key is not provided".into(),
    };
    check(&|r| delete(r, "a", refused.clone()), false);
    check(&|r| assert_eq!(put(r, "a", 77, None), 1), true);
    check(&|r| assert_eq!(put(r, "a", 77, Some(3)), 1), false);
}

#[test]
fn a_member_that_ends_before_the_write_has_lost_it() {
    let recorder = Recorder::new();
    let id = put(&recorder, "a", 0, Some(7));
    holds(&recorder, 0, 6, vec![pair("a", 5)], 0);
    assert_eq!(lost(&recorder.take()), [id]);
}

#[test]
fn members_must_agree_on_pairs_hashes_and_digests() {
    let differ = |change: &dyn Fn(&mut History)| {
        let recorder = Recorder::new();
        for member in 0..3 {
            holds(&recorder, member, 4, vec![pair("a", 4)], 9);
        }
        let mut history = recorder.take();
        for state in &mut history.finals {
            state.hash_kv = Some(pb::HashKvResponse {
                hash: 5,
                compact_revision: 1,
                hash_revision: 4,
                ..Default::default()
            });
        }
        change(&mut history);
        let violations = check_convergence(&history);
        assert!(violations.iter().all(|v| v.property == Property::Convergence));
        violations.len()
    };
    assert_eq!(differ(&|_| {}), 0);
    assert_eq!(differ(&|h| h.finals[2].range.kvs[0].version = 8), 1);
    assert_eq!(differ(&|h| h.finals[1].digest = Some(8)), 1);
    assert_eq!(differ(&|h| h.finals[1].revision = 3), 1);
    let hash = |h: &mut History| h.finals[2].hash_kv.iter_mut().for_each(|hash| hash.hash = 6);
    assert_eq!(differ(&hash), 1);
    let other_compaction = |h: &mut History| {
        let hash_kv = h.finals[2].hash_kv.as_mut().expect("set above");
        (hash_kv.hash, hash_kv.compact_revision) = (6, 2);
    };
    assert_eq!(
        differ(&other_compaction),
        0,
        "hashes over another history cannot be compared"
    );
}
