//! Between a member's state and its log there is no hole: the log begins no later than behind what the state has taken in.

use super::{About, Book, Property, Step};

pub struct NoHole;

impl NoHole {
    pub const ABOUT: About = About {
        name: "no-hole",
        guarantee: "the log of a member begins no later than right behind its state",
        source: "Raft, 7; etcd#13766; ZOOKEEPER-4925",
    };
}

impl Property for NoHole {
    fn about(&self) -> About {
        NoHole::ABOUT
    }

    fn judge(&mut self, step: &Step<'_>, _: &Book) -> Result<(), String> {
        let (start, own) = (step.log.start(), step.name());
        match step.now {
            Some(now) if start > now.digest_index.max(now.applied) + 1 => Err(format!(
                "the log of {own} begins at {start}, and its state ends at {}",
                now.digest_index
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::forge::Forge;
    use super::*;

    #[test]
    fn a_log_that_begins_behind_the_state_is_refused() {
        let mut forge = Forge::led(3, 6);
        forge.commit_all(6);
        (forge.member(1).snapshot, forge.member(1).synced) = (5, 5);
        forge.purge(1, 6);
        forge.good();
        forge.restart(1);
        forge.rewind(1, 3);
        forge.refused(NoHole::ABOUT);
    }
}
