//! Points of a process's life at which it can be stopped, exactly.
//!
//! The product needs no hook for them: the disk knows when it is asked to sync, when it has synced, and when a second store
//! is begun. An operation that reaches the point never ends, and the nemesis, who is woken, ends the process.

use std::task::{Context, Poll, Waker};

use crate::seed::Dice;

/// Syncs of an installation of a snapshot among which one is picked.
const SYNCS_OF_SNAPSHOT: u64 = 6;

/// See the module's text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Point {
    /// All is written, nothing of it synced.
    BeforeSync,
    /// All is synced, and nobody has been told.
    AfterSync,
    /// Somewhere between the first and the last sync of a snapshot that is installed.
    InSnapshot,
}

/// The point that is set, and whether it was reached.
#[derive(Default)]
pub struct Trap {
    set: Option<Point>,
    /// Of `set`, this many are let pass.
    passes: u64,
    reached: bool,
    waiter: Option<Waker>,
}

impl Trap {
    /// Whoever was stopped stays so: until its process ends, nothing else can be set.
    pub fn set(&mut self, point: Option<Point>) {
        if !self.reached {
            *self = Trap {
                set: point,
                ..Trap::default()
            };
        }
    }

    pub fn is_reached(&self) -> bool {
        self.reached
    }

    /// From now on the syncs are those of a snapshot, mostly.
    pub fn snapshot_begins(&mut self, dice: &mut Dice) {
        if self.set == Some(Point::InSnapshot) {
            self.set = Some(*dice.pick(&[Point::BeforeSync, Point::AfterSync]));
            self.passes = dice.below(SYNCS_OF_SNAPSHOT);
        }
    }

    /// True if whoever reaches this point has to stop. What else the process does at this moment stops at its next sync.
    pub fn reach(&mut self, point: Point) -> bool {
        if self.set != Some(point) {
            return false;
        }
        if self.passes > 0 {
            self.passes -= 1;
            return false;
        }
        self.reached = true;
        self.waiter.take().into_iter().for_each(Waker::wake);
        true
    }

    pub fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.reached {
            return Poll::Ready(());
        }
        self.waiter = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::Seed;

    #[test]
    fn a_process_stops_at_the_point_that_is_set_and_at_no_other() {
        let mut trap = Trap::default();
        assert!(!trap.reach(Point::BeforeSync));
        trap.set(Some(Point::AfterSync));
        assert!(!trap.reach(Point::BeforeSync) && trap.reach(Point::AfterSync));
        trap.set(None);
        assert!(
            trap.is_reached(),
            "nothing else would end the process that was stopped"
        );
        let mut trap = Trap::default();
        trap.set(Some(Point::AfterSync));
        trap.set(None);
        assert!(!trap.reach(Point::AfterSync));
    }

    #[test]
    fn in_a_snapshot_any_of_its_syncs_is_the_one() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let mut trap = Trap::default();
            trap.set(Some(Point::InSnapshot));
            assert!(!trap.reach(Point::BeforeSync) && !trap.reach(Point::AfterSync));
            trap.snapshot_begins(&mut Seed(seed).dice("disk"));
            for sync in 0..SYNCS_OF_SNAPSHOT {
                for point in [Point::BeforeSync, Point::AfterSync] {
                    if trap.reach(point) {
                        seen.insert((sync, point == Point::AfterSync));
                    }
                }
            }
        }
        assert!(seen.len() as u64 >= 2 * SYNCS_OF_SNAPSHOT - 1, "{seen:?}");
    }
}
