//! How long messages take between the threads of a member: see [`quorate::runtime::crossing`].
//!
//! ```text
//!   of 20,000 messages   12,000 are there   ~8,000 take microseconds   40 milliseconds   1 up to an election time-out
//! ```
//!
//! What waits in a receiver's hands holds up all that comes behind it, as a thread does that does not get to run. So the
//! long ones are rare: a busy thread would not do anything else. A stream of numbers for each crossing, so that a run stays
//! much the same when one of them is used more often or less. When all is healed nothing is late any more.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use quorate::runtime::Crossing;

use crate::seed::{Dice, Seed};

/// How often a message is there, is quick, is slow, and takes very long.
const WEIGHTS: [u32; 4] = [12_000, 7_959, 40, 1];
const QUICK_MEAN: Duration = Duration::from_micros(10);
const SLOW: std::ops::Range<Duration> = Duration::from_millis(1)..Duration::from_millis(40);

thread_local! {
    /// One world lives in a thread at a time.
    static CROSSINGS: RefCell<Vec<Way>> = const { RefCell::new(Vec::new()) };
}

/// One crossing in this run.
struct Way {
    /// `None`: nothing is late.
    dice: Option<Dice>,
    /// The longest delay there is.
    longest: Duration,
    /// Messages that took milliseconds.
    late: u64,
}

/// Whether messages are late in the run of a seed.
pub fn draw(seed: Seed) -> bool {
    seed.dice("late crossings").chance(0.5)
}

/// Lets messages be late from now on, up to `longest`; or none.
pub fn begin(seed: Seed, are_late: bool, longest: Duration) {
    let way = |crossing: &Crossing| Way {
        dice: are_late.then(|| seed.dice(&format!("crossing {}", crossing.name()))),
        longest,
        late: 0,
    };
    CROSSINGS.set(Crossing::ALL.iter().map(way).collect());
}

/// From now on nothing is late.
pub fn calm() {
    CROSSINGS.with_borrow_mut(|ways| ways.iter_mut().for_each(|way| way.dice = None));
}

/// How long the next message takes; `None`: it is there.
pub fn delay(crossing: Crossing) -> Option<Duration> {
    CROSSINGS.with_borrow_mut(|ways| ways.get_mut(crossing as usize)?.delay())
}

impl Way {
    fn delay(&mut self) -> Option<Duration> {
        let dice = self.dice.as_mut()?;
        let delay = match dice.weighted(&WEIGHTS) {
            0 => return None,
            1 => return Some(dice.exponential(QUICK_MEAN)),
            2 => dice.duration(SLOW),
            _ => dice.duration(SLOW.end..self.longest),
        };
        self.late += 1;
        Some(delay)
    }
}

/// What late messages are counted as.
pub fn names() -> impl Iterator<Item = String> {
    Crossing::ALL
        .iter()
        .map(|crossing| format!("crossing/{}", crossing.name()))
}

/// How many messages were late by milliseconds, for each crossing.
pub fn counters() -> BTreeMap<String, u64> {
    CROSSINGS.with_borrow(|ways| names().zip(ways.iter().map(|way| way.late)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(1);

    #[test]
    fn about_half_of_the_runs_have_late_messages() {
        let late = (0..200).filter(|seed| draw(Seed(*seed))).count();
        assert!((80..120).contains(&late), "{late}");
    }

    #[test]
    fn most_messages_are_quick_and_few_take_long() {
        begin(Seed(1), true, LONGEST);
        let delays: Vec<Duration> = (0..100_000).filter_map(|_| delay(Crossing::ToCore)).collect();
        let above = |least| delays.iter().filter(|delay| **delay >= least).count();
        assert!((38_000..42_000).contains(&delays.len()));
        assert!((150..260).contains(&above(SLOW.start)));
        assert!((1..20).contains(&above(SLOW.end)));
        assert_eq!(above(LONGEST), 0);
        let counted = counters();
        assert_eq!(counted.len(), Crossing::ALL.len());
        assert_eq!(counted["crossing/to core"], above(SLOW.start) as u64);
        assert_eq!(counted["crossing/to log"], 0);
    }

    #[test]
    fn nothing_is_late_when_all_is_calm_or_was_from_the_start() {
        let late = || (0..1_000).filter_map(|_| delay(Crossing::FromLog)).count();
        begin(Seed(1), true, LONGEST);
        assert!(late() > 0);
        calm();
        assert_eq!(late(), 0);
        begin(Seed(1), false, LONGEST);
        assert_eq!(late(), 0);
    }
}
