//! The order of states: what counts as applied is in the state, and the state changes with each entry that it takes in: the
//! digest at an index follows from the one before it.

use super::{About, Book, Property, Step};

pub struct AppliedInOrder;

impl AppliedInOrder {
    pub const ABOUT: About = About {
        name: "applied-in-order",
        guarantee: "what counts as applied is in the state, and each entry takes the state on",
        source: "Raft, 5.3; redisraft#14; TigerBeetle: state_checker",
    };
}

impl Property for AppliedInOrder {
    fn about(&self) -> About {
        AppliedInOrder::ABOUT
    }

    fn judge(&mut self, step: &Step<'_>, _: &Book) -> Result<(), String> {
        let Some(now) = step.now else { return Ok(()) };
        let (own, index, applied) = (step.name(), now.digest_index, now.applied);
        if applied > index {
            return Err(format!(
                "{own} has applied {applied}, and its state is that of {index}"
            ));
        }
        match step.before {
            Some(before) if before.digest == now.digest && before.digest_index != index => Err(format!(
                "the state of {own} went from {} to {index} and stayed as it was",
                before.digest_index
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
    fn applying_without_effect_is_refused() {
        let forged = || {
            let mut forge = Forge::led(3, 6);
            forge.commit_all(4);
            forge.good();
            forge.commit_all(6);
            forge
        };
        forged().good();
        let mut forge = forged();
        forge.rewind(1, 3);
        forge.member(1).applied = 5;
        forge.refused(AppliedInOrder::ABOUT);
        let mut forge = forged();
        for member in 0..3 {
            forge.member(member).digest = Forge::digest_at(3);
        }
        forge.refused(AppliedInOrder::ABOUT);
    }
}
