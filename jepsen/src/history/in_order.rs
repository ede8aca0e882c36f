//! The pairs of an answer in the order of their keys, for who asks for keys in that order: many keys of a large answer are
//! looked up in one pass, not in one for each.

use quorate::proto::mvccpb::KeyValue;

pub struct InOrder<'a> {
    pairs: Vec<&'a KeyValue>,
    next: usize,
}

impl<'a> InOrder<'a> {
    pub fn of(pairs: &'a [KeyValue]) -> Self {
        let mut pairs: Vec<&KeyValue> = pairs.iter().collect();
        // Stable: if a key is there twice, the first pair is found. Answers are nearly always sorted already.
        pairs.sort_by(|a, b| a.key.cmp(&b.key));
        InOrder { pairs, next: 0 }
    }

    pub fn all(&self) -> impl Iterator<Item = &'a KeyValue> {
        self.pairs.iter().copied()
    }

    /// The pair of a key that is not below the one asked for before.
    pub fn seek(&mut self, key: &[u8]) -> Option<&'a KeyValue> {
        let below = |kv: &&KeyValue| kv.key.as_ref() < key;
        while self.pairs.get(self.next).is_some_and(below) {
            self.next += 1;
        }
        let found = self.pairs.get(self.next).copied();
        found.filter(|kv| kv.key.as_ref() == key)
    }
}
