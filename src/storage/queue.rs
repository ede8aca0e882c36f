//! The way to the engine: what is written is visible at once, and reaches the engine later, in order, elsewhere.
//!
//! ```text
//!   write ─► layer ─► layer ─► [ written off the tasks: one batch ] ─► engine
//!   get, scan, view: the newest layer first, then those below it, then the engine
//!   sync: written up to here, then the engine's own sync
//! ```
//!
//! An engine may make a writer wait: for a sync under way, for tables that are made more slowly than there is written. Whoever
//! applies commands must not wait for that, as it holds up everybody. And writing each batch on its own is dear: a key of the
//! state's own, such as the applied position, is rewritten in every batch, and only the last counts. Nothing is lost by waiting a
//! little: what the engine does not have the raft log has.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::engine::{Engine, View};
use crate::base::kv::{Batch, Change, Read, Space, Visit};
use crate::base::overlay::Overlay;
use crate::base::{Broken, RevisionAt, limits};
use crate::runtime::buggify::{self, Site, pause};
use crate::runtime::{Crossing, Env, signal};

/// How long changes wait for others that are written with them.
const LINGER: Duration = Duration::from_millis(10);
/// The longest pause before changes reach the engine, in a simulation.
const WRITE_PAUSE: Duration = Duration::from_secs(1);

/// An engine and the changes on their way to it.
pub struct Queue(Arc<Shared>);

struct Shared {
    engine: Arc<dyn Engine>,
    waiting: signal::Sender<Waiting>,
    /// Wakes the writer: there is something to write, or it must not wait for more.
    wake: mpsc::Sender<()>,
}

#[derive(Default)]
struct Waiting {
    /// Not in the engine yet; the oldest first.
    layers: VecDeque<Layer>,
    bytes: usize,
    /// So many batches were ever put in line, and have reached the engine.
    queued: u64,
    written: u64,
    /// Somebody waits for them.
    is_urgent: bool,
    broken: Option<Broken>,
}

/// Changes that become visible together to a view, and reach the engine together.
struct Layer {
    changes: Arc<Overlay>,
    /// To be discarded once they are written.
    dead: Vec<RevisionAt>,
    bytes: usize,
    /// Its batches are in line up to this one.
    last: u64,
    /// The writer has it.
    is_leaving: bool,
}

impl Waiting {
    /// The layer that takes the next changes: the newest, unless a view or the writer has it, or it is large.
    fn newest(&mut self) -> &mut Layer {
        let fits = self.layers.back_mut().is_some_and(|layer| {
            let is_open = !layer.is_leaving && layer.bytes < limits::ENGINE_BATCH_BYTES;
            is_open && Arc::get_mut(&mut layer.changes).is_some()
        });
        if !fits {
            self.layers.push_back(Layer {
                changes: Arc::default(),
                dead: Vec::new(),
                bytes: 0,
                last: self.queued,
                is_leaving: false,
            });
        }
        self.layers.back_mut().expect("it was just looked at, or made")
    }

    fn check(&self) -> Result<(), Broken> {
        self.broken.clone().map_or(Ok(()), Err)
    }

    /// The engine is broken: the first reason counts.
    fn fail(&mut self, broken: &Broken) -> bool {
        self.broken.get_or_insert_with(|| broken.clone());
        true
    }

    /// What was leaving is in the engine.
    fn left(&mut self, engine: &dyn Engine) {
        while let Some(layer) = self.layers.pop_front_if(|layer| layer.is_leaving) {
            self.bytes -= layer.bytes;
            self.written = layer.last;
            if !layer.dead.is_empty() {
                engine.discard(layer.dead);
            }
        }
    }

    fn changes(&self) -> Vec<Arc<Overlay>> {
        self.layers.iter().map(|layer| layer.changes.clone()).collect()
    }
}

impl Queue {
    pub fn new(env: &Env, engine: Arc<dyn Engine>) -> Queue {
        let (wake, woken) = mpsc::channel(1);
        let (waiting, _) = signal::channel(Waiting::default());
        let shared = Arc::new(Shared {
            engine,
            waiting,
            wake,
        });
        env.spawn_detached(run(env.clone(), Arc::downgrade(&shared), woken));
        Queue(shared)
    }

    /// The engine itself; what is written to it must not have anything in line before it.
    pub fn engine(&self) -> &dyn Engine {
        &*self.0.engine
    }

