//! Each command has one turn. Members leave out one that comes a second time, so clients notice nothing: what counts is that
//! none ever has to.

use super::{About, Book, Property, Step};

pub struct AppliedOnce;

impl AppliedOnce {
    pub const ABOUT: About = About {
        name: "applied-once",
        guarantee: "no command reaches the log a second time once it can be applied",
        source: "Ongaro's thesis, 6.3",
    };
}

impl Property for AppliedOnce {
    fn about(&self) -> About {
        AppliedOnce::ABOUT
    }

    fn judge(&mut self, step: &Step<'_>, _: &Book) -> Result<(), String> {
        match step.now.map_or(0, |now| now.duplicates) {
            0 => Ok(()),
            count => Err(format!(
                "{} had to leave out {count} commands that it had applied before",
                step.name()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::forge::Forge;
    use super::*;

    #[test]
    fn a_command_that_comes_again_is_refused() {
        let mut forge = Forge::led(3, 6);
        forge.commit_all(4);
        forge.good();
        forge.member(1).duplicates = 1;
        forge.refused(AppliedOnce::ABOUT);
    }
}
