//! How a member's process came to its end, and what that says: whoever stops by itself needs a reason that excuses it.
//!
//! The reasons are variants of the product's own errors. What they say in words is for the log and the report.

use std::fmt;

use quorate::base::Broken;
use quorate::node::NodeError;

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ending {
    NotStarted(NodeError),
    /// It had started.
    Failed(NodeError),
    AsAsked,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::NotStarted(why) => write!(f, "did not start: {why}"),
            Ending::Failed(why) => write!(f, "failed: {why}"),
            Ending::AsAsked => f.write_str("stopped as asked"),
        }
    }
}

impl Ending {
    fn why(&self) -> Option<&NodeError> {
        match self {
            Ending::NotStarted(why) | Ending::Failed(why) => Some(why),
            Ending::AsAsked => None,
        }
    }

    /// The members of the cluster that it is to join are out of reach, or do not know of it yet.
    pub fn is_failed_join(&self) -> bool {
        matches!(
            self,
            Ending::NotStarted(NodeError::NobodyAnswers | NodeError::NotAsListed { .. })
        )
    }

    /// It has heard of its removal.
    pub fn is_removal(&self) -> bool {
        self.why().is_some_and(NodeError::is_removal)
    }

    /// It has met with damage on its disk, and says where.
    pub fn is_damage(&self) -> bool {
        let broken = self.why().and_then(NodeError::broken);
        matches!(broken, Some(Broken::Damaged { .. } | Broken::Truncated { .. }))
    }

    /// A part of what it had stored is gone: no bit that goes bad does that.
    pub fn is_incomplete(&self) -> bool {
        let broken = self.why().and_then(NodeError::broken);
        matches!(broken, Some(Broken::Incomplete { .. }))
    }

    /// What it had promised is gone, and it has heard so.
    pub fn is_lost_data(&self) -> bool {
        self.why().is_some_and(NodeError::has_lost_data)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;
    use std::sync::Arc;

    use quorate::node::Mismatch;

    use super::*;

    fn damage() -> Broken {
        Broken::damaged_file(Path::new("/data/current"))
    }

    fn not_as_listed(why: Mismatch) -> NodeError {
        NodeError::NotAsListed {
            cluster: "{}".into(),
            reason: why,
        }
    }

    /// What an ending is: a failed join, a removal, damage, lost data.
    fn judged(ending: &Ending) -> [bool; 4] {
        [
            ending.is_failed_join(),
            ending.is_removal(),
            ending.is_damage(),
            ending.is_lost_data(),
        ]
    }

    #[test]
    fn damage_is_one_wherever_it_is_met() {
        let through_raft = Broken::Raft {
            text: format!("when Read Logs: {}", damage()),
            cause: Some(Arc::new(damage())),
        };
        let truncated = Broken::Truncated {
            path: "/data/1.log".into(),
            length: 1,
            expected: 2,
        };
        for broken in [damage(), through_raft, truncated] {
            let why = NodeError::from(broken);
            for ending in [Ending::NotStarted(why.clone()), Ending::Failed(why)] {
                assert_eq!(judged(&ending), [false, false, true, false], "{ending}");
            }
        }
    }

    #[test]
    fn a_disk_that_fails_and_a_part_that_is_gone_are_no_damage() {
        let gone = Broken::Incomplete {
            what: "the store",
            path: "/data".into(),
            how: "is damaged: a file of it is gone".into(),
        };
        let failed = Broken::io("could not sync", Path::new("/data"), &io::ErrorKind::Other.into());
        assert!(Ending::Failed(gone.clone().into()).is_incomplete());
        for broken in [gone, failed, Broken::contradiction("damaged at offset 7")] {
            let ending = Ending::Failed(broken.into());
            assert_eq!(judged(&ending), [false; 4], "{ending}");
        }
        assert_eq!(judged(&Ending::AsAsked), [false; 4]);
    }

    #[test]
    fn removed_lost_and_not_let_in() {
        for (why, expected) in [
            (NodeError::Removed, [false, true, false, false]),
            (NodeError::DataGone(7), [false, false, false, true]),
            (not_as_listed(Mismatch::DataGone(7)), [true, false, false, true]),
            (not_as_listed(Mismatch::Count), [true, false, false, false]),
            (NodeError::NobodyAnswers, [true, false, false, false]),
        ] {
            assert_eq!(judged(&Ending::NotStarted(why)), expected);
        }
    }

    #[test]
    fn its_text_begins_with_how_far_it_had_come() {
        let failed = |text| NodeError::from(Broken::Stopped(text));
        for (ending, text) in [
            (Ending::NotStarted(failed("why")), "did not start: why"),
            (Ending::Failed(failed("why")), "failed: why"),
            (Ending::AsAsked, "stopped as asked"),
        ] {
            assert_eq!(ending.to_string(), text);
        }
    }
}
