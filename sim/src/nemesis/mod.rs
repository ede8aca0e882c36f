//! The nemesis: which fault strikes whom, when and for how long: data, drawn before the run begins.
//!
//! ```text
//!   seed ─► classes that are on (about half) ─► Schedule [at, lasts, what] ─► act (under madsim)
//! ```
//!
//! A schedule is data so that it can be printed, kept, cut down and replayed after the code has moved on.
//! "The leader" is decided when the fault strikes. Every fault ends before the schedule does, so that the
//! run's quiet end begins on a cluster that can heal.
//!
//! What stays survivable: no fault of this version damages what was synced. Any number of members may
//! crash, all at once too; they come back with everything they acknowledged.

#[cfg(madsim)]
mod act;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

#[cfg(madsim)]
pub use self::act::strike;
use crate::seed::Dice;

/// A sort of fault. Each has a counter in the report: a class that never fires proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Class {
    /// One member loses all its links.
    Isolate,
    /// The leader does.
    IsolateLeader,
    /// Two sides, cut from one another, clients on both.
    Split,
    /// One direction between two members.
    OneWay,
    /// Two sides that only one member can reach.
    Bridge,
    /// Links restored in another order than they were cut.
    Swizzle,
    /// One member's links get slow.
    Slow,
    /// Connections break in the middle of a message.
    Reset,
    /// A process dies; its machine lives.
    Kill,
    /// A machine loses power, and what it had not synced.
    PowerLoss,
    /// The leader's machine does.
    PowerLossLeader,
    /// All machines do.
    PowerLossAll,
    /// A machine loses power while it syncs.
    PowerLossAtSync,
    /// The leader is stopped, and a machine loses power right after it voted for another.
    PowerLossAtVote,
    /// A member is asked to stop, hands over, and comes back.
    Stop,
    /// A process does not run for a while.
    Pause,
    /// The leader's does not.
    PauseLeader,
    /// A sync fails; the member has to stop by itself.
    SyncFailure,
    /// A disk answers nothing for a while.
    DiskStall,
    /// A disk is full for a while; the member has to stop by itself or go on.
    DiskFull,
    /// The leader is told to hand over.
    MoveLeader,
    /// A member dies for good: it is removed, and a new one with an empty disk takes its place.
    Replace,
    /// A monotonic clock runs too fast or too slow.
    Drift,
    /// A time of day jumps.
    ClockJump,
}

impl Class {
    pub const ALL: [Class; 24] = [
        Class::Isolate,
        Class::IsolateLeader,
        Class::Split,
        Class::OneWay,
        Class::Bridge,
        Class::Swizzle,
        Class::Slow,
        Class::Reset,
        Class::Kill,
        Class::PowerLoss,
        Class::PowerLossLeader,
        Class::PowerLossAll,
        Class::PowerLossAtSync,
        Class::PowerLossAtVote,
        Class::Stop,
        Class::Pause,
        Class::PauseLeader,
        Class::SyncFailure,
        Class::DiskStall,
        Class::DiskFull,
        Class::MoveLeader,
        Class::Replace,
        Class::Drift,
        Class::ClockJump,
    ];

    /// Needs another member to be cut from, or to take over.
    fn needs_peers(self) -> bool {
        use Class::*;
        matches!(
            self,
            Split | OneWay | Bridge | Swizzle | MoveLeader | Replace | PowerLossAtVote
        )
    }

    /// How long it lasts, in milliseconds: about an election time-out to several.
    fn lasts_ms(self) -> std::ops::Range<u64> {
        use Class::*;
        match self {
            Isolate | IsolateLeader | Split | OneWay | Bridge => 300..9_000,
            Swizzle => 2_000..8_000,
            Slow => 1_000..10_000,
            Reset | MoveLeader | ClockJump => 0..1,
            // As long as it takes.
            Replace => 1_000..2_000,
            Kill | PowerLoss | PowerLossLeader | PowerLossAll | Stop => 50..6_000,
            PowerLossAtSync => 200..5_000,
            PowerLossAtVote => 3_000..9_000,
            Pause | PauseLeader => 100..7_000,
            SyncFailure => 200..3_000,
            DiskStall | DiskFull => 200..4_000,
            Drift => 2_000..15_000,
        }
    }
}

