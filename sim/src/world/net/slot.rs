//! Who waits at one end of a connection, and the one timer that wakes them.

use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};

use super::Nanos;

/// The waiting tasks of one end. Serves as the waker of its own timer.
#[derive(Default)]
pub struct Slot {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// When the earliest pending timer fires.
    armed: Option<Nanos>,
}

impl Slot {
    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().expect("nothing panics under this lock"))
    }

    pub fn wait_to_read(&self, waker: &Waker) {
        self.with(|state| remember(&mut state.reader, waker));
    }

    pub fn wait_to_write(&self, waker: &Waker) {
        self.with(|state| remember(&mut state.writer, waker));
    }

    /// Notes that a timer is wanted at this time; false if one fires by then anyway, or if nobody waits.
    pub fn wants_timer(&self, at: Nanos) -> bool {
        self.with(|state| {
            let waited_for = state.reader.is_some() || state.writer.is_some();
            if !waited_for || state.armed.is_some_and(|armed| armed <= at) {
                return false;
            }
            state.armed = Some(at);
            true
        })
    }

    /// Wakes whoever waits for room.
    pub fn wake_writer(&self) {
        let writer = self.with(|state| state.writer.take());
        writer.into_iter().for_each(Waker::wake);
    }

    /// Wakes everybody.
    pub fn wake_all(&self) {
        let (reader, writer) = self.with(|state| (state.reader.take(), state.writer.take()));
        reader.into_iter().chain(writer).for_each(Waker::wake);
    }
}

fn remember(place: &mut Option<Waker>, waker: &Waker) {
    match place {
        Some(known) => known.clone_from(waker),
        None => *place = Some(waker.clone()),
    }
}

impl Wake for Slot {
    /// The timer fired.
    fn wake(self: Arc<Self>) {
        self.with(|state| state.armed = None);
        self.wake_all();
    }
}
