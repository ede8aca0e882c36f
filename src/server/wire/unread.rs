//! What clients have asked for and do not read: bounded in bytes, over all the requests of a connection.
//!
//! ```text
//!   look ─► pairs: add() ─► encoded ─► frames: keep() ─► written to the connection: released
//!     ▲ room()
//! ```
//!
//! HTTP/2's window bounds what is sent, not what is waiting to be: a client that asks a thousand times for ten megabytes
//! and reads none of it would have them all in the server's memory. Here what is read for it waits until earlier answers
//! were read. So that each answer can be finished, one of them may go beyond the bound at a time: the client has to read
//! that one first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;

use crate::base::limits;
use crate::runtime::buggify::{self, Site};
use crate::runtime::signal;

/// Smaller frames of answers that did not count are not counted either.
const FRAME_COUNTED_BYTES: usize = 16 * 1024;

/// The answers of a connection.
#[derive(Clone)]
pub struct Unread(Arc<Answers>);

struct Answers {
    held: signal::Sender<Held>,
    under_way: AtomicUsize,
}

#[derive(Default)]
struct Held {
    bytes: usize,
    /// One answer goes beyond the bound.
    is_overdrawn: bool,
}

impl Default for Unread {
    fn default() -> Self {
        let (held, _) = signal::channel(Held::default());
        let under_way = AtomicUsize::new(0);
        Unread(Arc::new(Answers { held, under_way }))
    }
}

impl Unread {
    fn max() -> usize {
        buggify::limit(Site::AnswersUnread, limits::ANSWERS_UNREAD_BYTES_MAX, 1_000)
    }

    /// Whether something of an answer is yet to come: of a stream until it ends.
    pub fn is_any_under_way(&self) -> bool {
        self.0.under_way.load(Ordering::Relaxed) > 0
    }

    /// An answer that holds nothing yet.
    pub fn answer(&self) -> Answer {
        self.0.under_way.fetch_add(1, Ordering::Relaxed);
        Answer(Arc::new(Inner {
            connection: Some(self.clone()),
            bytes: AtomicUsize::new(0),
            overdraws: AtomicBool::new(false),
        }))
    }
}

/// What the answer to one request holds. Clones share it; it is released with the last.
#[derive(Clone, Default)]
pub struct Answer(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// `None`: the answer leaves no process, and nothing is counted.
    connection: Option<Unread>,
    bytes: AtomicUsize,
    overdraws: AtomicBool,
}

impl Inner {
    fn release(&self) {
        let (bytes, overdrew) = (
            self.bytes.swap(0, Ordering::Relaxed),
            self.overdraws.swap(false, Ordering::Relaxed),
        );
        if let Some(Unread(answers)) = &self.connection
            && (bytes > 0 || overdrew)
        {
            answers.held.send_if_modified(|held| {
                held.bytes -= bytes;
                held.is_overdrawn &= !overdrew;
                true
            });
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.release();
        if let Some(Unread(answers)) = &self.connection {
            answers.under_way.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Answer {
    /// Waits until the answer may grow.
    pub async fn room(&self) {
        let Some(Unread(answers)) = &self.0.connection else {
            return;
        };
        let held = &answers.held;
        if self.0.overdraws.load(Ordering::Relaxed) || held.borrow().bytes < Unread::max() {
            return;
        }
        let mut changes = held.subscribe();
        loop {
            let mut has_room = false;
            held.send_if_modified(|held| {
                has_room = held.bytes < Unread::max();
                if !has_room && !held.is_overdrawn {
                    held.is_overdrawn = true;
                    self.0.overdraws.store(true, Ordering::Relaxed);
                    has_room = true;
                }
                false
            });
            // The signal does not close before the connection that it belongs to.
            if has_room || changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// The answer has grown.
    pub fn add(&self, bytes: usize) {
        if let Some(Unread(answers)) = &self.0.connection {
            self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
            answers.held.send_if_modified(|held| {
                held.bytes += bytes;
                false
            });
        }
    }

    /// What was read for it was dropped.
    pub fn release(&self) {
        self.0.release();
    }

    /// A frame of the answer. It holds what the answer holds until it is dropped, which is when it was written.
    pub fn keep(&self, frame: Bytes) -> Bytes {
        let Some(connection) = &self.0.connection else {
            return frame;
        };
        let answer = match self.0.bytes.load(Ordering::Relaxed) {
            0 if frame.len() < FRAME_COUNTED_BYTES => return frame,
            // Of a stream, or read by what does not count.
            0 => {
                let own = connection.answer();
                own.add(frame.len());
                own
            }
            _ => self.clone(),
        };
        Bytes::from_owner(Kept(frame, answer))
    }
}

/// A frame, and what it holds.
struct Kept(
    Bytes,
    #[expect(dead_code, reason = "it counts until it is dropped")] Answer,
);

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests;
