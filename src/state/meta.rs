//! What the state keeps besides records and leases: position, revisions, digest, alarms, members, the cluster's
//! version. One small message, written with every batch, so that the store always says how far
//! it is.

use bytes::Bytes;
use prost::Message;

use super::digest::{Digest, Kind};
use super::{Answer, Pending, Position, State};
use crate::base::broken::Unknown;
use crate::base::kv::{Read, Space};
use crate::base::{Broken, Level};
use crate::proto::command::StateMeta;
use crate::proto::membershippb::DowngradeInfoSetRequest;

const KEY: &[u8] = b"state";
/// What is stored, and how. A store in another format is refused, not guessed at.
const FORMAT: u32 = 2;

/// What a store says of itself; `None` if it is new.
pub(super) fn stored_meta(store: &dyn Read) -> Result<Option<StateMeta>, Broken> {
    let Some(bytes) = store.get(Space::Meta, KEY)? else {
        return Ok(None);
    };
    let meta = StateMeta::decode(bytes).map_err(|error| Broken::unreadable("stored state", error))?;
    Ok(Some(meta))
}

impl State {
    /// Adds to a batch what brings the store to this state. Call it once, after the last command of the batch.
    pub fn seal(&self, store: &mut Pending<'_>) {
        let meta = StateMeta {
            format: FORMAT,
            term: self.position.term,
            index: self.position.index,
            revision: self.revision,
            compact_revision: self.compact_revision,
            swept_revision: self.swept_revision,
            digest: self.digest.0,
            alarms: self.alarms(),
            cluster_version: self.cluster_version.clone().unwrap_or_default(),
            members: self.members.values().cloned().collect(),
            removed_members: self.removed_members.iter().copied().collect(),
            downgrade_target: self.downgrade_target.clone().unwrap_or_default(),
            level: self.level.0.into(),
        };
        store.put(Space::Meta, Bytes::from_static(KEY), meta.encode_to_vec());
    }

    /// Takes in what [`seal`](Self::seal) wrote; `false` if there is nothing.
    pub(super) fn load_meta(&mut self, store: &dyn Read) -> Result<bool, Broken> {
        let Some(meta) = stored_meta(store)? else {
            return Ok(false);
        };
        if meta.format != FORMAT {
            let (found, known) = (meta.format, FORMAT);
            return Err(Broken::OtherRelease {
                what: "the stored state".into(),
                found: Unknown::State { found, known },
            });
        }
        let (revision, compact, swept) = (meta.revision, meta.compact_revision, meta.swept_revision);
        if revision < 1 || !(-1..=revision).contains(&compact) || !(-1..=compact).contains(&swept) {
            return Err(Broken::contradiction(format!(
                "stored state is at revision {revision}, compacted at {compact}, swept up to {swept}"
            )));
        }
        self.position = Position {
            term: meta.term,
            index: meta.index,
        };
        self.revision = meta.revision;
        self.compact_revision = meta.compact_revision;
        self.swept_revision = meta.swept_revision;
        self.digest = Digest(meta.digest);
        self.alarms = meta
            .alarms
            .iter()
            .map(|alarm| (alarm.alarm, alarm.member_id))
            .collect();
        self.cluster_version = Some(meta.cluster_version).filter(|version| !version.is_empty());
        self.downgrade_target = Some(meta.downgrade_target).filter(|version| !version.is_empty());
        let level = u16::try_from(meta.level)
            .map_err(|_| Broken::contradiction(format!("stored state is at level {}", meta.level)))?;
        self.level = Level(level).max(Level::FIRST);
        self.members = meta
            .members
            .into_iter()
            .map(|member| (member.id, member))
            .collect();
        self.removed_members = meta.removed_members.into_iter().collect();
        Ok(true)
    }

    /// The version all members agree on; `None` until the first is set.
    pub fn cluster_version(&self) -> Option<&str> {
        self.cluster_version.as_deref()
    }

    pub(super) fn set_cluster_version(&mut self, version: &str) -> Answer {
        self.digest.add(Kind::Version, version.as_bytes());
        self.cluster_version = Some(version.to_owned());
        Answer::Empty
    }

    /// The cluster's level: commands above it are not proposed.
    pub fn level(&self) -> Level {
        self.level
    }

    /// It never sinks: there may be commands of it in the log.
    pub(super) fn raise_level(&mut self, level: u32) -> Answer {
        self.digest.add(Kind::Version, &level.to_le_bytes());
        let level = u16::try_from(level).unwrap_or(u16::MAX);
        self.level = self.level.max(Level(level));
        Answer::Empty
    }

    /// The version that a downgrade leads to, while one is under way.
    pub fn downgrade_target(&self) -> Option<&str> {
        self.downgrade_target.as_deref()
    }

    pub(super) fn set_downgrade(&mut self, request: &DowngradeInfoSetRequest) -> Answer {
        self.digest.add(Kind::Version, &request.encode_to_vec());
        self.downgrade_target = request.enabled.then(|| request.ver.clone());
        Answer::Empty
    }
}
