//! Member and cluster ids, computed as etcd computes them.
//!
//! Every member derives the same ids from `--initial-cluster` and `--initial-cluster-token` without
//! talking to anybody, and they are visible to users: in every response header, in `member list`, in
//! metrics and in the tools that restore a snapshot. So they are SHA-1 hashes over the same bytes as
//! etcd's; SHA-1 is a mixing function here, not a defence.
//!
//! This module does not know what a URL is: it hashes the text it is given. The caller passes URLs in
//! their normal form and checks the result for duplicates.

use sha1::{Digest, Sha1};

use super::{ClusterId, MemberId};

/// The id of a member: over its peer URLs in ascending order, then the cluster's token.
///
/// `added_at` is the Unix time in seconds for a member that was added to a running cluster, and `None`
/// for one that is listed in `--initial-cluster`.
pub fn member_id<S: AsRef<str>>(peer_urls: &[S], token: &str, added_at: Option<i64>) -> MemberId {
    let mut urls: Vec<&str> = peer_urls.iter().map(AsRef::as_ref).collect();
    urls.sort_unstable();
    let mut hash = Sha1::new();
    for url in urls {
        hash.update(url);
    }
    hash.update(token);
    if let Some(seconds) = added_at {
        hash.update(seconds.to_string());
    }
    leading_u64(hash)
}

/// The id of a cluster: over the ids of its first members in ascending order.
pub fn cluster_id(members: impl IntoIterator<Item = MemberId>) -> ClusterId {
    let mut members: Vec<MemberId> = members.into_iter().collect();
    members.sort_unstable();
    let mut hash = Sha1::new();
    for member in members {
        hash.update(member.to_be_bytes());
    }
    leading_u64(hash)
}

fn leading_u64(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    let leading = digest.first_chunk().expect("a SHA-1 digest has 20 bytes");
    u64::from_be_bytes(*leading)
}

#[cfg(test)]
mod tests;