/// One fault.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    pub at_ms: u64,
    pub lasts_ms: u64,
    pub class: Class,
    /// The member it strikes, unless the class names the leader.
    pub member: usize,
    /// Whatever else has to be decided: other members, amounts.
    pub choice: u64,
}

impl Fault {
    pub fn at(&self) -> Duration {
        Duration::from_millis(self.at_ms)
    }

    pub fn lasts(&self) -> Duration {
        Duration::from_millis(self.lasts_ms)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault {
            at_ms,
            lasts_ms,
            class,
            member,
            choice,
        } = self;
        write!(
            f,
            "{:>7.3}s {class:?} m{} for {lasts_ms} ms (choice {})",
            *at_ms as f64 / 1e3,
            member + 1,
            choice % 1000
        )
    }
}

/// The faults of a run, by time.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Schedule {
    pub faults: Vec<Fault>,
}

impl Schedule {
    /// Draws the faults of a run: a random half of the classes, one fault every few seconds, sometimes in
    /// bursts. Nothing strikes before `calm` has passed or lasts beyond `end`.
    pub fn draw(dice: &mut Dice, members: usize, calm: Duration, end: Duration) -> Schedule {
        let possible = |class: &Class| members > 1 || !class.needs_peers();
        let mut classes: Vec<Class> = Class::ALL.into_iter().filter(possible).collect();
        dice.shuffle(&mut classes);
        classes.truncate(classes.len().div_ceil(2));
        let mean_gap_ms = *dice.pick(&[700, 1_500, 3_000, 6_000]);
        let end_ms = end.as_millis() as u64;
        let mut faults = Vec::new();
        let mut at_ms = calm.as_millis() as u64;
        loop {
            at_ms += match dice.chance(0.15) {
                true => dice.below(50),
                false => dice.range(mean_gap_ms / 3..mean_gap_ms * 2),
            };
            let class = *dice.pick(&classes);
            let lasts_ms = dice.range(class.lasts_ms());
            let member = dice.index(members);
            let choice = dice.u64();
            if at_ms >= end_ms {
                return Schedule { faults };
            }
            faults.push(Fault {
                at_ms,
                lasts_ms: lasts_ms.min(end_ms - at_ms),
                class,
                member,
                choice,
            });
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.faults.iter().try_for_each(|fault| writeln!(f, "{fault}"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::seed::Seed;

    fn draw(seed: u64, members: usize) -> Schedule {
        let mut dice = Seed(seed).dice("nemesis");
        Schedule::draw(
            &mut dice,
            members,
            Duration::from_secs(2),
            Duration::from_secs(40),
        )
    }

    #[test]
    fn schedules_are_in_order_end_in_time_and_vary() {
        let mut counts = BTreeMap::new();
        for seed in 0..500 {
            let schedule = draw(seed, 3);
            assert_eq!(schedule, draw(seed, 3));
            let mut last = 2_000;
            for fault in &schedule.faults {
                assert!(fault.at_ms >= last && fault.at_ms + fault.lasts_ms <= 40_000);
                assert!(fault.member < 3);
                last = fault.at_ms;
                *counts.entry(fault.class).or_insert(0) += 1;
            }
        }
        for class in Class::ALL {
            assert!(
                counts.get(&class).is_some_and(|count| *count > 50),
                "{class:?}: {counts:?}"
            );
        }
    }

    #[test]
    fn a_single_member_is_not_cut_from_peers_it_does_not_have() {
        for seed in 0..100 {
            assert!(
                draw(seed, 1)
                    .faults
                    .iter()
                    .all(|fault| !fault.class.needs_peers())
            );
        }
    }

    #[test]
    fn a_stored_schedule_reads_back() {
        let schedule = draw(5, 5);
        let text = serde_json::to_string(&schedule).expect("plain data");
        assert_eq!(
            serde_json::from_str::<Schedule>(&text).expect("the same"),
            schedule
        );
        assert_eq!(schedule.to_string().lines().count(), schedule.faults.len());
    }
}
