//! The log is persistent state (Raft, figure 2): what was durable and committed when a process ended is there when it is
//! back, whatever happened to the power.

use super::{About, Book, Property, Step};

pub struct DurableLog;

impl DurableLog {
    pub const ABOUT: About = About {
        name: "durable-log",
        guarantee: "a committed entry that a log held durably survives every crash",
        source: "Raft, figure 2: persistent state; NATS 2.12.1, Redis-Raft (Jepsen)",
    };
}

impl Property for DurableLog {
    fn about(&self) -> About {
        DurableLog::ABOUT
    }

    fn judge(&mut self, step: &Step<'_>, book: &Book) -> Result<(), String> {
        if step.same_life {
            return Ok(());
        }
        for (index, old) in &step.change.cut {
            let was_durable = *index < step.change.old_durable_end;
            let was_committed = book.committed(*index).is_some_and(|entry| entry == old);
            if was_durable && was_committed && step.log.get(*index) != Some(old) {
                let (own, term) = (step.name(), old.term);
                return Err(format!(
                    "{own} held the committed entry {index} of term {term} durably, and is back without it"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::forge::Forge;
    use super::*;

    #[test]
    fn a_restart_may_lose_only_what_was_not_durable() {
        let mut forge = Forge::led(3, 5);
        forge.commit_all(4);
        forge.log(2).durable_end = 4;
        forge.good();
        forge.restart(2);
        forge.cut(2, 4);
        forge.good();
        forge.restart(1);
        forge.cut(1, 3);
        forge.refused(DurableLog::ABOUT);
    }
}
