//! One-line text of operations, for reports: short, unambiguous, the same in every run.

use std::fmt::{self, Display, Formatter};

use quorate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate::proto::etcdserverpb::{self as pb, request_op, response_op};
use quorate::proto::mvccpb::KeyValue;

use super::{Answer, Operation, Outcome, Request};

/// Longest value shown in full.
const VALUE_BYTES_SHOWN_MAX: usize = 40;

/// Bytes as text where they are text, else escaped; long ones cut.
pub fn show_bytes(bytes: &[u8]) -> String {
    let cut = bytes.get(..VALUE_BYTES_SHOWN_MAX).unwrap_or(bytes);
    let mut text = cut.escape_ascii().to_string();
    if cut.len() < bytes.len() {
        text.push_str(&format!("…({} bytes)", bytes.len()));
    }
    text
}

/// A key-value pair with its revisions.
pub fn show_kv(kv: &KeyValue) -> String {
    let mut text = format!(
        "{}={} (mod {}, create {}, version {}",
        show_bytes(&kv.key),
        show_bytes(&kv.value),
        kv.mod_revision,
        kv.create_revision,
        kv.version
    );
    if kv.lease != 0 {
        text.push_str(&format!(", lease {}", kv.lease));
    }
    text.push(')');
    text
}

fn range_text(key: &[u8], end: &[u8]) -> String {
    match end {
        [] => show_bytes(key),
        [0] => format!("[{}, ∞)", show_bytes(key)),
        end => format!("[{}, {})", show_bytes(key), show_bytes(end)),
    }
}

fn kvs_text(kvs: &[KeyValue]) -> String {
    let shown: Vec<_> = kvs.iter().take(8).map(show_kv).collect();
    let more = if kvs.len() > 8 {
        format!(", … {} in all", kvs.len())
    } else {
        String::new()
    };
    format!("[{}{more}]", shown.join(", "))
}

fn range_request(r: &pb::RangeRequest) -> String {
    let mut text = format!("get {}", range_text(&r.key, &r.range_end));
    if r.revision > 0 {
        text.push_str(&format!(" at revision {}", r.revision));
    }
    if r.limit > 0 {
        text.push_str(&format!(" limit {}", r.limit));
    }
    for (flag, name) in [
        (r.serializable, " serializable"),
        (r.count_only, " count only"),
        (r.keys_only, " keys only"),
    ] {
        if flag {
            text.push_str(name);
        }
    }
    text
}

fn put_request(r: &pb::PutRequest) -> String {
    let mut text = format!("put {}={}", show_bytes(&r.key), show_bytes(&r.value));
    if r.lease != 0 {
        text.push_str(&format!(" lease {}", r.lease));
    }
    text
}

fn compare_text(compare: &pb::Compare) -> String {
    let target = CompareTarget::try_from(compare.target).map_or("?", |t| t.as_str_name());
    let result = match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => "=",
        Ok(CompareResult::Greater) => ">",
        Ok(CompareResult::Less) => "<",
        Ok(CompareResult::NotEqual) => "!=",
        Err(_) => "?",
    };
    let operand = match &compare.target_union {
        Some(TargetUnion::Value(value)) => show_bytes(value),
        Some(
            TargetUnion::Version(n)
            | TargetUnion::CreateRevision(n)
            | TargetUnion::ModRevision(n)
            | TargetUnion::Lease(n),
        ) => n.to_string(),
        None => "-".into(),
    };
    let key = range_text(&compare.key, &compare.range_end);
    format!("{target}({key}) {result} {operand}")
}

fn ops_text(ops: &[pb::RequestOp]) -> String {
    let ops: Vec<_> = ops
        .iter()
        .map(|op| match &op.request {
            Some(request_op::Request::RequestRange(r)) => range_request(r),
            Some(request_op::Request::RequestPut(r)) => put_request(r),
            Some(request_op::Request::RequestDeleteRange(r)) => {
                format!("delete {}", range_text(&r.key, &r.range_end))
            }
            Some(request_op::Request::RequestTxn(r)) => txn_request(r),
            None => "nothing".into(),
        })
        .collect();
    ops.join("; ")
}

