//! Operations in a few words: what fits on a bar, and what a filter asks for.

use bytes::Bytes;
use quorate::proto::etcdserverpb as pb;
use quorate::proto::mvccpb::{Event, KeyValue, event::EventType};

use crate::history::{Answer, Operation, Outcome, Request, show_bytes, show_kv};
use crate::linearizability::footprint;

/// Longest key or value on a bar.
const WORD_CHARS_MAX: usize = 18;
/// Events that an entry of a watch shows.
const EVENTS_SHOWN_MAX: usize = 12;

/// What a request is, for filters and colours.
pub(super) fn kind(request: &Request) -> &'static str {
    match request {
        Request::Range(r) if r.serializable => "get-serializable",
        Request::Range(r) if r.revision > 0 => "get-at-revision",
        Request::Range(_) => "get",
        Request::Put(_) => "put",
        Request::Delete(_) => "delete",
        Request::Txn(_) => "txn",
        Request::Compact(_) => "compact",
        Request::LeaseGrant(_) | Request::LeaseRevoke(_) => "lease",
        Request::LeaseKeepAlive(_) | Request::LeaseTimeToLive(_) => "lease",
    }
}

fn word(bytes: &[u8]) -> String {
    let text = show_bytes(bytes);
    if text.chars().count() <= WORD_CHARS_MAX {
        return text;
    }
    let cut: String = text.chars().take(WORD_CHARS_MAX - 1).collect();
    format!("{cut}…")
}

/// A key, or "from..end"; "from.." reaches to the last key.
pub(super) fn range(key: &[u8], end: &[u8]) -> String {
    match end {
        [] => show_bytes(key),
        [0] => format!("{}..", show_bytes(key)),
        end => format!("{}..{}", show_bytes(key), show_bytes(end)),
    }
}

/// The keys and ranges that a request names, each once.
pub(super) fn keys(request: &Request) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    for (key, end) in footprint(request) {
        let text = range(&key, &end);
        if !keys.contains(&text) {
            keys.push(text);
        }
    }
    keys
}

fn found(key: &Bytes, end: &Bytes, answer: &pb::RangeResponse) -> String {
    let one = key.is_empty() || end.is_empty();
    match answer.kvs.first() {
        Some(kv) if one => format!("{} @{}", word(&kv.value), kv.mod_revision),
        None if one && answer.count == 0 => "nothing".to_owned(),
        _ => format!("{} keys", answer.count),
    }
}

/// The operation in a few words.
pub(super) fn label(operation: &Operation) -> String {
    let answer = operation.outcome.answer();
    match (&operation.request, answer) {
        (Request::Range(r), Some(Answer::Range(a))) => {
            let old = if r.revision > 0 {
                format!(" at {}", r.revision)
            } else {
                String::new()
            };
            format!(
                "get {}{old} → {}",
                range(&r.key, &r.range_end),
                found(&r.key, &r.range_end, a)
            )
        }
        (Request::Range(r), _) => format!("get {}", range(&r.key, &r.range_end)),
        (Request::Put(r), _) => format!("put {}={}", show_bytes(&r.key), word(&r.value)),
        (Request::Delete(r), Some(Answer::Delete(a))) => {
            format!("delete {} → {}", range(&r.key, &r.range_end), a.deleted)
        }
        (Request::Delete(r), _) => format!("delete {}", range(&r.key, &r.range_end)),
        (Request::Txn(_), Some(Answer::Txn(a))) => {
            let branch = if a.succeeded { "then" } else { "else" };
            format!("txn {} → {branch}", keys(&operation.request).join(" "))
        }
        (Request::Txn(_), _) => format!("txn {}", keys(&operation.request).join(" ")),
        (Request::Compact(r), _) => format!("compact {}", r.revision),
        (Request::LeaseGrant(r), Some(Answer::LeaseGrant(a))) => {
            format!("grant {:x} for {} s", a.id, r.ttl)
        }
        (Request::LeaseGrant(r), _) => format!("grant for {} s", r.ttl),
        (Request::LeaseRevoke(r), _) => format!("revoke {:x}", r.id),
        (Request::LeaseKeepAlive(r), _) => format!("keep alive {:x}", r.id),
        (Request::LeaseTimeToLive(r), _) => format!("time to live {:x}", r.id),
    }
}

/// How it ended, in full.
pub(super) fn answer(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Ok(answer) => answer.to_string(),
        Outcome::Denied { code, text } => format!("refused, {code:?}: {text}"),
        Outcome::Unknown { text } => format!("unknown: {text}"),
    }
}

fn event(event: &Event) -> String {
    let verb = if event.r#type == EventType::Delete as i32 {
        "delete"
    } else {
        "put"
    };
    let shown = |kv: &KeyValue| format!("{verb} {}", show_kv(kv));
    event.kv.as_ref().map_or(verb.to_owned(), shown)
}

/// The events of a response, the first ones in full.
pub(super) fn events(events: &[Event]) -> String {
    let mut lines: Vec<String> = events.iter().take(EVENTS_SHOWN_MAX).map(event).collect();
    if events.len() > EVENTS_SHOWN_MAX {
        lines.push(format!("… {} events in all", events.len()));
    }
    lines.join("\n")
}
