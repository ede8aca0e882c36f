//! The trace of a run: every event of note, with virtual time and place, in one rolling hash.
//!
//! Two runs of one seed must have the same hash; a difference is a defect of the simulator or of the
//! product (hidden randomness), and reported as such. With `--log` the lines are printed as well. The
//! trace holds no address, no wall clock and no process id.

use std::fmt::{self, Write};
use std::sync::Mutex;
use std::time::Duration;

use crate::seed::{FNV_OFFSET, fnv1a};

/// Collects the events of one run.
pub struct Trace {
    state: Mutex<State>,
    print: bool,
}

struct State {
    hash: u64,
    lines: u64,
    buffer: String,
}

impl Trace {
    /// With `print`, each line also goes to standard error.
    pub fn new(print: bool) -> Self {
        let state = State {
            hash: FNV_OFFSET,
            lines: 0,
            buffer: String::new(),
        };
        Trace {
            state: Mutex::new(state),
            print,
        }
    }

    /// Adds an event: `place` is a node, a client, or "world".
    pub fn event(&self, at: Duration, place: &str, what: fmt::Arguments<'_>) {
        let mut state = self.state.lock().expect("nothing panics under this lock");
        let State { hash, lines, buffer } = &mut *state;
        buffer.clear();
        write!(buffer, "{:12.6} {place:<8} {what}", at.as_secs_f64()).expect("a string takes any text");
        *hash = fnv1a(fnv1a(*hash, buffer.as_bytes()), &at.subsec_nanos().to_le_bytes());
        *lines += 1;
        if self.print {
            eprintln!("{buffer}");
        }
    }

    /// The hash of everything so far.
    pub fn hash(&self) -> u64 {
        self.state.lock().expect("nothing panics under this lock").hash
    }

    /// The number of events so far.
    pub fn lines(&self) -> u64 {
        self.state.lock().expect("nothing panics under this lock").lines
    }

    pub fn prints(&self) -> bool {
        self.print
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(events: &[(u64, &str, &str)]) -> u64 {
        let trace = Trace::new(false);
        for (at, place, what) in events {
            trace.event(Duration::from_nanos(*at), place, format_args!("{what}"));
        }
        trace.hash()
    }

    #[test]
    fn the_hash_covers_time_place_text_and_order() {
        let reference = hash(&[(1, "m1", "start"), (2, "m2", "start")]);
        assert_eq!(reference, hash(&[(1, "m1", "start"), (2, "m2", "start")]));
        assert_ne!(reference, hash(&[(1, "m1", "start"), (3, "m2", "start")]));
        assert_ne!(reference, hash(&[(1, "m1", "start"), (2, "m3", "start")]));
        assert_ne!(reference, hash(&[(1, "m1", "start"), (2, "m2", "stop")]));
        assert_ne!(reference, hash(&[(2, "m2", "start"), (1, "m1", "start")]));
    }
}
