use super::*;
use crate::proto::etcdserverpb::{PutResponse, RangeRequest, ResponseOp};

fn put(key: &'static str, value: &'static str) -> PutRequest {
    PutRequest {
        key: key.into(),
        value: value.into(),
        ..PutRequest::default()
    }
}

fn op(request: Op) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

fn answer(response: Response) -> ResponseOp {
    ResponseOp {
        response: Some(response),
    }
}

#[test]
fn a_transaction_counts_for_what_it_did() {
    let nested = TxnRequest {
        success: vec![op(Op::RequestRange(RangeRequest::default()))],
        failure: vec![op(Op::RequestDeleteRange(DeleteRangeRequest {
            prev_kv: true,
            ..DeleteRangeRequest::default()
        }))],
        ..TxnRequest::default()
    };
    let request = TxnRequest {
        success: vec![
            op(Op::RequestPut(put("key", "value"))),
            RequestOp { request: None },
            op(Op::RequestTxn(nested)),
        ],
        failure: vec![op(Op::RequestPut(put("other", "")))],
        ..TxnRequest::default()
    };
    let put_answer = || answer(Response::ResponsePut(PutResponse::default()));
    let nested_answer = TxnResponse {
        succeeded: false,
        responses: vec![answer(Response::ResponseDeleteRange(Default::default()))],
        ..TxnResponse::default()
    };
    let done = TxnResponse {
        succeeded: true,
        responses: vec![put_answer(), answer(Response::ResponseTxn(nested_answer))],
        ..TxnResponse::default()
    };
    let tally = OpCounts::of_txn(&request, &done);
    let expected = OpCounts {
        ranges: 1,
        puts: 1,
        deletes: 1,
        put_bytes: 8,
    };
    assert_eq!(tally, expected);
    let failed = TxnResponse {
        succeeded: false,
        responses: vec![put_answer()],
        ..TxnResponse::default()
    };
    let metrics = StoreMetrics::default();
    tally.count(&metrics);
    OpCounts::of_txn(&request, &failed).count(&metrics);
    let counted = [&metrics.ranges, &metrics.puts, &metrics.deletes, &metrics.txns];
    assert_eq!(counted.map(|counter| counter.get()), [1, 2, 1, 1]);
    assert_eq!(metrics.put_bytes.get(), 13);
}

#[test]
fn what_was_refused_did_nothing() {
    let outcome = |answer| Outcome {
        answer,
        revision: 1,
        events: Vec::new(),
        unread: Default::default(),
    };
    let request = Request::Put(PutRequest {
        prev_kv: true,
        ..put("key", "")
    });
    let refused = outcome(Err(crate::base::Denied::LeaseNotFound));
    assert_eq!(OpCounts::of_command(&request, &refused), OpCounts::default());
    let done = outcome(Ok(Answer::Put(PutResponse::default())));
    let tally = OpCounts::of_command(&request, &done);
    assert_eq!((tally.puts, tally.ranges, tally.put_bytes), (1, 1, 3));
}
