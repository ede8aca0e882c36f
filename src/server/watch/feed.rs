//! What streams ask of the [hand-out](super::handout), which runs on the core's thread, and what they are told.
//!
//! Each stream is told in one queue, so what it hears is in the order in which it happened: a watch begins, gets its events, falls
//! behind, is in sync again. The queue is bounded in messages and bytes. A watch whose events do not fit falls *behind*: it
//! gets none any more, and its stream reads history for it, from just that revision on.

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

/// What is asked.
pub enum Ask {
    /// A stream begins, under a number that no other has, and is told here.
    Open {
        stream: u64,
        told: Sender<Told>,
    },
    /// A new watch from a revision on (0: from now on), to be answered with [`Told::Watched`].
    Watch {
        stream: u64,
        filter: Filter,
        start: Revision,
    },
    Unwatch {
        number: u64,
    },
    /// A watch that was behind wants what comes from `next` on, to be answered with [`Told::Synced`].
    Sync {
        number: u64,
        next: Revision,
    },
    /// Everything that was applied is to be told, and then [`Told::Reached`].
    Settle {
        stream: u64,
    },
    /// A stream ends, with its watches.
    Close {
        stream: u64,
    },
    Backlog(Answer<Backlog>),
}

impl Ask {
    /// What it takes in memory, nearly.
    pub fn bytes(&self) -> usize {
        match self {
            Ask::Watch { filter, .. } => filter.keys.bytes(),
            _ => 0,
        }
    }
}

/// How far streams are behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Backlog {
    /// Watches that are behind.
    pub behind: usize,
    /// What waits to be handed out, or to be taken by a stream.
    pub pending: usize,
}

/// What a stream is told.
pub enum Told {
    /// The watch that it asked for last has begun at `revision`, under a number that is its own: the same id on one stream can
    /// belong to one watch after another. `is_synced`: it wants nothing that was handed out already.
    Watched {
        number: u64,
        next: Revision,
        is_synced: bool,
        revision: Revision,
    },
    Events(Delivery),
    /// The watch gets no events from `next` on.
    Behind {
        number: u64,
        next: Revision,
    },
    /// Whether the watch gets events from where it wanted them.
    Synced {
        number: u64,
        is_synced: bool,
    },
    /// Everything up to this revision was told.
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

/// How much may be asked at a time, by all streams.
pub const ASKS: Limits = Limits {
    count: limits::WATCH_ASKS_MAX,
    bytes: limits::WATCH_ASKS_BYTES_MAX,
};
