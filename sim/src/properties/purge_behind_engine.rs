//! The log is purged only behind a synced engine: what a loss of power takes from the engine is replayed from the log.

use super::{About, Book, Property, Step};

pub struct PurgeBehindEngine;

impl PurgeBehindEngine {
    pub const ABOUT: About = About {
        name: "purge-behind-engine",
        guarantee: "an entry leaves the log only when its effect is durable in the engine",
        source: "src/ARCHITECTURE.md; etcd#13766; thesis, 5.1",
    };
}

impl Property for PurgeBehindEngine {
    fn about(&self) -> About {
        PurgeBehindEngine::ABOUT
    }

    fn judge(&mut self, step: &Step<'_>, _: &Book) -> Result<(), String> {
        let (start, own) = (step.log.start(), step.name());
        match step.now {
            Some(now) if start > now.synced + 1 => Err(format!(
                "the log of {own} begins at {start}, and its engine is durable up to {} only",
                now.synced
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
    fn a_purge_beyond_what_is_synced_is_refused() {
        let mut forge = Forge::led(3, 6);
        forge.commit_all(6);
        (forge.member(1).snapshot, forge.member(1).synced) = (4, 4);
        forge.purge(1, 5);
        forge.good();
        forge.member(1).snapshot = 5;
        forge.purge(1, 6);
        forge.refused(PurgeBehindEngine::ABOUT);
    }
}