fn txn_request(r: &pb::TxnRequest) -> String {
    let compares: Vec<_> = r.compare.iter().map(compare_text).collect();
    format!(
        "txn if {} {{{}}} else {{{}}}",
        compares.join(" and "),
        ops_text(&r.success),
        ops_text(&r.failure)
    )
}

impl Display for Request {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Request::Range(r) => f.write_str(&range_request(r)),
            Request::Put(r) => f.write_str(&put_request(r)),
            Request::Delete(r) => write!(f, "delete {}", range_text(&r.key, &r.range_end)),
            Request::Txn(r) => f.write_str(&txn_request(r)),
            Request::Compact(r) => write!(f, "compact {}", r.revision),
            Request::LeaseGrant(r) => write!(f, "lease grant {} ttl {} s", r.id, r.ttl),
            Request::LeaseRevoke(r) => write!(f, "lease revoke {}", r.id),
            Request::LeaseKeepAlive(r) => write!(f, "lease keep-alive {}", r.id),
            Request::LeaseTimeToLive(r) => write!(f, "lease time-to-live {}", r.id),
        }
    }
}

fn range_answer(a: &pb::RangeResponse) -> String {
    let more = if a.more { ", more" } else { "" };
    format!("{} count {}{more}", kvs_text(&a.kvs), a.count)
}

fn prev_text(prev: &Option<KeyValue>) -> String {
    prev.as_ref()
        .map_or(String::new(), |kv| format!(", previous {}", show_kv(kv)))
}

fn txn_answer(a: &pb::TxnResponse) -> String {
    let responses: Vec<_> = a
        .responses
        .iter()
        .map(|op| match &op.response {
            Some(response_op::Response::ResponseRange(r)) => range_answer(r),
            Some(response_op::Response::ResponsePut(r)) => format!("put{}", prev_text(&r.prev_kv)),
            Some(response_op::Response::ResponseDeleteRange(r)) => format!("deleted {}", r.deleted),
            Some(response_op::Response::ResponseTxn(r)) => txn_answer(r),
            None => "nothing".into(),
        })
        .collect();
    let branch = if a.succeeded { "succeeded" } else { "failed" };
    format!("{branch} {{{}}}", responses.join("; "))
}

impl Display for Answer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "revision {}: ", self.revision())?;
        match self {
            Answer::Range(a) => f.write_str(&range_answer(a)),
            Answer::Put(a) => write!(f, "put{}", prev_text(&a.prev_kv)),
            Answer::Delete(a) => write!(f, "deleted {} {}", a.deleted, kvs_text(&a.prev_kvs)),
            Answer::Txn(a) => f.write_str(&txn_answer(a)),
            Answer::Compact(_) => f.write_str("compacted"),
            Answer::LeaseGrant(a) => write!(f, "lease {} ttl {} s", a.id, a.ttl),
            Answer::LeaseRevoke(_) => f.write_str("revoked"),
            Answer::LeaseKeepAlive(a) => write!(f, "lease {} ttl {} s", a.id, a.ttl),
            Answer::LeaseTimeToLive(a) => {
                write!(f, "lease {} ttl {} of {} s", a.id, a.ttl, a.granted_ttl)
            }
        }
    }
}

impl Display for Outcome {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Ok(answer) => write!(f, "ok {answer}"),
            Outcome::Denied { code, text } => write!(f, "denied {code:?}: {text}"),
            Outcome::Unknown { text } => write!(f, "unknown: {text}"),
        }
    }
}

fn seconds(nanos: u64) -> String {
    format!("{}.{:06}s", nanos / 1_000_000_000, nanos % 1_000_000_000 / 1_000)
}

impl Display for Operation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let returned = self
            .returned
            .map_or("never".into(), |moment| seconds(moment.nanos));
        write!(
            f,
            "#{} client {} member {} [{} .. {returned}] {} -> {}",
            self.id,
            self.client,
            self.member,
            seconds(self.invoked.nanos),
            self.request,
            self.outcome
        )?;
        match self.again.is_empty() {
            true => Ok(()),
            false => write!(f, " (sent again after {:?})", self.again),
        }
    }
}
