//! Watches: from applied revisions to the streams that want them.
//!
//! ```text
//!   core:  apply ─► Handout: backlog ─► registry finds the watches ─► Told ═══► Session of each stream   (io threads)
//!                      ▲                                              bounded      │      │
//!                      └═══════════════════════════ Ask ◄══════════════════════════┘      │
//!                                                                 history, bounded rounds ◄┘ watches behind
//! ```
//!
//! What a client may rely on: events of a watch come in order, each once, all of one revision in one response; and
//! progress at revision r comes after every event up to r. Why it holds:
//!
//! * Who watches what is known on the core's thread alone ([`handout`]), and a stream hears of it in one queue.
//! * A stream's responses are made in one place ([`session::Session`]), in the order in which they are sent. What a watch
//!   gets from its queue is sent before what its stream reads for it from history, since it hears that it is behind only after
//!   its last event.
//! * Applying waits for no client: it appends to the backlog, and a task hands out, unless watches are
//!   few. Only a backlog beyond its limit is handed out by who applies.

mod catch_up;
mod events;
mod feed;
mod handout;
mod registry;
mod service;
mod session;
#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::metrics::Metrics;
use crate::base::{Broken, Denied, Figures, Revision};
use crate::consensus::{Consensus, SharedObserver};
use crate::runtime::channel::{Receiver, Sender, TrySendError, answer, channel};
use crate::runtime::{BoxFuture, Env};
use crate::state::{SharedStore, State};
use catch_up::Budget;
use feed::{Ask, Backlog};
use handout::Handout;

/// Where history and replaced pairs are read.
pub trait Source: Clone + Send + Sync + Unpin + 'static {
    /// Looks at the local state, and may keep the store as it is at that moment. Nothing is applied meanwhile.
    fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&State, &dyn Fn() -> SharedStore) -> T + Send + 'static,
    ) -> impl Future<Output = T> + Send;

    /// A store that was kept is damaged, which ends the member: what clients hear.
    fn damaged(&self, broken: Broken) -> Denied;
}

impl Source for Consensus {
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&State, &dyn Fn() -> SharedStore) -> T + Send + 'static,
    ) -> T {
        Consensus::look(self, look).await
    }

    fn damaged(&self, broken: Broken) -> Denied {
        self.met_damage(broken)
    }
}

/// How streams reach the watches of this member, on every thread. Created before consensus, which tells the other end what is
/// applied.
pub struct WatchHub {
    asks: Sender<Ask>,
    /// Numbers the streams.
    streams: AtomicU64,
    /// The revision of the state, which is set before its events are told.
    revision: Arc<AtomicI64>,
    metrics: Arc<Metrics>,
    /// What the rounds of all streams may hold in memory.
    catching_up: Arc<Budget>,
}

impl WatchHub {
    /// A hub, and how its other end begins on the core's thread.
    pub fn new(figures: Arc<Figures>) -> (Arc<WatchHub>, impl FnOnce(&Env) -> SharedObserver + Send) {
        let (hub, asks) = WatchHub::open(figures);
        let watched = hub.clone();
        let begin = move |env: &Env| {
            let handout = Rc::new(Handout::new(&watched));
            drop(watched);
            env.spawn_local(handout.clone().run(env.clone(), asks));
            handout as SharedObserver
        };
        (hub, begin)
    }

    fn open(figures: Arc<Figures>) -> (Arc<WatchHub>, Receiver<Ask>) {
        let (asks, asked) = channel(feed::ASKS);
        let hub = Arc::new(WatchHub {
            asks,
            streams: AtomicU64::new(0),
            revision: Arc::default(),
            metrics: Metrics::new(figures),
            catching_up: Arc::default(),
        });
        (hub, asked)
    }

    /// Where everything is counted; the hub is the first of the server to exist.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The revision of the local state.
    pub fn revision(&self) -> Revision {
        self.revision.load(Ordering::Acquire)
    }

    /// How far streams are behind.
    pub async fn backlog(&self) -> Backlog {
        let (answer, answered) = answer();
        let _ = self.asks.send(Ask::Backlog(answer), 0).await;
        // Nobody is behind a core that has ended.
        answered.await.unwrap_or_default()
    }

    fn next_stream(&self) -> u64 {
        self.streams.fetch_add(1, Ordering::Relaxed)
    }

    /// Asks, or says what to wait for until it is asked. A core that has ended is asked nothing: its server stops.
    fn ask(&self, ask: Ask) -> Option<BoxFuture<'static, ()>> {
        let bytes = ask.bytes();
        let Err(TrySendError::Full(ask)) = self.asks.try_send(ask, bytes) else {
            return None;
        };
        let asks = self.asks.clone();
        Some(Box::pin(async move {
            let _ = asks.send(ask, bytes).await;
        }))
    }
}