    /// Waits until there is room for more changes.
    pub async fn room(&self) {
        let max = buggify::limit(Site::EngineQueueShort, limits::ENGINE_QUEUED_BYTES_MAX, 1_000);
        let mut waiting = self.0.waiting.subscribe();
        let has_room = |waiting: &Waiting| waiting.bytes < max || waiting.broken.is_some();
        if !has_room(&waiting.borrow()) {
            self.hurry();
            // It cannot close before this.
            let _ = waiting.wait_until(has_room).await;
        }
    }

    fn wake(&self) {
        // Full means that a wake-up is on its way already.
        let _ = self.0.wake.try_send(());
    }

    /// Has all that waits written now.
    fn hurry(&self) {
        self.0.waiting.send_if_modified(|waiting| {
            waiting.is_urgent = true;
            false
        });
        self.wake();
    }

    /// See [`Engine::write`].
    pub fn write(&self, batch: Batch) -> Result<(), Broken> {
        let (mut checked, mut wakes) = (Ok(()), false);
        self.0.waiting.send_if_modified(|waiting| {
            checked = waiting.check();
            if checked.is_err() || batch.is_empty() {
                return false;
            }
            let was_idle = waiting.layers.is_empty();
            waiting.queued += 1;
            let last = waiting.queued;
            let layer = waiting.newest();
            let overlay = Arc::get_mut(&mut layer.changes).expect("nobody else has it");
            let mut bytes = 0;
            for change in batch.changes {
                bytes += change.key.len() + change.value.as_ref().map_or(0, Bytes::len);
                overlay.change(change.space, change.key, change.value);
            }
            (layer.bytes, layer.last) = (layer.bytes + bytes, last);
            waiting.bytes += bytes;
            let is_much = waiting.bytes >= limits::ENGINE_BATCH_BYTES;
            wakes = was_idle || (is_much && !waiting.is_urgent);
            waiting.is_urgent |= is_much;
            false
        });
        if wakes {
            self.wake();
        }
        checked
    }

    /// See [`Engine::discard`].
    pub fn discard(&self, dead: Vec<RevisionAt>) {
        self.0.waiting.send_if_modified(|waiting| {
            match waiting.layers.back_mut() {
                Some(layer) if !layer.is_leaving => layer.dead.extend(dead),
                // What made them dead is written, or about to be: either way it is in line before.
                Some(_) => waiting.newest().dead.extend(dead),
                None => self.0.engine.discard(dead),
            }
            false
        });
    }

    /// See [`Engine::sync`].
    pub async fn sync(&self) -> Result<(), Broken> {
        let mut waiting = self.0.waiting.subscribe();
        let queued = waiting.borrow().queued;
        self.hurry();
        let is_done = |waiting: &Waiting| waiting.written >= queued || waiting.broken.is_some();
        // It cannot close before this.
        let _ = waiting.wait_until(is_done).await;
        self.check()?;
        let synced = self.0.engine.sync().await;
        if let Err(broken) = &synced {
            self.0.waiting.send_if_modified(|waiting| waiting.fail(broken));
        }
        synced
    }

    /// Whether the engine still takes what is written.
    pub fn check(&self) -> Result<(), Broken> {
        self.0.waiting.borrow().check()
    }

    /// Closes the engine, when what is being written to it is.
    pub async fn close(self, env: &Env) {
        let (mut waiting, engine) = (self.0.waiting.subscribe(), self.0.engine.clone());
        drop(self);
        while waiting.changed().await.is_ok() {}
        // Closing may wait for a compaction.
        env.run_blocking(move || drop(engine)).await;
    }

    /// See [`Engine::view`].
    pub fn view(&self) -> LayeredView {
        // Locked, so that nothing leaves the layers for the engine in between.
        let waiting = self.0.waiting.borrow();
        LayeredView {
            layers: waiting.changes(),
            view: self.0.engine.view(),
        }
    }
}

impl Read for Queue {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Broken> {
        let waiting = self.0.waiting.borrow();
        let found = |layer: &Layer| layer.changes.get(space, key).cloned();
        let found = waiting.layers.iter().rev().find_map(found);
        drop(waiting);
        found.map_or_else(|| self.0.engine.get(space, key), Ok)
    }

