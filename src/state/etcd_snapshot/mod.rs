//! The way in and the way out: this store as etcd's file has it, and back.
//!
//! | bucket | row |
//! |---|---|
//! | `key` | `main _ sub`, and `t` behind a tombstone's ─► KeyValue |
//! | `lease` | id ─► lease |
//! | `auth`, `authUsers`, `authRoles` | whether it is on, and its revision; users; roles |
//! | `members`, `members_removed`, `cluster` | members as JSON; removed ids; the cluster's version |
//! | `alarm` | alarm ─► nothing |
//! | `meta` | index, term, compact revisions, voters, the format's version |
//!
//! Source: etcd 3.7 `server/storage/schema`, and files that it wrote.

mod export;
mod import;

#[cfg(test)]
mod tests;

pub use export::Export;
pub use import::{Import, Imported, Summary, import, summarize};

use crate::base::RevisionAt;

/// The version of the file's format: the first minor version of etcd that writes it.
pub const STORAGE_VERSION: &str = "3.7.0";

const BUCKETS: [&str; 10] = [
    "alarm",
    "auth",
    "authRoles",
    "authUsers",
    "cluster",
    "key",
    "lease",
    "members",
    "members_removed",
    "meta",
];

/// A revision as the bucket `key` has it.
pub(super) fn revision_key(at: RevisionAt, tombstone: bool) -> Vec<u8> {
    let bytes = at.to_bytes();
    let (main, sub) = bytes.split_at(8);
    let mark: &[u8] = if tombstone { b"t" } else { b"" };
    [main, b"_", sub, mark].concat()
}

/// The revision of a row of the bucket `key`, and whether it is a tombstone.
fn parse_revision_key(key: &[u8]) -> Option<(RevisionAt, bool)> {
    let (revision, tombstone) = match key.len() {
        17 => (key, false),
        18 if key.last() == Some(&b't') => (key.get(..17)?, true),
        _ => return None,
    };
    if revision.get(8) != Some(&b'_') {
        return None;
    }
    let main = i64::from_be_bytes(revision.get(..8)?.try_into().ok()?);
    let sub = i64::from_be_bytes(revision.get(9..)?.try_into().ok()?);
    (main > 0 && sub >= 0).then_some((RevisionAt::new(main, sub), tombstone))
}
