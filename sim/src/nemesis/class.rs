//! The classes of faults: what each does, how long it lasts, and what it needs.
//!
//! A class has a counter in the report, [`Class::counter`]. It counts *effects*: a cut that held up no byte, a failing
//! sync that nobody called, a crash of what did not run are not counted. A campaign in which a class has none
//! proves nothing about it. An alias is the name that stored scenarios may have for a class, or for the nearest one that is
//! left.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Declares the classes, with the list of all of them.
macro_rules! classes {
    ($($(#[$attribute:meta])+ $name:ident $group:ident $lasts_ms:expr,)+) => {
        /// A sort of fault.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
        pub enum Class {
            $($(#[$attribute])+ $name,)+
        }

        impl Class {
            pub const ALL: &[Class] = &[$(Class::$name,)+];

            pub fn name(self) -> &'static str {
                match self {
                    $(Class::$name => stringify!($name),)+
                }
            }

            /// What it strikes.
            pub fn group(self) -> Group {
                match self {
                    $(Class::$name => Group::$group,)+
                }
            }

            /// How long it lasts, in milliseconds: about an election time-out to several.
            pub fn lasts_ms(self) -> Range<u64> {
                match self {
                    $(Class::$name => $lasts_ms,)+
                }
            }
        }
    };
}

/// What a class strikes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Group {
    Network,
    Process,
    Disk,
    Clock,
    Administration,
}

classes! {
    /// One direction between two members gets slow.
    Delay Network 1_000..10_000,
    /// Each piece between one member and all others takes its own time.
    Jitter Network 1_000..10_000,
    /// All links of a member get slow and narrow.
    Slow Network 1_000..10_000,
    /// One direction between two members is cut, or all that one member hears, or all that it says.
    OneWay Network 300..9_000,
    /// Two members cannot reach one another.
    TwoWay Network 300..9_000,
    /// One member loses all its links.
    Isolate Network 300..9_000,
    /// The leader does.
    IsolateLeader Network 300..9_000,
    /// A minority without the leader is cut off, clients on both sides.
    Majority Network 300..9_000,
    /// The leader is left with a minority, clients on both sides.
    #[serde(alias = "Split")]
    Minority Network 300..9_000,
    /// Each member reaches its neighbours in a ring alone; of three, each hears one other alone.
    Ring Network 300..9_000,
    /// Two halves that only one member can reach.
    Bridge Network 300..9_000,
    /// All that a member is sent, or sends, arrives at once at the end.
    Clog Network 200..5_000,
    /// Links are cut one by one, and restored in another order.
    Swizzle Network 2_000..8_000,
    /// Connections break in the middle of a message.
    Reset Network 0..500,
    /// One end forgets its connections, the other goes on without knowing.
    HalfOpen Network 500..3_000,
    /// Between a member and the others lies something that takes the end of one direction for that of the connection; it stays.
    MiddleBox Network 1_000..10_000,
    /// Strangers connect to a member's ports and say nothing.
    Strangers Network 11_000..25_000,
    /// A process dies; its machine lives.
    Kill Process 50..6_000,
    /// A machine loses power, and what it had not synced.
    PowerLoss Process 50..6_000,
    /// The leader's machine does.
    PowerLossLeader Process 50..6_000,
    /// All machines do.
    PowerLossAll Process 50..6_000,
    /// A machine loses power somewhere in a sync.
    #[serde(alias = "PowerLossAtSync")]
    PowerLossInSync Process 200..5_000,
    /// A machine loses power just before a sync.
    CrashBeforeSync Process 200..5_000,
    /// A machine loses power just after a sync, when nobody has been told.
    CrashAfterSync Process 200..5_000,
    /// The leader does not run, and a machine loses power between its vote and its answer.
    #[serde(alias = "PowerLossAtVote")]
    CrashAtVote Process 3_000..9_000,
    /// A machine loses power while it installs a snapshot, or the leader's does that sends it.
    CrashInSnapshot Process 2_000..8_000,
    /// A member is asked to stop, hands over, and comes back.
    Stop Process 50..6_000,
    /// A process does not run for a while.
    Pause Process 100..3_000,
    /// The leader's does not.
    PauseLeader Process 100..3_000,
    /// A process does not run for longer than any election time-out, and than most leases.
    LongPause Process 5_000..14_000,
    /// A process gets a sixth of its processor.
    SlowNode Process 1_000..8_000,
    /// A process starts and dies again and again.
    RestartStorm Process 2_000..8_000,
    /// A machine loses power before a sync, and all that was not synced.
    LostWrites Disk 200..5_000,
    /// A machine loses power before a sync, and keeps some sectors of what was not synced.
    TornTail Disk 200..5_000,
    /// A machine loses power while its store holds what was not synced, and what remains of that is not whole.
    TornStore Disk 200..5_000,
    /// A sync fails and drops what was not synced; the member has to stop by itself.
    SyncFailure Disk 200..3_000,
    /// A read or a write fails; the member has to stop by itself.
    IoError Disk 200..3_000,
    /// A disk answers nothing for a while.
    DiskStall Disk 200..4_000,
    /// A disk takes many times as long as usual.
    SlowDisk Disk 1_000..8_000,
    /// A disk is full for a while; the member has to stop by itself or go on.
    DiskFull Disk 200..4_000,
    /// A bit of the log goes bad; the member has to stop with what is damaged, and is replaced.
    BitRotInLog Disk 500..6_000,
    /// A bit of the store, which is what is sent as a snapshot, goes bad; the same.
    BitRotInStore Disk 500..6_000,
    /// A disk is empty after a crash; the member has to refuse to start, and is replaced.
    WipedDisk Disk 50..3_000,
    /// Times of day differ between all members.
    Skew Clock 3_000..20_000,
    /// A time of day jumps forward.
    #[serde(alias = "ClockJump")]
    JumpForward Clock 2_000..15_000,
    /// A time of day jumps back.
    JumpBack Clock 2_000..15_000,
    /// A monotonic clock runs too fast or too slow.
    Drift Clock 2_000..15_000,
    /// The leader's runs too slow, and all others' too fast, or the other way round.
    DriftApart Clock 2_000..15_000,
    /// The leader is told to hand over.
    MoveLeader Administration 0..1,
    /// The leader is told to hand over, and from then on hears nothing from the others.
    HandOverUnheard Administration 1_000..8_000,
    /// A member dies for good: it is removed, and a new one with an empty disk takes its place.
    Replace Administration 1_000..2_000,
    /// A member that is well is removed, and later a new one added as a voter.
    RemoveMember Administration 500..6_000,
    /// The leader is.
    RemoveLeader Administration 500..6_000,
    /// A member that is well is removed, and later a new one added as a learner and promoted.
    PromoteLearner Administration 500..6_000,
    /// A member is replaced, and while a change of the membership is not decided the leader loses power, or all its links.
    LeaderLostInChange Administration 1_000..6_000,
    /// History is forgotten up to now.
    Compaction Administration 0..1,
    /// A member hashes its whole store, again and again.
    HashAll Administration 500..5_000,
    /// A member is cut off until what it misses is no longer in the log, and needs a snapshot.
    SnapshotAfterPurge Administration 3_000..9_000,
    /// Auth is switched off under load, and on again.
    AuthOff Administration 500..5_000,
    /// All members are restarted one after another, with other options, and of the next release if there is one; some go
    /// back to the one before first.
    RollingRestart Administration 1_000..2_000,
}

impl Class {
    /// The name of its counter in a report.
    pub fn counter(self) -> String {
        format!("fault/{}", self.name())
    }

    /// Whether it can do anything to a cluster of so many members.
    pub fn is_possible(self, members: usize) -> bool {
        use Class::*;
        let least = match self {
            Delay | OneWay | TwoWay | Majority | Minority | Swizzle | MiddleBox | MoveLeader
            | HandOverUnheard | CrashAtVote | CrashInSnapshot | SnapshotAfterPurge => 2,
            Ring | Bridge | Replace | BitRotInLog | BitRotInStore | WipedDisk | RemoveMember
            | RemoveLeader | PromoteLearner | LeaderLostInChange => 3,
            _ => 1,
        };
        members >= least
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_class_has_a_counter_of_its_own_and_a_time() {
        let counters: BTreeSet<String> = Class::ALL.iter().map(|class| class.counter()).collect();
        assert_eq!(counters.len(), Class::ALL.len());
        assert!(counters.contains("fault/IsolateLeader"));
        for class in Class::ALL {
            assert!(!class.lasts_ms().is_empty() && class.is_possible(3), "{class:?}");
        }
    }
}
