//! Log matching (Raft, figure 3): if two logs contain an entry with the same index and term, the logs are identical up
//! to that entry. By induction it is enough that each entry has one content, and one predecessor.

use std::collections::BTreeMap;

use super::{About, Book, Property, Step};

#[derive(Default)]
pub struct LogMatching {
    /// By index and term: checksum, the predecessor's term if it was seen, and who showed it first.
    entries: BTreeMap<(u64, u64), (u32, Option<u64>, u64)>,
}

impl LogMatching {
    pub const ABOUT: About = About {
        name: "log-matching",
        guarantee: "entries with the same index and term are the same, and so are those before them",
        source: "Raft, 5.3 and figure 3; hashicorp/raft#695",
    };
}

impl Property for LogMatching {
    fn about(&self) -> About {
        LogMatching::ABOUT
    }

    fn judge(&mut self, step: &Step<'_>, _: &Book) -> Result<(), String> {
        for index in step.change.from..step.log.end() {
            let Some(entry) = step.log.get(index) else {
                continue;
            };
            let before = index.checked_sub(1).and_then(|before| step.log.get(before));
            let before = before.map(|before| before.term);
            let first = (entry.checksum, before, step.id);
            let known = self.entries.entry((index, entry.term)).or_insert(first);
            known.1 = known.1.or(before);
            let (term, own, witness) = (entry.term, step.id, known.2);
            if known.0 != entry.checksum {
                return Err(format!(
                    "entry {index} of term {term} is one thing in the log of {witness:x} and another in that of {own:x}"
                ));
            }
            if let (Some(one), Some(other)) = (known.1, before)
                && one != other
            {
                return Err(format!(
                    "entry {index} of term {term} follows one of term {one} in the log of {witness:x} and one of term \
                     {other} in that of {own:x}"
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
    fn one_content_and_one_predecessor() {
        let mut forge = Forge::led(3, 4);
        forge.good();
        // Another term at the same index is no contradiction: it was never committed.
        forge.append(2, 3, 4..6);
        forge.append(1, 2, 4..5);
        forge.good();
        forge.append_other(0, 2, 4);
        forge.refused(LogMatching::ABOUT);

        let mut forge = Forge::led(3, 4);
        forge.append(1, 3, 4..5);
        forge.append(1, 4, 5..6);
        forge.good();
        forge.append(2, 4, 4..6);
        forge.refused(LogMatching::ABOUT);
    }
}
