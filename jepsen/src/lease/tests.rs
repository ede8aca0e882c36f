use quorate::proto::etcdserverpb as pb;
use quorate::proto::mvccpb::KeyValue;

use super::{LeaseTimes, check};
use crate::history::{Answer, Nanos, OpId, Outcome, Recorder, Request};
use crate::linearizability;
use crate::property::Property;

const SECOND: Nanos = 1_000_000_000;
const LEASE: i64 = 7;
const TIMES: LeaseTimes = LeaseTimes {
    clock_tolerance: 0,
    disturbed_until: 0,
    grace: 10 * SECOND,
};

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader {
        revision,
        ..Default::default()
    })
}

/// A lease of 5 s granted at 1 s, with one key at revision 2.
struct Script(Recorder);

impl Script {
    fn new() -> Self {
        let script = Script(Recorder::new());
        let granted = pb::LeaseGrantResponse {
            header: header(1),
            id: LEASE,
            ttl: 5,
            ..Default::default()
        };
        script.call(1, pb::LeaseGrantRequest { ttl: 5, id: LEASE }, granted);
        let put = pb::PutRequest {
            key: "a".into(),
            lease: LEASE,
            ..Default::default()
        };
        let answer = pb::PutResponse {
            header: header(2),
            prev_kv: None,
        };
        script.call(1, put, answer);
        script
    }

    fn call(&self, second: Nanos, request: impl Into<Request>, answer: impl Into<Answer>) -> OpId {
        let id = self.0.invoke(0, 0, second * SECOND, request.into());
        self.0.complete(id, second * SECOND, Outcome::Ok(answer.into()));
        id
    }

    fn renew(&self, second: Nanos) {
        self.keep_alive(second, 5);
    }

    fn keep_alive(&self, second: Nanos, ttl: i64) {
        let answer = pb::LeaseKeepAliveResponse {
            header: header(2),
            id: LEASE,
            ttl,
        };
        self.call(second, pb::LeaseKeepAliveRequest { id: LEASE }, answer);
    }

    fn revoke(&self, second: Nanos, revision: i64) {
        let header = header(revision);
        self.call(
            second,
            pb::LeaseRevokeRequest { id: LEASE },
            pb::LeaseRevokeResponse { header },
        );
    }

    fn read(&self, second: Nanos, revision: i64, present: bool) {
        let kv = KeyValue {
            key: "a".into(),
            create_revision: 2,
            mod_revision: 2,
            version: 1,
            lease: LEASE,
            ..Default::default()
        };
        let kvs: Vec<KeyValue> = present.then_some(kv).into_iter().collect();
        let request = pb::RangeRequest {
            key: "a".into(),
            ..Default::default()
        };
        let answer = pb::RangeResponse {
            header: header(revision),
            count: kvs.len() as i64,
            kvs,
            more: false,
        };
        self.call(second, request, answer);
    }

    fn judge(&self) -> Vec<Property> {
        let history = self.0.history();
        let checked = linearizability::check(&history);
        assert_eq!(checked.violations, []);
        let violations = check(&history, &checked.timeline, &TIMES);
        violations.iter().map(|violation| violation.property).collect()
    }
}

#[test]
fn a_key_may_go_when_its_time_is_over_and_not_before() {
    let s = Script::new();
    s.read(5, 2, true);
    s.read(6, 3, false);
    assert_eq!(s.judge(), []);
    let s = Script::new();
    s.read(5, 3, false);
    assert_eq!(s.judge(), [Property::LeaseNotEarly]);
}

#[test]
fn a_renewal_counts_from_its_invocation() {
    let s = Script::new();
    s.renew(4);
    s.read(9, 3, false);
    assert_eq!(s.judge(), [], "granted until 9 s");
    let s = Script::new();
    s.renew(5);
    s.read(9, 3, false);
    assert_eq!(s.judge(), [Property::LeaseNotEarly], "granted until 10 s");
}

#[test]
fn a_revoked_lease_takes_its_keys_at_once() {
    let s = Script::new();
    s.revoke(2, 3);
    s.read(2, 3, false);
    assert_eq!(s.judge(), []);
    let s = Script::new();
    s.revoke(2, 2);
    s.read(2, 2, true);
    assert_eq!(s.judge(), [Property::LeaseExpires]);
}

#[test]
fn a_lease_that_is_called_gone_has_no_keys() {
    let s = Script::new();
    s.read(6, 2, true);
    s.keep_alive(7, 0);
    s.read(7, 3, false);
    assert_eq!(s.judge(), []);
    let s = Script::new();
    s.keep_alive(7, 0);
    s.read(7, 2, true);
    assert_eq!(s.judge(), [Property::LeaseEndedAnswer]);
}

#[test]
fn a_key_may_outlive_its_lease_by_the_grace_period_only() {
    let s = Script::new();
    s.read(16, 2, true);
    assert_eq!(s.judge(), []);
    s.read(17, 2, true);
    assert_eq!(s.judge(), [Property::LeaseExpires]);
    let s = Script::new();
    s.renew(5);
    s.read(17, 2, true);
    assert_eq!(s.judge(), []);
}
