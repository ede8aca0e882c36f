use super::*;

fn put_op(value_len: usize) -> RequestOp {
    let put = PutRequest {
        key: "k".into(),
        value: vec![0; value_len].into(),
        ..PutRequest::default()
    };
    RequestOp {
        request: Some(Request::RequestPut(put)),
    }
}

#[test]
fn a_transaction_costs_its_greater_branch() {
    let nested = TxnRequest {
        success: vec![put_op(1000)],
        ..TxnRequest::default()
    };
    let request = TxnRequest {
        success: vec![put_op(10), put_op(20)],
        failure: vec![RequestOp {
            request: Some(Request::RequestTxn(nested)),
        }],
        ..TxnRequest::default()
    };
    assert_eq!(cost(&Command::Txn(request)), 256 + 1001);
    assert_eq!(cost(&Command::Txn(TxnRequest::default())), 0);
    assert_eq!(cost(&Command::LeaseGrant(Default::default())), LEASE_BYTES);
    assert_eq!(cost(&Command::DeleteRange(Default::default())), 0);
}
