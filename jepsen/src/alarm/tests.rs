use quorate::proto::etcdserverpb as pb;
use tonic::Code;

use super::check;
use crate::history::{Outcome, Recorder, Request};
use crate::property::Property;

#[derive(Clone, Copy)]
enum Step {
    Seen,
    Disarmed,
    Done(fn() -> Request),
    Refused(fn() -> Request),
    /// Begins before the operator's next step and is done after it.
    DoneAround(fn() -> Request, &'static Step),
}

use Step::*;

fn put() -> Request {
    pb::PutRequest::default().into()
}

fn grant() -> Request {
    pb::LeaseGrantRequest::default().into()
}

fn delete() -> Request {
    pb::DeleteRangeRequest::default().into()
}

fn op(request: pb::request_op::Request) -> pb::RequestOp {
    let request = Some(request);
    pb::RequestOp { request }
}

fn txn_that_puts() -> Request {
    let put = op(pb::request_op::Request::RequestPut(pb::PutRequest::default()));
    let nested = pb::TxnRequest {
        failure: vec![put],
        ..Default::default()
    };
    let nested = op(pb::request_op::Request::RequestTxn(nested));
    pb::TxnRequest {
        success: vec![nested],
        ..Default::default()
    }
    .into()
}

fn txn_that_deletes() -> Request {
    let delete = op(pb::request_op::Request::RequestDeleteRange(
        pb::DeleteRangeRequest::default(),
    ));
    pb::TxnRequest {
        success: vec![delete],
        ..Default::default()
    }
    .into()
}

fn step(recorder: &Recorder, it: Step) {
    match it {
        Seen => drop(recorder.alarm(0)),
        Disarmed => recorder.disarm(0, 0),
        Done(request) => {
            let id = recorder.invoke(0, 0, 0, request());
            recorder.complete(id, 0, done());
        }
        Refused(request) => {
            let id = recorder.invoke(0, 0, 0, request());
            let outcome = Outcome::Denied {
                code: Code::ResourceExhausted,
                text: "etcdserver: mvcc: database space exceeded".into(),
            };
            recorder.complete(id, 0, outcome);
        }
        DoneAround(request, inner) => {
            let id = recorder.invoke(0, 0, 0, request());
            step(recorder, *inner);
            recorder.complete(id, 0, done());
        }
    }
}

fn done() -> Outcome {
    Outcome::Ok(pb::PutResponse::default().into())
}

fn violations(steps: &[Step]) -> usize {
    let recorder = Recorder::new();
    for it in steps {
        step(&recorder, *it);
    }
    let found = check(&recorder.take());
    assert!(found.iter().all(|it| it.property == Property::NoSpace));
    found.len()
}

#[test]
fn nothing_grows_while_the_alarm_is_on() {
    assert_eq!(
        violations(&[
            Done(put),
            Refused(put),
            DoneAround(put, &Seen),
            Refused(put),
            Refused(grant),
            Refused(txn_that_puts),
            Done(delete),
            Done(txn_that_deletes),
            DoneAround(put, &Disarmed),
            Done(put),
            Done(txn_that_puts),
        ]),
        0
    );
    for request in [put, grant, txn_that_puts] {
        assert_eq!(violations(&[Seen, Done(request), Disarmed]), 1);
        assert_eq!(violations(&[Seen, Done(request)]), 1);
    }
}

#[test]
fn what_needs_no_space_is_not_refused_for_lack_of_it() {
    assert_eq!(violations(&[Seen, Refused(delete), Refused(txn_that_deletes)]), 2);
}
