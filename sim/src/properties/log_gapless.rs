//! A log has no gap: each entry follows its predecessor, and what was appended follows what was there.

use super::{About, Book, Property, Step};

pub struct LogGapless;

impl LogGapless {
    pub const ABOUT: About = About {
        name: "log-gapless",
        guarantee: "the entries of a log follow each other without a gap",
        source: "Raft, 5.3; ZOOKEEPER-4925; openraft: log_consecutive",
    };
}

impl Property for LogGapless {
    fn about(&self) -> About {
        LogGapless::ABOUT
    }

    fn judge(&mut self, step: &Step<'_>, _: &Book) -> Result<(), String> {
        let change = step.change;
        if change.is_gapless {
            return Ok(());
        }
        let (own, from, end) = (step.name(), change.from, step.log.end());
        let old_end = change.old_end;
        Err(format!(
            "the log of {own} ended before {old_end}, and what came then goes from {from} to {end} with a gap"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::forge::Forge;
    use super::*;

    #[test]
    fn a_gap_is_refused_and_a_snapshot_is_none() {
        let mut forge = Forge::settled(3, 4);
        forge.snapshot(1, 9);
        forge.good();
        forge.append(2, 2, 8..9);
        forge.refused(LogGapless::ABOUT);
    }
}