    fn scan(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
    ) -> Result<(), Broken> {
        self.view().scan(space, from, to, visit)
    }
}

/// What was in line, above a view of the engine. A batch that has just reached the engine may be in both.
pub struct LayeredView {
    layers: Vec<Arc<Overlay>>,
    view: Box<dyn View>,
}

/// Some layers above a store.
struct Layered<'a>(&'a [Arc<Overlay>], &'a dyn Read);

impl Read for Layered<'_> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Broken> {
        let found = self.0.iter().rev().find_map(|layer| layer.get(space, key));
        found.map_or_else(|| self.1.get(space, key), |found| Ok(found.clone()))
    }

    fn scan(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
    ) -> Result<(), Broken> {
        match self.0.split_last() {
            Some((newest, rest)) => newest.scan(&Layered(rest, self.1), space, from, to, visit),
            None => self.1.scan(space, from, to, visit),
        }
    }
}

impl Read for LayeredView {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Broken> {
        Layered(&self.layers, &self.view).get(space, key)
    }

    fn scan(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
    ) -> Result<(), Broken> {
        Layered(&self.layers, &self.view).scan(space, from, to, visit)
    }
}

impl View for LayeredView {}

/// Writes what is in line, until the queue is gone. Nothing here keeps an idle engine open.
async fn run(env: Env, queue: Weak<Shared>, mut woken: mpsc::Receiver<()>) {
    while woken.recv().await.is_some() {
        loop {
            linger(&env, &queue, &mut woken).await;
            pause(&env, Site::EngineQueueLate, WRITE_PAUSE).await;
            let Some(shared) = queue.upgrade() else { return };
            if !shared.write_some(&env).await {
                break;
            }
        }
    }
}

/// Waits for what can be written with what is in line, unless somebody is in a hurry. A wake-up that is left of something
/// written already says nothing.
async fn linger(env: &Env, queue: &Weak<Shared>, woken: &mut mpsc::Receiver<()>) {
    let is_calm = |queue: Arc<Shared>| !queue.waiting.borrow().is_urgent;
    let until = env.now() + LINGER;
    while queue.upgrade().is_some_and(is_calm)
        && let Ok(Some(())) = env.timeout_at(until, woken.recv()).await
    {}
}

impl Shared {
    /// Writes some of what is in line; whether there is more, for which nobody wakes.
    async fn write_some(self: Arc<Self>, env: &Env) -> bool {
        let (mut leaving, mut bytes) = (Vec::new(), 0);
        self.waiting.send_if_modified(|waiting| {
            for layer in &mut waiting.layers {
                bytes += layer.bytes;
                if waiting.broken.is_some() || (!leaving.is_empty() && bytes > limits::ENGINE_BATCH_BYTES) {
                    break;
                }
                layer.is_leaving = true;
                leaving.push(layer.changes.clone());
            }
            waiting.is_urgent &= leaving.len() < waiting.layers.len();
            false
        });
        if leaving.is_empty() {
            return false;
        }
        if let Some(late) = env.cross(Crossing::ToEngine) {
            late.await;
        }
        let begun = env.now();
        let engine = self.engine.clone();
        let written = env.run_blocking(move || engine.write(merged(&leaving))).await;
        if let Some(late) = env.cross(Crossing::FromEngine) {
            late.await;
        }
        let took = env.now() - begun;
        env.metrics().engine.write.observe(took);
        env.metrics().engine.commit.observe(took);
        let mut is_more = false;
        self.waiting.send_if_modified(|waiting| {
            match &written {
                Ok(()) => {
                    waiting.left(&*self.engine);
                    is_more = !waiting.layers.is_empty();
                }
                Err(broken) => {
                    waiting.fail(broken);
                }
            }
            true
        });
        is_more
    }
}

/// The changes of some layers, of which the last of a key counts.
fn merged(layers: &[Arc<Overlay>]) -> Batch {
    let changes = layers.iter().flat_map(|layer| layer.iter());
    let changes = changes.map(|(space, key, value)| (space, key.clone(), value.clone()));
    if layers.len() == 1 {
        let changes = changes.map(|(space, key, value)| Change { space, key, value });
        return Batch {
            changes: changes.collect(),
        };
    }
    let mut all = Overlay::default();
    changes.for_each(|(space, key, value)| all.change(space, key, value));
    all.into_batch()
}

#[cfg(test)]
mod tests;
