//! The atlas of damage: which disks still hold what a quorum needs, and whether another one may be damaged.
//!
//! ```text
//!            damage                  depart                     caught_up
//!   whole ────────────► damaged ───────────────► absent ─────────────────────► whole
//!     │  ▲─────────────────┘ restarted in full      ▲
//!     └─────────────────────────────────────────────┘ depart: removed, or dead for good
//! ```
//!
//! Promise: at every moment a majority of all members is *whole*: it holds what it has ever acknowledged, its votes
//! included. So each entry that was committed is on a whole disk, and the whole ones can elect a leader and replace the
//! others: every run can be survived, and every red one is a defect.
//!
//! Why a majority of all, although a cluster that replaces a member has fewer voters for a while: those that are not
//! whole were removed, or are still to be. With `n` members of which `d` are not whole and `r` of these are removed,
//! the voters are `n - r`, and their quorum is at most that of `n`.
//!
//! A crash damages nothing: what was not synced was not acknowledged. A disk whose damage nobody has met is
//! damaged all the same. Damage is such that it can be told from the end of what was written (see
//! [`Drive::rot`](crate::world::disk::Drive::rot)): a vote that is gone without a trace would let a *single* disk elect two
//! leaders in a term, which no protocol survives.

/// How the disk of a member stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// It holds all that it has acknowledged.
    Whole,
    /// Something of that is damaged, or all is lost.
    Damaged,
    /// Its member was removed, or is about to be; the new one in its place does not vote yet.
    Absent,
}

/// The disks of all members.
#[derive(Clone, Debug)]
pub struct Atlas {
    disks: Vec<Health>,
}

impl Atlas {
    pub fn new(members: usize) -> Self {
        Atlas {
            disks: vec![Health::Whole; members],
        }
    }

    pub fn health(&self, member: usize) -> Health {
        self.disks[member]
    }

    /// How many more disks may be lost now.
    pub fn spare(&self) -> usize {
        let affordable = (self.disks.len() - 1) / 2;
        let lost = self.disks.iter().filter(|disk| **disk != Health::Whole).count();
        affordable - lost
    }

    /// Whether a disk may be damaged now; then it counts as damaged.
    pub fn damage(&mut self, member: usize) -> bool {
        self.take(member, Health::Damaged)
    }

    /// Whether a member may go now; then it counts as gone. One whose disk is damaged always may.
    pub fn depart(&mut self, member: usize) -> bool {
        if self.disks[member] == Health::Damaged {
            self.disks[member] = Health::Absent;
            return true;
        }
        self.take(member, Health::Absent)
    }

    fn take(&mut self, member: usize, becomes: Health) -> bool {
        let may = self.disks[member] == Health::Whole && self.spare() > 0;
        if may {
            self.disks[member] = becomes;
        }
        may
    }

    /// The damage was nowhere where it mattered: the member has read all it has and runs.
    pub fn unharmed(&mut self, member: usize) {
        assert_eq!(
            self.disks[member],
            Health::Damaged,
            "only a damaged disk can be unharmed"
        );
        self.disks[member] = Health::Whole;
    }

    /// The new member votes: what is committed is on its disk as well.
    pub fn caught_up(&mut self, member: usize) {
        assert_eq!(self.disks[member], Health::Absent, "only a new member catches up");
        self.disks[member] = Health::Whole;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(atlas: &Atlas, members: usize) -> usize {
        (0..members)
            .filter(|member| atlas.health(*member) == Health::Whole)
            .count()
    }

    #[test]
    fn one_of_three_may_be_damaged_until_it_is_replaced() {
        let mut atlas = Atlas::new(3);
        assert!(atlas.damage(0));
        assert!(!atlas.damage(0), "it is damaged already");
        assert!(!atlas.damage(1) && !atlas.depart(1), "that would be a majority");
        assert!(atlas.depart(0), "a damaged one may always go");
        assert!(!atlas.depart(0) && !atlas.damage(2));
        atlas.caught_up(0);
        assert!(atlas.depart(2));
        assert!(!atlas.damage(0));
    }

    #[test]
    fn no_disk_of_one_or_two_may_be_lost() {
        for members in [1, 2] {
            let mut atlas = Atlas::new(members);
            assert!((0..members).all(|member| !atlas.damage(member) && !atlas.depart(member)));
        }
    }

    #[test]
    fn harmless_damage_is_given_back() {
        let mut atlas = Atlas::new(3);
        assert!(atlas.damage(1));
        atlas.unharmed(1);
        assert!(atlas.damage(2));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Damage(usize),
        Depart(usize),
        Unharmed(usize),
        CaughtUp(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..9_usize).prop_map(Step::Damage),
            2 => (0..9_usize).prop_map(Step::Depart),
            1 => (0..9_usize).prop_map(Step::Unharmed),
            1 => (0..9_usize).prop_map(Step::CaughtUp),
        ]
    }

    proptest! {
        /// Whatever faults are asked for: a majority stays whole, and no fault is refused that could be afforded.
        #[test]
        fn a_majority_stays_whole(members in 1..10_usize, steps in proptest::collection::vec(step(), 1..200)) {
            let mut atlas = Atlas::new(members);
            for step in steps {
                let (Step::Damage(member) | Step::Depart(member) | Step::Unharmed(member)
                    | Step::CaughtUp(member)) = step;
                let member = member % members;
                let (before, health) = (whole(&atlas, members), atlas.health(member));
                let affordable = before > members / 2 + 1;
                match step {
                    Step::Damage(_) => {
                        prop_assert_eq!(atlas.damage(member), health == Health::Whole && affordable);
                    }
                    Step::Depart(_) => {
                        let expected = match health {
                            Health::Whole => affordable,
                            Health::Damaged => true,
                            Health::Absent => false,
                        };
                        prop_assert_eq!(atlas.depart(member), expected);
                    }
                    Step::Unharmed(_) if health == Health::Damaged => atlas.unharmed(member),
                    Step::CaughtUp(_) if health == Health::Absent => atlas.caught_up(member),
                    _ => {}
                }
                prop_assert!(whole(&atlas, members) > members / 2);
                prop_assert_eq!(atlas.spare() > 0, whole(&atlas, members) > members / 2 + 1);
            }
        }
    }
}
