use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::*;
use crate::runtime::tokio::env;

/// An engine in memory that takes its time.
#[derive(Default)]
struct Slow {
    rows: Mutex<Arc<Overlay>>,
    batches: AtomicUsize,
    discarded: Mutex<Vec<RevisionAt>>,
    is_broken: AtomicBool,
    /// Whoever holds it keeps the next batch out.
    gate: Mutex<()>,
}

struct Nothing;

impl Read for Nothing {
    fn get(&self, _: Space, _: &[u8]) -> Result<Option<Bytes>, Broken> {
        Ok(None)
    }

    fn scan(
        &self,
        _: Space,
        _: &[u8],
        _: Option<&[u8]>,
        _: &mut dyn FnMut(&[u8], Bytes) -> Visit,
    ) -> Result<(), Broken> {
        Ok(())
    }
}

impl Slow {
    fn layers(&self) -> [Arc<Overlay>; 1] {
        [self.rows.lock().unwrap().clone()]
    }
}

impl Read for Slow {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Broken> {
        Layered(&self.layers(), &Nothing).get(space, key)
    }

    fn scan(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
    ) -> Result<(), Broken> {
        Layered(&self.layers(), &Nothing).scan(space, from, to, visit)
    }
}

impl Engine for Slow {
    fn write(&self, batch: Batch) -> Result<(), Broken> {
        let _gate = self.gate.lock().unwrap();
        if self.is_broken.load(Ordering::SeqCst) {
            return Err(Broken::Stopped("the disk is gone"));
        }
        let mut rows = self.rows.lock().unwrap();
        let mut all = Overlay::default();
        for (space, key, value) in rows.iter() {
            all.change(space, key.clone(), value.clone());
        }
        for change in batch.changes {
            all.change(change.space, change.key, change.value);
        }
        *rows = Arc::new(all);
        self.batches.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn discard(&self, dead: Vec<RevisionAt>) {
        self.discarded.lock().unwrap().extend(dead);
    }

    fn sync(&self) -> BoxFuture<'_, Result<(), Broken>> {
        Box::pin(async { Ok(()) })
    }

    fn view(&self) -> Box<dyn View> {
        let [rows] = self.layers();
        Box::new(LayeredView {
            layers: vec![rows],
            view: Box::new(Nothing),
        })
    }
}

impl View for Nothing {}

fn put(key: &str, value: &str) -> Batch {
    let mut batch = Batch::default();
    batch.put(Space::Meta, key.to_owned(), value.to_owned());
    batch
}

fn rows(read: &dyn Read) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut rows = Vec::new();
    let mut visit = |key: &[u8], value: Bytes| {
        rows.push((text(key), text(&value)));
        Visit::Continue
    };
    read.scan(Space::Meta, b"", None, &mut visit).unwrap();
    for (key, value) in &rows {
        let found = read.get(Space::Meta, key.as_bytes()).unwrap();
        assert_eq!(found.as_deref(), Some(value.as_bytes()), "{key}");
    }
    rows
}

fn row(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_is_visible_before_the_engine_has_it_and_views_keep_what_they_saw() {
    let slow = Arc::new(Slow::default());
    let queue = Queue::new(&env(), slow.clone());
    queue.write(put("a", "1")).unwrap();
    queue.write(put("b", "1")).unwrap();
    queue.sync().await.unwrap();
    let gate = slow.gate.lock().unwrap();
    queue.write(put("a", "2")).unwrap();
    let first = queue.view();
    let mut deletes = put("c", "1");
    deletes.delete(Space::Meta, "b");
    queue.write(deletes).unwrap();
    assert_eq!(rows(&*slow), [row("a", "1"), row("b", "1")]);
    let now = [row("a", "2"), row("c", "1")];
    assert_eq!(rows(&queue), now);
    drop(gate);
    queue.sync().await.unwrap();
    queue.write(put("a", "3")).unwrap();
    assert_eq!(rows(&*slow), now);
    assert_eq!(rows(&first), [row("a", "2"), row("b", "1")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_batches_reach_the_engine_as_few_and_what_they_killed_is_discarded_after_them() {
    let slow = Arc::new(Slow::default());
    let queue = Queue::new(&env(), slow.clone());
    for n in 0..1_000 {
        queue.write(put("position", &n.to_string())).unwrap();
    }
    queue.discard(vec![RevisionAt { main: 7, sub: 0 }]);
    let is_early = slow.batches.load(Ordering::SeqCst) == 0;
    assert!(!is_early || slow.discarded.lock().unwrap().is_empty());
    queue.sync().await.unwrap();
    assert_eq!(rows(&*slow), [row("position", "999")]);
    assert!(slow.batches.load(Ordering::SeqCst) < 100);
    assert_eq!(slow.discarded.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_batch_waits_for_others_while_nobody_is_in_a_hurry() {
    let slow = Arc::new(Slow::default());
    let (env, queue) = (env(), Queue::new(&env(), slow.clone()));
    queue.sync().await.unwrap();
    let begun = env.now();
    for n in 0..100 {
        queue.write(put("position", &n.to_string())).unwrap();
        env.sleep(Duration::from_millis(1)).await;
    }
    let batches = slow.batches.load(Ordering::SeqCst) as u32;
    let took = env.now() - begun;
    assert!(batches * LINGER <= took + LINGER, "{batches} in {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_writes_much_waits_for_the_engine_and_learns_of_its_failure() {
    let slow = Arc::new(Slow::default());
    let queue = Queue::new(&env(), slow.clone());
    let large = "x".repeat(1 << 20);
    let gate = slow.gate.lock().unwrap();
    for n in 0..limits::ENGINE_QUEUED_BYTES_MAX >> 20 {
        assert!(queue.room().now_or_never().is_some());
        queue.write(put(&n.to_string(), &large)).unwrap();
    }
    assert!(queue.room().now_or_never().is_none(), "it is full");
    drop(gate);
    queue.room().await;
    queue.sync().await.unwrap();
    slow.is_broken.store(true, Ordering::SeqCst);
    queue.write(put("lost", "1")).unwrap();
    let broken = queue.sync().await.unwrap_err();
    assert_eq!(queue.check().unwrap_err(), broken);
    assert_eq!(queue.write(put("late", "1")).unwrap_err(), broken);
    queue.room().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_is_closed_when_nothing_is_being_written_to_it() {
    let slow = Arc::new(Slow::default());
    let queue = Queue::new(&env(), slow.clone());
    queue.write(put("a", "1")).unwrap();
    queue.close(&env()).await;
    assert_eq!(Arc::strong_count(&slow), 1);
}
