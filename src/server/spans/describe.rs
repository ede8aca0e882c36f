//! What etcd's own spans say of a request: the span's name, and attributes in etcd's order.

use std::any::Any;

use bytes::Bytes;

use super::attribute;
use crate::proto::etcdserverpb::{self as pb, RequestOp, request_op::Request as Op};
use crate::proto::otlp::KeyValue;
use crate::proto::otlp::any_value::Value;

/// Longer keys are cut: spans wait in memory.
const TEXT_BYTES_MAX: usize = 1024;
static NO_KEY: Bytes = Bytes::new();

/// `None` for requests that etcd has no span of its own for.
pub fn request(request: &dyn Any) -> Option<(&'static str, Vec<KeyValue>)> {
    if let Some(request) = request.downcast_ref::<pb::RangeRequest>() {
        Some(("range", range(request)))
    } else if let Some(request) = request.downcast_ref::<pb::PutRequest>() {
        Some(("put", vec![text("key", &request.key)]))
    } else if let Some(request) = request.downcast_ref::<pb::DeleteRangeRequest>() {
        let attributes = vec![
            text("range_begin", &request.key),
            text("range_end", &request.range_end),
        ];
        Some(("delete_range", attributes))
    } else if let Some(request) = request.downcast_ref::<pb::TxnRequest>() {
        Some(("txn", txn(request)))
    } else if let Some(request) = request.downcast_ref::<pb::CompactionRequest>() {
        let attributes = vec![
            boolean("is_physical", request.physical),
            number("rev", request.revision),
        ];
        Some(("compact", attributes))
    } else if let Some(request) = request.downcast_ref::<pb::LeaseGrantRequest>() {
        Some((
            "lease_grant",
            vec![number("id", request.id), number("ttl", request.ttl)],
        ))
    } else if let Some(request) = request.downcast_ref::<pb::LeaseRevokeRequest>() {
        Some(("lease_revoke", vec![number("id", request.id)]))
    } else {
        None
    }
}

fn range(request: &pb::RangeRequest) -> Vec<KeyValue> {
    vec![
        text("range_begin", &request.key),
        text("range_end", &request.range_end),
        number("rev", request.revision),
        number("limit", request.limit),
        boolean("count_only", request.count_only),
        boolean("keys_only", request.keys_only),
    ]
}

fn txn(request: &pb::TxnRequest) -> Vec<KeyValue> {
    let success: Vec<&Op> = request
        .success
        .iter()
        .filter_map(|op| op.request.as_ref())
        .collect();
    let keys = success.iter().map(|op| match op {
        Op::RequestRange(range) => &range.key,
        Op::RequestPut(put) => &put.key,
        Op::RequestDeleteRange(delete) => &delete.key,
        Op::RequestTxn(_) => &NO_KEY,
    });
    let mut kinds = success.iter().map(|op| match op {
        Op::RequestRange(_) => "range",
        Op::RequestPut(_) => "put",
        Op::RequestDeleteRange(_) => "delete_range",
        Op::RequestTxn(_) => "txn",
    });
    let mut leases = success.iter().filter_map(|op| match op {
        Op::RequestPut(put) => Some(put.lease),
        _ => None,
    });
    let compared = request.compare.iter().map(|compare| &compare.key);
    let is_read = |op: &RequestOp| matches!(op.request, Some(Op::RequestRange(_)));
    let length = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    vec![
        text("compare_first_key", first(compared)),
        text("success_first_key", first(keys)),
        text("success_first_type", kinds.next().unwrap_or_default().as_bytes()),
        number("success_first_lease", leases.next().unwrap_or(-1)),
        number("compare_len", length(request.compare.len())),
        number("success_len", length(request.success.len())),
        number("failure_len", length(request.failure.len())),
        boolean(
            "read_only",
            request.success.iter().chain(&request.failure).all(is_read),
        ),
    ]
}

/// The first that is not empty.
fn first<'a>(mut keys: impl Iterator<Item = &'a Bytes>) -> &'a [u8] {
    keys.find(|key| !key.is_empty()).unwrap_or(&NO_KEY)
}

fn text(key: &str, value: &[u8]) -> KeyValue {
    let value = &value[..value.len().min(TEXT_BYTES_MAX)];
    attribute(
        key,
        Value::StringValue(String::from_utf8_lossy(value).into_owned()),
    )
}

fn number(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

fn boolean(key: &str, value: bool) -> KeyValue {
    attribute(key, Value::BoolValue(value))
}
