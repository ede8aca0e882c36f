//! State machine safety (Raft, figure 3): no two members apply different entries at an index. The digest runs over all that
//! was applied, so equal digests mean equal histories.

use std::collections::BTreeMap;

use super::{About, Book, Property, Step};

#[derive(Default)]
pub struct StateMachineSafety {
    /// By index: the digest, and the member that showed it first.
    digests: BTreeMap<u64, (u64, u64)>,
}

impl StateMachineSafety {
    pub const ABOUT: About = About {
        name: "state-machine-safety",
        guarantee: "all members have the same state at the same applied index",
        source: "Raft, 5.4.3 and figure 3; TigerBeetle: state_checker",
    };
}

impl Property for StateMachineSafety {
    fn about(&self) -> About {
        StateMachineSafety::ABOUT
    }

    fn judge(&mut self, step: &Step<'_>, _: &Book) -> Result<(), String> {
        let Some(now) = step.now else { return Ok(()) };
        if now.digest_index == 0 {
            // The first entry has this index, and so has a state to which nothing was applied.
            return Ok(());
        }
        let first = (now.digest, step.id);
        let (known, witness) = *self.digests.entry(now.digest_index).or_insert(first);
        if known == now.digest {
            return Ok(());
        }
        let (index, digest, own) = (now.digest_index, now.digest, step.id);
        Err(format!(
            "at {index} {witness:x} has {known:016x} and {own:x} has {digest:016x}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::forge::Forge;
    use super::*;

    #[test]
    fn one_state_for_an_index() {
        let mut forge = Forge::settled(3, 4);
        forge.member(2).digest = 1;
        forge.refused(StateMachineSafety::ABOUT);
    }
}
