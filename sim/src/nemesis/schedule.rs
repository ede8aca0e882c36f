//! When which fault strikes whom: data, drawn before the run begins.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Class;
use crate::seed::Dice;

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
    /// A random half of all classes.
    pub fn half(dice: &mut Dice) -> Vec<Class> {
        let mut classes = Class::ALL.to_vec();
        dice.shuffle(&mut classes);
        classes.truncate(classes.len().div_ceil(2));
        classes
    }

    /// Draws the faults of a run from the classes that are on and possible: one every few seconds, sometimes in
    /// bursts. Nothing strikes before `calm` has passed or lasts beyond `end`.
    pub fn draw(
        dice: &mut Dice,
        classes: &[Class],
        members: usize,
        calm: Duration,
        end: Duration,
    ) -> Schedule {
        let possible = |class: &Class| class.is_possible(members);
        let classes: Vec<Class> = classes.iter().copied().filter(possible).collect();
        if classes.is_empty() {
            return Schedule::default();
        }
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
        let classes = Schedule::half(&mut dice);
        Schedule::draw(
            &mut dice,
            &classes,
            members,
            Duration::from_secs(2),
            Duration::from_secs(40),
        )
    }

    #[test]
    fn schedules_are_in_order_end_in_time_and_vary() {
        let mut counts = BTreeMap::new();
        for seed in 0..1_000 {
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
                counts.get(class).is_some_and(|count| *count > 50),
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
                    .all(|fault| fault.class.is_possible(1))
            );
        }
    }

    #[test]
    fn only_classes_that_are_on_are_drawn() {
        let draw = |classes: &[Class]| {
            let mut dice = Seed(1).dice("nemesis");
            Schedule::draw(&mut dice, classes, 3, Duration::ZERO, Duration::from_secs(60)).faults
        };
        let faults = draw(&[Class::Pause, Class::Ring]);
        assert!(!faults.is_empty());
        assert!(
            faults
                .iter()
                .all(|fault| [Class::Pause, Class::Ring].contains(&fault.class))
        );
        assert_eq!(draw(&[]), []);
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
