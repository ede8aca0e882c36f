//! What is left to read of an answer when its command has been applied.
//!
//! Pairs in an answer (ranges of a transaction that writes, deleted pairs) decide nothing. So they are put together for the
//! client alone that asked, at its member, and what is large or has to be read from the store is read later,
//! when the state is free again:
//!
//! ```text
//!   apply ─► picks what it can within a bound, notes the position ─► Unread ─► who asked: reads on, fills the answer
//! ```
//!
//! On other members, and when the log is replayed, there is no [`Asked`] and nothing is picked; the answer has its shape and
//! its pairs are missing.

use std::sync::Arc;

use super::range::{Bounds, Picked, RangeCursor};
use super::{Answer, State};
use crate::base::kv::Read;
use crate::base::limits;
use crate::proto::etcdserverpb::{
    DeleteRangeResponse, RangeResponse, ResponseOp, TxnResponse, response_op::Response,
};
use crate::proto::mvccpb::KeyValue;

/// A store, or a view of it, that can be handed on.
pub type SharedStore = Arc<dyn Read + Send + Sync>;

/// Somebody waits for the answer of the command that is being applied.
pub(super) struct Asked {
    parts: Vec<Part>,
    /// Entries that may still be looked at for it when it is applied.
    entries_left: usize,
}

/// One list of pairs in an answer.
#[derive(Clone, Debug)]
pub enum Part {
    Range(Box<RangeCursor>),
    Pairs(Vec<Picked>),
}

/// A part that was read.
pub enum Filled {
    Range(RangeResponse),
    Pairs(Vec<KeyValue>),
}

/// See the module.
#[derive(Clone, Default)]
pub struct Unread {
    /// In the order in which they stand in the answer.
    pub parts: Vec<Part>,
    /// The store as it was right after the command, unless all is in memory.
    pub store: Option<SharedStore>,
}

impl Asked {
    pub fn new() -> Asked {
        Asked {
            parts: Vec::new(),
            entries_left: limits::TXN_LOOK_ENTRIES,
        }
    }

    /// A range begins: picks its first pairs.
    pub fn range(&mut self, state: &State, mut cursor: RangeCursor) {
        if self.entries_left > 0 {
            let bounds = Bounds {
                entries: self.entries_left,
                ..Bounds::NONE
            };
            let looked = state.read_on(&mut cursor, bounds);
            looked.expect("nothing is compacted within a command");
            // A full look may have been a shorter one: the bound is a bound.
            self.entries_left -= cursor.kept().min(self.entries_left);
        }
        self.parts.push(Part::Range(Box::new(cursor)));
    }

    pub fn pairs(&mut self, pairs: Vec<Picked>) {
        self.parts.push(Part::Pairs(pairs));
    }

    pub fn into_unread(self) -> Unread {
        Unread {
            parts: self.parts,
            store: None,
        }
    }
}

impl Part {
    fn needs_store(&self) -> bool {
        match self {
            Part::Range(cursor) => !cursor.is_read() || cursor.needs_store(),
            Part::Pairs(pairs) => pairs.iter().any(Picked::is_stored),
        }
    }
}

impl Unread {
    /// Whether the store has to be kept as it is right after the command.
    pub fn needs_store(&self) -> bool {
        self.parts.iter().any(Part::needs_store)
    }
}

impl PartialEq for Unread {
    /// Outcomes are compared once they are read.
    fn eq(&self, other: &Unread) -> bool {
        self.parts.is_empty() && other.parts.is_empty()
    }
}

impl std::fmt::Debug for Unread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} unread", self.parts.len())
    }
}

impl Answer {
    /// Puts the parts where they belong.
    ///
    /// # Panics
    /// They are those of another answer.
    pub fn fill(&mut self, parts: Vec<Filled>) {
        let mut parts = parts.into_iter();
        match self {
            Answer::Txn(answer) => fill_txn(answer, &mut parts),
            Answer::DeleteRange(answer) => fill_delete(answer, &mut parts),
            _ => {}
        }
        assert!(parts.next().is_none(), "an answer has room for all its parts");
    }
}

const ALL_THERE: &str = "an answer has a part for each of its lists";

fn fill_txn(answer: &mut TxnResponse, parts: &mut impl Iterator<Item = Filled>) {
    for ResponseOp { response } in &mut answer.responses {
        match response {
            Some(Response::ResponseRange(range)) => match parts.next().expect(ALL_THERE) {
                Filled::Range(read) => *range = read,
                Filled::Pairs(_) => unreachable!("{ALL_THERE}"),
            },
            Some(Response::ResponseDeleteRange(delete)) => fill_delete(delete, parts),
            Some(Response::ResponseTxn(nested)) => fill_txn(nested, parts),
            Some(Response::ResponsePut(_)) | None => {}
        }
    }
}

fn fill_delete(answer: &mut DeleteRangeResponse, parts: &mut impl Iterator<Item = Filled>) {
    match parts.next().expect(ALL_THERE) {
        Filled::Pairs(pairs) => answer.prev_kvs = pairs,
        Filled::Range(_) => unreachable!("{ALL_THERE}"),
    }
}
