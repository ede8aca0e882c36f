//! Requests at a limit of etcd's or of the product's, and beyond it.
//!
//! The numbers are written down once more here: what a store has to serve is not taken from the store. A test of the
//! simulator compares them with the product's limits.

use bytes::Bytes;
use quorate::proto::etcdserverpb as pb;
use quorate::proto::etcdserverpb::request_op::Request as Op;
use serde::{Deserialize, Serialize};

use super::intent::ops;
use crate::history::Request;

/// etcd's `--max-txn-ops`.
pub const TXN_OPS: usize = 128;
/// Transactions in each other, whatever that flag says.
pub const TXN_LEVELS: usize = 256;
/// etcd's `--max-request-bytes`.
pub const REQUEST_BYTES: usize = 1_572_864;
/// Longest lease, in seconds.
pub const LEASE_TTL_SECONDS: i64 = 9_000_000_000;

/// prost's own limit is a hundred messages in each other, two for each transaction.
pub const LEVELS: [usize; 14] = [
    1,
    2,
    48,
    49,
    50,
    51,
    99,
    TXN_OPS - 1,
    TXN_OPS,
    TXN_OPS + 1,
    TXN_OPS + 2,
    TXN_LEVELS,
    TXN_LEVELS + 1,
    3 * TXN_LEVELS,
];
pub const OPERATIONS: [usize; 7] = [0, 1, 15, 16, TXN_OPS - 1, TXN_OPS, TXN_OPS + 1];
/// Of a value. Sixteen bits and what engines and files make of them, and a request's limit; the smaller ones, which
/// are drawn oftener, come first.
pub const VALUE_BYTES: [usize; 8] = [
    0,
    255,
    65_400,
    65_535,
    65_536,
    70_000,
    REQUEST_BYTES - 64,
    REQUEST_BYTES + 1,
];
pub const KEY_BYTES: [usize; 5] = [255, 256, 32_769, 65_535, 65_536];
pub const TTLS: [i64; 7] = [
    i64::MIN,
    -1,
    0,
    LEASE_TTL_SECONDS,
    LEASE_TTL_SECONDS + 1,
    i64::MAX - 1,
    i64::MAX,
];
pub const NUMBERS: [i64; 6] = [i64::MIN, -1, 0, 1, i64::MAX - 1, i64::MAX];

/// See the module's text.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Extreme {
    /// So many transactions in each other; the innermost puts the key.
    Nested {
        levels: usize,
        key: String,
    },
    /// A transaction of so many operations: reads, and at last a put.
    Wide {
        operations: usize,
        key: String,
    },
    /// A put of a value of at least so many bytes.
    Large {
        bytes: usize,
        key: String,
    },
    /// A put of a key of so many bytes.
    LongKey {
        bytes: usize,
    },
    /// A grant; the id is one of the client's own.
    Grant {
        ttl: i64,
    },
    /// A read of many keys.
    Range {
        limit: i64,
        revision: i64,
    },
    Compact {
        revision: i64,
    },
    /// A transaction without anything, or with an operation that is none.
    Hollow {
        operation: bool,
    },
}

impl Extreme {
    /// `value` is written nowhere else, nor is `lease` granted.
    pub(super) fn request(&self, value: Bytes, lease: i64) -> Request {
        match self {
            Extreme::Nested { levels, key } => nested(*levels, put(key, value)).into(),
            Extreme::Wide { operations, key } => wide(*operations, key, value).into(),
            Extreme::Large { bytes, key } => put(key, padded(value, *bytes)).into(),
            Extreme::LongKey { bytes } => {
                let key = "k/".to_owned() + &"x".repeat(bytes.saturating_sub(2));
                put(&key, value).into()
            }
            Extreme::Grant { ttl } => pb::LeaseGrantRequest { ttl: *ttl, id: lease }.into(),
            Extreme::Range { limit, revision } => pb::RangeRequest {
                key: "k/".into(),
                range_end: "k0".into(),
                limit: *limit,
                revision: *revision,
                ..Default::default()
            }
            .into(),
            Extreme::Compact { revision } => pb::CompactionRequest {
                revision: *revision,
                physical: false,
            }
            .into(),
            Extreme::Hollow { operation } => pb::TxnRequest {
                success: vec![pb::RequestOp { request: None }; usize::from(*operation)],
                ..Default::default()
            }
            .into(),
        }
    }
}

fn put(key: &str, value: Bytes) -> pb::PutRequest {
    pb::PutRequest {
        key: key.to_owned().into(),
        value,
        ..Default::default()
    }
}

fn padded(value: Bytes, length: usize) -> Bytes {
    let mut padded = value.to_vec();
    padded.resize(length.max(value.len()), b'.');
    padded.into()
}

fn nested(levels: usize, put: pb::PutRequest) -> pb::TxnRequest {
    let mut operation = Op::RequestPut(put);
    for _ in 1..levels {
        operation = Op::RequestTxn(pb::TxnRequest {
            success: ops([operation]),
            ..Default::default()
        });
    }
    pb::TxnRequest {
        success: ops([operation]),
        ..Default::default()
    }
}

fn wide(operations: usize, key: &str, value: Bytes) -> pb::TxnRequest {
    let read = pb::RangeRequest {
        key: key.to_owned().into(),
        ..Default::default()
    };
    let mut success = vec![Op::RequestRange(read); operations.saturating_sub(1)];
    if operations > 0 {
        success.push(Op::RequestPut(put(key, value)));
    }
    pb::TxnRequest {
        success: ops(success),
        ..Default::default()
    }
}
