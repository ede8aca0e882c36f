//! Watches: from applied revisions to the streams that want them.
//!
//! ```text
//!   core:  apply ─► Dispatcher: backlog ─► registry finds the watches ─► Update ═══► Session of each stream   (io threads)
//!                      ▲                                              bounded      │      │
//!                      └═══════════════════════ Command ◄══════════════════════════┘      │
//!                                                                 history, bounded rounds ◄┘ unsynced watches
//! ```
//!
//! What a client may rely on: events of a watch come in order, each once, all of one revision in one response; and
//! progress at revision r comes after every event up to r. Why it holds:
//!
//! * Who watches what is known on the core's thread alone ([`dispatcher`]), and a stream hears of it in one queue.
//! * A stream's responses are made in one place ([`session::Session`]), in the order in which they are sent. What a watch
//!   gets from its queue is sent before what its stream reads for it from history, since it loses sync only after
//!   its last event.
//! * Applying waits for no client: it appends to the backlog, and a task dispatches, unless watches are
//!   few. Only a backlog beyond its limit is dispatched by who applies.

mod catch_up;
mod dispatcher;
mod events;
mod feed;
mod registry;
mod service;
mod session;
#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::metrics::Metrics;
use crate::base::{Broken, Denied, MemberMetrics, Revision};
use crate::consensus::{Consensus, SharedObserver};
use crate::runtime::channel::{Receiver, Sender, TrySendError, answer, channel};
use crate::runtime::{BoxFuture, Env};
use crate::state::{SharedStore, State};
use catch_up::Budget;
use dispatcher::Dispatcher;
use feed::{Backlog, Command};

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
    commands: Sender<Command>,
    /// Numbers the streams.
    streams: AtomicU64,
    /// The revision of the state, which is set before its events are dispatched.
    revision: Arc<AtomicI64>,
    metrics: Arc<Metrics>,
    /// What the rounds of all streams may hold in memory.
    catching_up: Arc<Budget>,
}

impl WatchHub {
    /// A hub, and how its other end begins on the core's thread.
    pub fn new(
        member_metrics: Arc<MemberMetrics>,
    ) -> (Arc<WatchHub>, impl FnOnce(&Env) -> SharedObserver + Send) {
        let (hub, commands) = WatchHub::open(member_metrics);
        let watched = hub.clone();
        let begin = move |env: &Env| {
            let dispatcher = Rc::new(Dispatcher::new(&watched));
            drop(watched);
            env.spawn_local(dispatcher.clone().run(env.clone(), commands));
            dispatcher as SharedObserver
        };
        (hub, begin)
    }

    fn open(member_metrics: Arc<MemberMetrics>) -> (Arc<WatchHub>, Receiver<Command>) {
        let (commands, incoming) = channel(feed::COMMANDS);
        let hub = Arc::new(WatchHub {
            commands,
            streams: AtomicU64::new(0),
            revision: Arc::default(),
            metrics: Metrics::new(member_metrics),
            catching_up: Arc::default(),
        });
        (hub, incoming)
    }

    /// Where everything is counted; the hub is the first of the server to exist.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The revision of the local state.
    pub fn revision(&self) -> Revision {
        self.revision.load(Ordering::Acquire)
    }

    /// What streams still have to get.
    pub async fn backlog(&self) -> Backlog {
        let (answer, answered) = answer();
        let _ = self.commands.send(Command::Backlog(answer), 0).await;
        // A core that has ended dispatches nothing.
        answered.await.unwrap_or_default()
    }

    fn next_stream(&self) -> u64 {
        self.streams.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends, or returns what to wait for until it is sent. A core that has ended is sent nothing: its server stops.
    fn send(&self, command: Command) -> Option<BoxFuture<'static, ()>> {
        let bytes = command.bytes();
        let Err(TrySendError::Full(command)) = self.commands.try_send(command, bytes) else {
            return None;
        };
        let commands = self.commands.clone();
        Some(Box::pin(async move {
            let _ = commands.send(command, bytes).await;
        }))
    }
}
