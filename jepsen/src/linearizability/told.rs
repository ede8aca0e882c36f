//! A contradiction in words.
//!
//! Words are found only for the contradiction that is told in the end: a search may meet thousands, and to say whose an
//! unexplained value looks like takes a look at the whole history.

use super::index::{Evidence, Index, is_serializable, values};
use crate::history::{Answer, History, OpId, Operation, show_bytes, show_kv};
use crate::property::Property;

/// Of an answer with more pairs only the first that differs is told.
const PAIRS_IN_FULL_MAX: usize = 100;

/// Why a revision cannot be as the answers say.
pub(super) enum Cause {
    /// An answer is another one than the model gives, which is said so.
    Mismatch { operation: OpId, expected: Expected },
    /// Nobody can have made it.
    Authorless,
}

pub(super) enum Expected {
    Answer(Box<Answer>),
    Else(String),
}

/// What is told of a contradiction.
pub(super) struct Told {
    pub property: Property,
    pub operations: Vec<OpId>,
    pub text: String,
}

impl Cause {
    pub fn tell(&self, revision: i64, history: &History, index: &Index<'_>) -> Told {
        match self {
            Cause::Authorless => tell_authorless(revision, history, index),
            Cause::Mismatch { operation, expected } => {
                tell_mismatch(revision, &history.operations[*operation], expected)
            }
        }
    }
}

fn tell_mismatch(revision: i64, operation: &Operation, expected: &Expected) -> Told {
    let property = if is_serializable(&operation.request) {
        Property::SerializableRead
    } else {
        Property::Linearizable
    };
    let expected = match (expected, operation.outcome.answer()) {
        (Expected::Answer(expected), Some(answer)) => in_full(expected, answer),
        (Expected::Answer(expected), None) => expected.to_string(),
        (Expected::Else(text), _) => text.clone(),
    };
    Told {
        property,
        operations: vec![operation.id],
        text: format!(
            "the answer is not what the state at revision {revision} gives:\n  {operation}\n  expected: {expected}"
        ),
    }
}

/// What was seen of a revision that nobody can have made, and whose it looks like.
fn tell_authorless(revision: i64, history: &History, index: &Index<'_>) -> Told {
    let none = Evidence::default();
    let evidence = index.evidence.get(&revision);
    let seen = evidence.or(index.hints.get(&revision)).unwrap_or(&none);
    let mut text = format!("no operation can have made revision {revision}");
    let mut property = Property::ExactlyOnce;
    let mut operations = Vec::new();
    if let Some(kv) = seen.puts.values().next() {
        text.push_str(&format!(", which shows {}", show_kv(kv)));
        let writes_it = |operation: &&Operation| values(&operation.request).contains(&kv.value);
        for operation in history.operations.iter().filter(writes_it) {
            if operation.outcome.is_denied() {
                property = Property::RefusedNoEffect;
                text.push_str("; its write was refused:");
            } else {
                text.push_str("; its write has another revision already, or cannot do this:");
            }
            text.push_str(&format!("\n  {operation}"));
            operations.push(operation.id);
        }
    } else if let Some(key) = seen.deletes.first() {
        text.push_str(&format!(", which deletes {}", show_bytes(key)));
    }
    Told {
        property,
        operations,
        text,
    }
}

/// An expected answer as text, with every field where the short forms do not tell the two apart.
fn in_full(expected: &Answer, actual: &Answer) -> String {
    let text = expected.to_string();
    if text != actual.to_string() {
        return text;
    }
    if let (Answer::Range(expected), Answer::Range(actual)) = (expected, actual)
        && expected.kvs.len() > PAIRS_IN_FULL_MAX
    {
        let mut pairs = expected.kvs.iter().zip(&actual.kvs);
        if let Some((expected, actual)) = pairs.find(|(expected, actual)| expected != actual) {
            return format!(
                "{text}\n  in which {}\n  and not: {}",
                show_kv(expected),
                show_kv(actual)
            );
        }
    }
    format!("{expected:?}\n  and not: {actual:?}")
}
