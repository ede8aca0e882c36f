//! What a request adds to the store, as the quota counts it: etcd's estimate, before anything is written.

use crate::proto::command::command::Request as Command;
use crate::proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest, request_op::Request};

/// What a key costs besides its bytes.
const KEY_BYTES: u64 = 256;
/// What a lease costs.
pub const LEASE_BYTES: u64 = 64;

/// 0: it needs no space, and is never refused for the lack of it.
pub fn cost(command: &Command) -> u64 {
    match command {
        Command::Put(request) => put(request),
        Command::Txn(request) => txn(request),
        Command::LeaseGrant(_) => LEASE_BYTES,
        _ => 0,
    }
}

pub fn put(request: &PutRequest) -> u64 {
    KEY_BYTES + (request.key.len() + request.value.len()) as u64
}

/// The greater of the two branches, nested transactions included.
pub fn txn(request: &TxnRequest) -> u64 {
    let branch = |ops: &[RequestOp]| -> u64 {
        let cost = |op: &RequestOp| match &op.request {
            Some(Request::RequestPut(request)) => put(request),
            Some(Request::RequestTxn(request)) => txn(request),
            _ => 0,
        };
        ops.iter().map(cost).sum()
    };
    branch(&request.success).max(branch(&request.failure))
}

#[cfg(test)]
mod tests;
