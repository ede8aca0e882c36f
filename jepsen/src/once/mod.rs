//! Keys that are written once have version 1 at the end, on every member.
//!
//! Looked at by itself, and not only through the sequential model: this is what a user of the store would count.

use crate::history::{History, show_bytes};
use crate::property::{Property, Violation};
use crate::workload::ONCE;

/// Keys that were written once, and what was found of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counted {
    /// On the member that holds most of them.
    pub keys: u64,
    /// With another version, on whichever member.
    pub other_versions: u64,
}

/// Looks at what the members hold at the end.
pub fn check(history: &History) -> (Counted, Option<Violation>) {
    let mut counted = Counted::default();
    let mut found = None;
    for held in &history.finals {
        let once = held
            .range
            .kvs
            .iter()
            .filter(|kv| kv.key.starts_with(ONCE.as_bytes()));
        counted.keys = counted.keys.max(once.clone().count() as u64);
        for kv in once.filter(|kv| kv.version != 1) {
            counted.other_versions += 1;
            let key = show_bytes(&kv.key);
            let (member, version) = (held.member, kv.version);
            found.get_or_insert_with(|| {
                let text = format!("{key} was put once, and has version {version} on member {member}");
                Violation::of_operations(Property::ExactlyOnce, [], text)
            });
        }
    }
    (counted, found)
}

#[cfg(test)]
mod tests {
    use quorate::proto::{etcdserverpb as pb, mvccpb};

    use super::*;
    use crate::history::Recorder;

    fn holding(versions: &[(&str, i64)]) -> History {
        let kv = |(key, version): &(&str, i64)| mvccpb::KeyValue {
            key: key.to_string().into(),
            version: *version,
            ..Default::default()
        };
        let range = pb::RangeResponse {
            kvs: versions.iter().map(kv).collect(),
            ..Default::default()
        };
        let recorder = Recorder::new();
        recorder.final_state(0, 0, 1, range, None, None);
        recorder.take()
    }

    #[test]
    fn a_second_version_is_found() {
        let (counted, found) = check(&holding(&[("once/0-1", 1), ("k/000", 7), ("once/0-2", 1)]));
        assert_eq!((counted.keys, counted.other_versions, found), (2, 0, None));
        let (counted, found) = check(&holding(&[("once/0-1", 1), ("once/0-2", 2)]));
        assert_eq!((counted.keys, counted.other_versions), (2, 1));
        assert_eq!(found.expect("refused").property, Property::ExactlyOnce);
    }
}
