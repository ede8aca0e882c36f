//! Who is let in, and for how long a connection may say nothing.
//!
//! ```text
//!   descriptors of the process = clients' connections (at most) + peers' newcomers (at most) + a reserve: log, engine, peers
//! ```
//!
//! A caller that means well says at once who it is. So a connection that says nothing ends after a while; and where its
//! place is needed earlier, those that have been quiet for longest go first. Strangers that are many can be a nuisance
//! to one another, never to a peer or a client that speaks.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::sync::oneshot;

use super::{Env, Instant};
use crate::base::limits;

/// Connections on peer ports whose callers have not said who they are, in a process with so many descriptors.
pub fn peer_newcomers_max(descriptors: Option<usize>) -> usize {
    let share = descriptors.map_or(usize::MAX, |all| all / 8);
    share.clamp(1, limits::PEER_NEWCOMERS_MAX)
}

/// Connections of clients in a process with so many descriptors.
///
/// # Errors
/// There are too few of them.
pub fn clients_max(descriptors: Option<usize>) -> Result<usize, String> {
    let Some(all) = descriptors else {
        return Ok(usize::MAX);
    };
    let reserved = limits::DESCRIPTORS_RESERVED + peer_newcomers_max(descriptors);
    match all.checked_sub(reserved) {
        Some(clients) if clients > 0 => Ok(clients),
        _ => Err(format!(
            "file descriptor limit of the process is too low; please set higher: the limit is {all}, and {} are \
             recommended at least",
            2 * limits::DESCRIPTORS_RESERVED
        )),
    }
}

/// Connections that have not said anything yet. Clones share them.
#[derive(Clone)]
pub struct Newcomers(Arc<Inner>);

struct Inner {
    places: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    /// By their number, so oldest first; what is dropped tells a connection to go.
    places: BTreeMap<u64, oneshot::Sender<()>>,
}

impl Newcomers {
    pub fn new(places: usize) -> Newcomers {
        Newcomers(Arc::new(Inner {
            places,
            waiting: Mutex::default(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more; whoever has waited for longest goes if there is no place left.
    pub fn enter(&self) -> Newcomer {
        let mut waiting = self.lock();
        if waiting.places.len() >= self.0.places {
            waiting.places.pop_first();
        }
        let number = waiting.next;
        waiting.next += 1;
        let (place, told_to_go) = oneshot::channel();
        waiting.places.insert(number, place);
        Newcomer {
            newcomers: self.clone(),
            number,
            told_to_go,
        }
    }

    /// Tells whoever has waited for longest to go.
    pub fn make_room(&self) {
        self.lock().places.pop_first();
    }

    /// Tells all to go.
    pub fn send_away(&self) {
        self.lock().places.clear();
    }
}

/// A connection that has a place among those that have not said anything.
pub struct Newcomer {
    newcomers: Newcomers,
    number: u64,
    told_to_go: oneshot::Receiver<()>,
}

impl Newcomer {
    /// The output of `speaks`, which waits for what the other side says; an error if that takes too long or the place
    /// is needed.
    pub async fn until<F: Future>(mut self, env: &Env, time: Duration, speaks: F) -> io::Result<F::Output> {
        let speaks = env.timeout(time, speaks);
        match select(pin!(speaks), pin!(&mut self.told_to_go)).await {
            Either::Left((spoken, _)) => Ok(spoken?),
            Either::Right(_) => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "others need the place of a connection that says nothing",
            )),
        }
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.newcomers.lock().places.remove(&self.number);
    }
}

/// A log line that would come too often.
#[derive(Default)]
pub struct AtMostOncePerSecond(Option<Instant>);

impl AtMostOncePerSecond {
    pub fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.0.is_none_or(|last| now - last >= Duration::from_secs(1));
        if is_due {
            self.0 = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests;
