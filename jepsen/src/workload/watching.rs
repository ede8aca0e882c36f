//! What watchers watch, and how they read: data, so that a plan can store it.

use std::time::Duration;

use quorate::proto::etcdserverpb as pb;
use quorate::proto::etcdserverpb::watch_create_request::FilterType;
use serde::{Deserialize, Serialize};

use super::intent::is_default;

/// A watch that a user wants; a field that is not written down is the wire's default.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchPlan {
    pub key: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub range_end: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub start_revision: i64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub no_put: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub no_delete: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub prev_kv: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub progress_notify: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub fragment: bool,
    /// Now and then it starts all over at its start revision, which may be compacted by then.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rewinds: bool,
    /// As an informer of Kubernetes it lists first, page by page, and watches from the revision after; when compaction has
    /// overtaken it, it lists again.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lists: bool,
}

impl WatchPlan {
    /// A watch of the keys in a range, from now on.
    pub fn of(key: &str, range_end: &str) -> Self {
        WatchPlan {
            key: key.to_owned(),
            range_end: range_end.to_owned(),
            ..WatchPlan::default()
        }
    }

    pub fn request(&self) -> pb::WatchCreateRequest {
        let filters = [
            (self.no_put, FilterType::Noput),
            (self.no_delete, FilterType::Nodelete),
        ];
        let on = filters.into_iter().filter(|(on, _)| *on);
        pb::WatchCreateRequest {
            key: self.key.clone().into(),
            range_end: self.range_end.clone().into(),
            start_revision: self.start_revision,
            progress_notify: self.progress_notify,
            filters: on.map(|(_, filter)| filter as i32).collect(),
            prev_kv: self.prev_kv,
            fragment: self.fragment,
            ..Default::default()
        }
    }
}

/// How each watcher of a run watches: several watches on one stream.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Watching {
    pub watches: Vec<WatchPlan>,
    /// Time between manual progress requests.
    pub progress_interval_ms: u64,
    /// A healthy stream is closed after this time, to exercise resumption.
    pub stream_lifetime_ms: u64,
    /// So many of the watchers are slow readers: they read for a time, and then for a time they do not.
    pub slow_readers: u32,
    pub reads_ms: u64,
    pub rests_ms: u64,
}

impl Watching {
    /// How long a watcher of this number rests: the first ones are the slow readers.
    pub fn rests_of(&self, number: u32) -> Duration {
        let is_slow = number < self.slow_readers;
        Duration::from_millis(if is_slow { self.rests_ms } else { 0 })
    }
}

impl Default for Watching {
    fn default() -> Self {
        Watching {
            watches: standard_watches(),
            progress_interval_ms: 700,
            stream_lifetime_ms: 9_000,
            slow_readers: 0,
            reads_ms: 0,
            rests_ms: 0,
        }
    }
}

/// The watches of a run that asks for nothing else: everything with previous pairs from the first
/// revision, one half each of puts and deletes, and a single key.
pub fn standard_watches() -> Vec<WatchPlan> {
    let everything = WatchPlan {
        progress_notify: true,
        ..WatchPlan::of("\0", "\0")
    };
    vec![
        WatchPlan {
            prev_kv: true,
            start_revision: 1,
            ..everything.clone()
        },
        WatchPlan {
            no_delete: true,
            fragment: true,
            ..everything
        },
        WatchPlan {
            no_put: true,
            prev_kv: true,
            start_revision: 1,
            rewinds: true,
            ..WatchPlan::of("k/", "k0")
        },
        WatchPlan::of("k/000", ""),
    ]
}
