//! The history as Jepsen writes it: one map per line, invocations and completions in order, so that
//! Knossos, Elle and Jepsen's plots can read it.
//!
//! ```text
//! {:type :invoke, :f :put, :value {:key "k/1" :value "c0-1"}, :process 3, :time 12000000, :index 7}
//! {:type :ok, :f :put, :value {... :revision 9}, :process 3, :time 13000000, :index 8}
//! ```
//!
//! `:ok` is answered, `:fail` refused for certain, `:info` unknown. A Jepsen process that got `:info`
//! is dead: the client goes on as a new process, numbered one "number of clients" higher.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;

use quorate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate::proto::etcdserverpb::request_op::Request as Op;
use quorate::proto::etcdserverpb::response_op::Response as Re;
use quorate::proto::etcdserverpb::{self as pb};
use quorate::proto::mvccpb::KeyValue;

use crate::history::{Answer, History, Moment, Operation, Outcome, Request};

/// One line of the export before it has an index.
enum Line<'a> {
    Invoke(&'a Operation),
    Complete(&'a Operation),
    Note(&'a str),
}

/// Writes operations and notes, line by line: a long history is larger than memory should be. Watches are left out (Jepsen
/// has no common form for them).
pub fn write(history: &History, out: &mut impl io::Write) -> io::Result<()> {
    let mut lines: Vec<(Moment, Line<'_>)> = Vec::new();
    for operation in &history.operations {
        lines.push((operation.invoked, Line::Invoke(operation)));
        if let Some(returned) = operation.returned {
            lines.push((returned, Line::Complete(operation)));
        }
    }
    for note in &history.notes {
        lines.push((note.at, Line::Note(&note.text)));
    }
    lines.sort_by_key(|(at, _)| *at);
    let clients = history.operations.iter().map(|op| op.client).max().unwrap_or(0) + 1;
    let mut processes: BTreeMap<u32, u32> = BTreeMap::new();
    for (index, (at, line)) in lines.iter().enumerate() {
        let (kind, function, value, process) = match line {
            Line::Note(text) => ("info", "nemesis".to_owned(), string(text.as_bytes()), None),
            Line::Invoke(operation) => {
                let process = *processes.entry(operation.client).or_insert(operation.client);
                let value = request(&operation.request);
                ("invoke", function(&operation.request), value, Some(process))
            }
            Line::Complete(operation) => {
                let process = processes.entry(operation.client).or_insert(operation.client);
                let own = *process;
                if operation.outcome.is_unknown() {
                    *process += clients;
                }
                let (kind, value) = completion(operation);
                (kind, function(&operation.request), value, Some(own))
            }
        };
        let process = process.map_or(":nemesis".to_owned(), |process| process.to_string());
        writeln!(
            out,
            "{{:type :{kind}, :f :{function}, :value {value}, :process {process}, :time {}, :index {index}}}",
            at.nanos
        )?;
    }
    Ok(())
}

fn function(request: &Request) -> String {
    let name = match request {
        Request::Range(r) if r.serializable => "serializable-range",
        Request::Range(_) => "range",
        Request::Put(_) => "put",
        Request::Delete(_) => "delete",
        Request::Txn(_) => "txn",
        Request::Compact(_) => "compact",
        Request::LeaseGrant(_) => "lease-grant",
        Request::LeaseRevoke(_) => "lease-revoke",
        Request::LeaseKeepAlive(_) => "lease-keep-alive",
        Request::LeaseTimeToLive(_) => "lease-time-to-live",
    };
    name.to_owned()
}

fn completion(operation: &Operation) -> (&'static str, String) {
    match &operation.outcome {
        Outcome::Ok(found) => ("ok", answer(&operation.request, found)),
        Outcome::Denied { code, text } => {
            let text = string(text.as_bytes());
            let code = string(format!("{code:?}").as_bytes());
            ("fail", format!("{{:code {code} :error {text}}}"))
        }
        Outcome::Unknown { text } => ("info", format!("{{:error {}}}", string(text.as_bytes()))),
    }
}

/// An EDN string; bytes that are not printable ASCII are escaped as `\u00XX`.
fn string(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 2);
    text.push('"');
    for byte in bytes {
        match byte {
            b'"' => text.push_str("\\\""),
            b'\\' => text.push_str("\\\\"),
            b'\n' => text.push_str("\\n"),
            0x20..=0x7e => text.push(*byte as char),
            byte => text.push_str(&format!("\\u{byte:04x}")),
        }
    }
    text.push('"');
    text
}

fn range_request(r: &pb::RangeRequest) -> String {
    let mut text = format!(":key {}", string(&r.key));
    if !r.range_end.is_empty() {
        text.push_str(&format!(" :end {}", string(&r.range_end)));
    }
    for (name, number) in [(":revision", r.revision), (":limit", r.limit)] {
        if number > 0 {
            text.push_str(&format!(" {name} {number}"));
        }
    }
    text
}

fn put_request(r: &pb::PutRequest) -> String {
    let mut text = format!(":key {} :value {}", string(&r.key), string(&r.value));
    if r.lease != 0 {
        text.push_str(&format!(" :lease {}", r.lease));
    }
    text
}

fn delete_request(r: &pb::DeleteRangeRequest) -> String {
    let mut text = format!(":key {}", string(&r.key));
    if !r.range_end.is_empty() {
        text.push_str(&format!(" :end {}", string(&r.range_end)));
    }
    text
}

fn compare(c: &pb::Compare) -> String {
    let target = CompareTarget::try_from(c.target).map_or("?", |target| match target {
        CompareTarget::Version => "version",
        CompareTarget::Create => "create-revision",
        CompareTarget::Mod => "mod-revision",
        CompareTarget::Value => "value",
        CompareTarget::Lease => "lease",
    });
    let sign = CompareResult::try_from(c.result).map_or("?", |result| match result {
        CompareResult::Equal => "=",
        CompareResult::Greater => ">",
        CompareResult::Less => "<",
        CompareResult::NotEqual => "not=",
    });
    let operand = match &c.target_union {
        Some(TargetUnion::Value(value)) => string(value),
        Some(
            TargetUnion::Version(n)
            | TargetUnion::CreateRevision(n)
            | TargetUnion::ModRevision(n)
            | TargetUnion::Lease(n),
        ) => n.to_string(),
        None => "nil".into(),
    };
    format!("[:{sign} :{target} {} {operand}]", string(&c.key))
}

fn ops(ops: &[pb::RequestOp]) -> String {
    let ops: Vec<String> = ops
        .iter()
        .map(|op| match &op.request {
            Some(Op::RequestRange(r)) => format!("[:range {{{}}}]", range_request(r)),
            Some(Op::RequestPut(r)) => format!("[:put {{{}}}]", put_request(r)),
            Some(Op::RequestDeleteRange(r)) => format!("[:delete {{{}}}]", delete_request(r)),
            Some(Op::RequestTxn(r)) => format!("[:txn {}]", txn(r)),
            None => "nil".into(),
        })
        .collect();
    format!("[{}]", ops.join(" "))
}

fn txn(r: &pb::TxnRequest) -> String {
    let compares: Vec<String> = r.compare.iter().map(compare).collect();
    format!(
        "{{:if [{}] :then {} :else {}}}",
        compares.join(" "),
        ops(&r.success),
        ops(&r.failure)
    )
}

fn request(request: &Request) -> String {
    match request {
        Request::Range(r) => format!("{{{}}}", range_request(r)),
        Request::Put(r) => format!("{{{}}}", put_request(r)),
        Request::Delete(r) => format!("{{{}}}", delete_request(r)),
        Request::Txn(r) => txn(r),
        Request::Compact(r) => format!("{{:revision {}}}", r.revision),
        Request::LeaseGrant(r) => format!("{{:lease {} :ttl {}}}", r.id, r.ttl),
        Request::LeaseRevoke(r) => format!("{{:lease {}}}", r.id),
        Request::LeaseKeepAlive(r) => format!("{{:lease {}}}", r.id),
        Request::LeaseTimeToLive(r) => format!("{{:lease {}}}", r.id),
    }
}

fn pair(kv: &KeyValue) -> String {
    format!(
        "{{:key {} :value {} :mod-revision {} :create-revision {} :version {} :lease {}}}",
        string(&kv.key),
        string(&kv.value),
        kv.mod_revision,
        kv.create_revision,
        kv.version,
        kv.lease
    )
}

fn pairs(kvs: &[KeyValue]) -> String {
    let mut text = String::from("[");
    for (number, kv) in kvs.iter().enumerate() {
        let space = if number > 0 { " " } else { "" };
        write!(text, "{space}{}", pair(kv)).expect("writing to a string cannot fail");
    }
    text.push(']');
    text
}

fn txn_answer(a: &pb::TxnResponse) -> String {
    let responses: Vec<String> = a
        .responses
        .iter()
        .map(|op| match &op.response {
            Some(Re::ResponseRange(a)) => format!("[:range {{:count {} :kvs {}}}]", a.count, pairs(&a.kvs)),
            Some(Re::ResponsePut(a)) => format!("[:put {}]", a.prev_kv.as_ref().map_or("nil".into(), pair)),
            Some(Re::ResponseDeleteRange(a)) => {
                format!(
                    "[:delete {{:deleted {} :prev {}}}]",
                    a.deleted,
                    pairs(&a.prev_kvs)
                )
            }
            Some(Re::ResponseTxn(a)) => format!("[:txn {}]", txn_answer(a)),
            None => "nil".into(),
        })
        .collect();
    format!(
        "{{:succeeded {} :responses [{}]}}",
        a.succeeded,
        responses.join(" ")
    )
}

fn answer(asked: &Request, answer: &Answer) -> String {
    let found = match answer {
        Answer::Range(a) => format!(":count {} :more {} :kvs {}", a.count, a.more, pairs(&a.kvs)),
        Answer::Put(a) => format!(":prev {}", a.prev_kv.as_ref().map_or("nil".into(), pair)),
        Answer::Delete(a) => format!(":deleted {} :prev {}", a.deleted, pairs(&a.prev_kvs)),
        Answer::Txn(a) => format!(":txn {}", txn_answer(a)),
        Answer::LeaseGrant(a) => format!(":lease {} :ttl {}", a.id, a.ttl),
        Answer::LeaseKeepAlive(a) => format!(":lease {} :ttl {}", a.id, a.ttl),
        Answer::LeaseTimeToLive(a) => format!(":lease {} :ttl {}", a.id, a.ttl),
        Answer::Compact(_) | Answer::LeaseRevoke(_) => String::new(),
    };
    format!(
        "{{:request {} :revision {} {found}}}",
        request(asked),
        answer.revision()
    )
}
