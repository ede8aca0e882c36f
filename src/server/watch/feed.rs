//! Between streams and the [dispatcher](super::dispatcher), which runs on the core's thread: commands there, updates back.
//!
//! A stream has one queue of updates, so they come in the order in which things happened: a watch begins, gets its events, loses
//! sync, is synced again. The queue is bounded in messages and bytes. A watch whose events do not fit becomes *unsynced* (etcd's
//! word): it gets none any more, and its stream reads history for it, from just that revision on.

use std::sync::Arc;

use super::registry::Keys;
use crate::base::{Revision, limits};
use crate::proto::mvccpb::{Event, event::EventType};
use crate::runtime::channel::{Answer, Limits, Sender};

/// Which events a watch is for.
#[derive(Clone)]
pub struct Filter {
    pub keys: Keys,
    pub no_put: bool,
    pub no_delete: bool,
}

impl Filter {
    /// Whether an event of the watched keys passes.
    pub fn passes(&self, event: &Event) -> bool {
        match event.r#type() {
            EventType::Put => !self.no_put,
            EventType::Delete => !self.no_delete,
        }
    }

    pub fn wants(&self, event: &Event) -> bool {
        self.passes(event) && event.kv.as_ref().is_some_and(|kv| self.keys.contains(&kv.key))
    }
}

/// From a stream, or for metrics.
pub enum Command {
    /// A stream begins, under a number that no other has, with its queue.
    Open {
        stream: u64,
        updates: Sender<Update>,
    },
    /// A new watch from a revision on (0: from now on), to be answered with [`Update::Created`].
    Watch {
        stream: u64,
        filter: Filter,
        start: Revision,
    },
    Unwatch {
        number: u64,
    },
    /// An unsynced watch has read what comes before `next`, to be answered with [`Update::Synced`].
    Sync {
        number: u64,
        next: Revision,
    },
    /// Everything that was applied is to be dispatched, and then reported as [`Update::Reached`].
    Settle {
        stream: u64,
    },
    /// A stream ends, with its watches.
    Close {
        stream: u64,
    },
    Backlog(Answer<Backlog>),
}

impl Command {
    /// What it takes in memory, nearly.
    pub fn bytes(&self) -> usize {
        match self {
            Command::Watch { filter, .. } => filter.keys.bytes(),
            _ => 0,
        }
    }
}

/// What streams still have to get.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Backlog {
    /// Unsynced watches.
    pub unsynced: usize,
    /// What waits to be dispatched, or to be taken by a stream.
    pub pending: usize,
}

/// To a stream.
pub enum Update {
    /// The watch that it asked for last has begun at `revision`, under a number that is its own: the same id on one stream can
    /// belong to one watch after another. `is_synced`: it wants nothing that was dispatched already.
    Created {
        number: u64,
        next: Revision,
        is_synced: bool,
        revision: Revision,
    },
    Events(Delivery),
    /// The watch gets no events from `next` on.
    Unsynced {
        number: u64,
        next: Revision,
    },
    /// Whether the watch gets events from where it wanted them.
    Synced {
        number: u64,
        is_synced: bool,
    },
    /// Everything up to this revision was dispatched.
    Reached(Revision),
}

/// Events of one revision for one watch.
pub struct Delivery {
    pub number: u64,
    pub revision: Revision,
    events: Arc<[Event]>,
    /// Which of them; `None`: all.
    picked: Option<Vec<u32>>,
}

impl Delivery {
    pub fn new(number: u64, revision: Revision, events: Arc<[Event]>, picked: Option<Vec<u32>>) -> Self {
        Delivery {
            number,
            revision,
            events,
            picked,
        }
    }

    /// What it takes in memory, nearly.
    pub fn bytes(&self) -> usize {
        match &self.picked {
            None => self.events.iter().map(event_bytes).sum(),
            Some(picked) => picked
                .iter()
                .map(|&at| event_bytes(&self.events[at as usize]))
                .sum(),
        }
    }

    pub fn events(&self) -> Vec<Event> {
        match &self.picked {
            None => self.events.to_vec(),
            Some(picked) => picked
                .iter()
                .map(|&at| self.events[at as usize].clone())
                .collect(),
        }
    }
}

/// What an event takes in memory and on the wire, nearly.
pub fn event_bytes(event: &Event) -> usize {
    const FIXED_BYTES: usize = 64;
    FIXED_BYTES + event.kv.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len())
}

/// How much may wait for one stream, apart from what is not events: of that there is little for each watch.
pub const FEED: Limits = Limits {
    count: limits::WATCH_BUFFERED_RESPONSES_MAX,
    bytes: limits::WATCH_BUFFERED_BYTES_MAX,
};

/// How many commands may wait, of all streams.
pub const COMMANDS: Limits = Limits {
    count: limits::WATCH_ASKS_MAX,
    bytes: limits::WATCH_ASKS_BYTES_MAX,
};
