//! What a process knows does not go back: term, commit index, applied index (Raft, figure 2: "increases
//! monotonically"), and the position of its state.

use super::{About, Book, Property, Step};

pub struct Monotonic;

impl Monotonic {
    pub const ABOUT: About = About {
        name: "monotonic",
        guarantee: "term, commit index and applied index of a process never go back",
        source: "Raft, figure 2",
    };
}

impl Property for Monotonic {
    fn about(&self) -> About {
        Monotonic::ABOUT
    }

    fn judge(&mut self, step: &Step<'_>, _: &Book) -> Result<(), String> {
        let (Some(last), Some(now)) = (step.before, step.now) else {
            return Ok(());
        };
        let numbers = [
            ("term", last.term, now.term),
            ("committed index", last.committed, now.committed),
            ("applied index", last.applied, now.applied),
            ("index of the state", last.digest_index, now.digest_index),
            ("index of the snapshot", last.snapshot, now.snapshot),
        ];
        let back = numbers.iter().find(|(_, before, after)| after < before);
        match back {
            Some((what, before, after)) if step.same_life => {
                let own = step.name();
                Err(format!("the {what} of {own} went back from {before} to {after}"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::forge::Forge;
    use super::*;

    use super::super::Observation;

    #[test]
    fn nothing_goes_back_but_over_a_restart() {
        let spoil: [fn(&mut Observation); 3] = [
            |now| (now.term, now.leader) = (1, None),
            |now| now.committed -= 1,
            |now| now.applied -= 1,
        ];
        for spoil in spoil {
            let mut forge = Forge::settled(3, 4);
            spoil(forge.member(1));
            forge.refused(Monotonic::ABOUT);
        }
        let mut forge = Forge::settled(3, 4);
        forge.restart(1);
        forge.member(1).committed = 1;
        forge.good();
    }
}
