use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::proto::command::{Command, command::Request};
use crate::proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest, request_op::Request as Op};

/// So many transactions in each other, a put in the innermost.
fn nested(levels: usize) -> TxnRequest {
    let op = |request| RequestOp {
        request: Some(request),
    };
    let put = PutRequest {
        key: "k".into(),
        value: "v".into(),
        ..PutRequest::default()
    };
    let mut txn = TxnRequest {
        success: vec![op(Op::RequestPut(put))],
        ..TxnRequest::default()
    };
    for level in 1..levels {
        let inner = vec![op(Op::RequestTxn(txn))];
        txn = TxnRequest::default();
        match level % 2 {
            0 => txn.success = inner,
            _ => txn.failure = inner,
        }
    }
    txn
}

/// By recursion.
fn levels(txn: &TxnRequest) -> usize {
    let inner = |op: &RequestOp| match &op.request {
        Some(Op::RequestTxn(txn)) => levels(txn),
        _ => 0,
    };
    1 + txn
        .success
        .iter()
        .chain(&txn.failure)
        .map(inner)
        .max()
        .unwrap_or(0)
}

#[test]
fn levels_are_counted_in_requests_and_commands() {
    for count in [1, 2, 3, 50, 128, 400] {
        let txn = nested(count);
        assert_eq!(levels(&txn), count);
        let encoded = txn.encode_to_vec();
        assert!(fits(Kind::Txn, &encoded, count));
        assert!(!fits(Kind::Txn, &encoded, count - 1));
        let command = Command {
            header: Some(Default::default()),
            request: Some(Request::Txn(txn)),
        };
        let encoded = command.encode_to_vec();
        assert!(fits(Kind::Command, &encoded, count));
        assert!(!fits(Kind::Command, &encoded, count - 1));
    }
}

#[test]
fn a_value_that_looks_like_a_transaction_is_none() {
    let put = PutRequest {
        key: "k".into(),
        value: nested(100).encode_to_vec().into(),
        ..PutRequest::default()
    };
    let command = Command {
        header: None,
        request: Some(Request::Put(put)),
    };
    assert!(fits(Kind::Command, &command.encode_to_vec(), 0));
}

#[test]
fn what_stands_before_a_transaction_does_not_hide_it() {
    let inner = nested(9).encode_to_vec();
    // An unknown varint, a fixed64, a fixed32, bytes, and groups in each other, then the transactions.
    let mut encoded = vec![
        0x50, 0xff, 0x01, 0x51, 1, 2, 3, 4, 5, 6, 7, 8, 0x55, 1, 2, 3, 4, 0x52, 1, 9,
    ];
    encoded.extend([0x53, 0x5b, 0x08, 0x01, 0x5c, 0x54]);
    encoded.extend(&inner);
    assert_eq!(levels(&TxnRequest::decode(encoded.as_slice()).unwrap()), 9);
    assert!(fits(Kind::Txn, &encoded, 9) && !fits(Kind::Txn, &encoded, 8));
}

#[test]
fn a_million_levels_are_judged_without_a_stack() {
    const LEVELS: u32 = 1_000_000;
    let mut encoded = Vec::new();
    for level in 0..LEVELS {
        // `success`, `request_txn`, `success` …, each of all that follows, its length in four bytes.
        let left = (LEVELS - 1 - level) * 5;
        encoded.push(if level % 2 == 0 { 0x12 } else { 0x22 });
        encoded.extend([0, 7, 14].map(|shift| (left >> shift) as u8 | 0x80));
        encoded.push((left >> 21) as u8);
    }
    assert!(!txn_fits(&encoded));
    assert!(fits(Kind::Txn, &encoded, LEVELS as usize));
}

proptest! {
    /// Whatever prost makes of the bytes, it goes no deeper than what was judged.
    #[test]
    fn what_fits_is_decoded_no_deeper(
        noise in proptest::collection::vec(any::<u8>(), 0..300),
        depth in 1_usize..40,
        at in any::<prop::sample::Index>(),
        keep in any::<prop::sample::Index>(),
    ) {
        let mut encoded = nested(depth).encode_to_vec();
        let place = at.index(encoded.len());
        let end = place + keep.index(encoded.len() - place);
        encoded.splice(place..end, noise);
        if let Ok(txn) = TxnRequest::decode(encoded.as_slice()) {
            let levels = levels(&txn);
            prop_assert!(fits(Kind::Txn, &encoded, levels.max(depth)));
            prop_assert!(levels == 1 || !fits(Kind::Txn, &encoded, levels - 1));
        }
    }
}
