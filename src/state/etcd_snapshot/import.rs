//! A file of etcd's, or one that was exported here, as a store.
//!
//! Read three times: where it stands and where it has gaps; which rows at or below the compact revision live on; and
//! then what is written. Memory grows with the number of keys, as that of the index does.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use serde::Deserialize;

use super::parse_revision_key;
use crate::base::kv::{Batch, Read, Space};
use crate::base::{Broken, MemberId, RevisionAt};
use crate::bbolt::{File, ReadAt, Visitor};
use crate::proto::command::{self, AuthMeta, EtcdLease};
use crate::proto::etcdserverpb::AlarmMember;
use crate::proto::membershippb::{Attributes, Member, RaftAttributes};
use crate::proto::{authpb, mvccpb};
use crate::state::auth::{META_KEY, ROLE_PREFIX, USER_PREFIX};
use crate::state::digest::Kind;
use crate::state::record::Record;
use crate::state::{Pending, Position, State, retained_revisions};

/// Bytes that are written in one batch.
const BATCH_BYTES: usize = 1 << 20;

/// How a file becomes a store.
pub struct Import {
    /// Where the store stands in the log that begins behind it; where the file stood if `None`.
    pub position: Option<Position>,
    /// The members of the new cluster, and their peer URLs; those in the file if `None`.
    pub members: Option<Vec<(MemberId, Vec<String>)>>,
    /// Raises the revision by so much, and counts everything before as compacted: for clients whose caches must not
    /// meet a revision twice.
    pub bump_revision: i64,
}

/// What was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Imported {
    pub revision: i64,
    pub keys: u64,
    pub members: Vec<MemberId>,
    /// Where the store stands.
    pub position: Position,
}

#[derive(Deserialize)]
struct MemberJson {
    id: MemberId,
    #[serde(rename = "peerURLs", default)]
    peer_urls: Vec<String>,
    #[serde(rename = "isLearner", default)]
    is_learner: bool,
    #[serde(default)]
    name: String,
    #[serde(rename = "clientURLs", default)]
    client_urls: Vec<String>,
}

#[derive(Deserialize)]
struct DowngradeJson {
    #[serde(rename = "target-version", default)]
    target: String,
    #[serde(default)]
    enabled: bool,
}

/// Where the rows of a file stand.
struct Survey {
    revision: i64,
    compact_revision: i64,
    rows: u64,
    /// Over every row.
    checksum: u32,
}

/// Writes the file's contents through `write`, into a store that has nothing; `progress` is told of each row.
///
/// # Errors
/// The file is damaged or holds what this version does not know, or a batch could not be written.
pub fn import<F: ReadAt>(
    file: &File<F>,
    options: &Import,
    store: &dyn Read,
    write: &mut dyn FnMut(Batch) -> Result<(), Broken>,
    progress: &mut dyn FnMut(),
) -> Result<Imported, String> {
    let mut state = State::empty(0);
    let stood = marks(file, &mut state)?;
    let position = options.position.unwrap_or(stood);
    let mut survey = survey(file, state.compact_revision)?;
    if options.bump_revision > 0 {
        let raised = survey.revision.checked_add(options.bump_revision);
        survey.revision = raised.ok_or("the revision cannot be raised so far")?;
        survey.compact_revision = survey.revision;
    }
    state.position = position;
    state.revision = survey.revision;
    state.compact_revision = survey.compact_revision;
    // Of what is dead, nothing is taken over.
    state.swept_revision = survey.compact_revision;
    state.digest.add(Kind::Import, &survey.checksum.to_be_bytes());
    members(file, options, &mut state)?;
    alarms(file, &mut state)?;

    let living = living(file, survey.compact_revision)?;
    let mut writer = Writer {
        batch: Batch::default(),
        bytes: 0,
        write,
    };
    leases(file, &mut writer)?;
    let mut keys = BTreeSet::new();
    records(file, &survey, &living, &mut |at, row, record| {
        progress();
        match record.tombstone {
            true => keys.remove(&record.kv.key),
            false => keys.insert(record.kv.key.clone()),
        };
        writer.put(Space::Records, at.to_bytes().to_vec(), row)
    })?;
    auth(file, &mut writer)?;
    writer.flush()?;
    let mut pending = Pending::new(store);
    state.seal(&mut pending);
    let mut batch = pending.into_batch();
    let living: Vec<RevisionAt> = living.into_iter().collect();
    batch
        .changes
        .extend(retained_revisions::rows(state.swept_revision, &living));
    (writer.write)(batch).map_err(|broken| broken.to_string())?;
    Ok(Imported {
        revision: state.revision,
        keys: keys.len() as u64,
        members: state.members.keys().copied().collect(),
        position,
    })
}

/// What `etcdutl snapshot status` tells of a file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// CRC-32C over names, keys and values of all buckets.
    pub hash: u32,
    pub revision: i64,
    pub total_keys: u64,
    /// Of the format; empty if the file is older than that mark.
    pub version: String,
}

/// Reads a whole file.
///
/// # Errors
/// It is damaged.
pub fn summarize<F: ReadAt>(file: &File<F>) -> Result<Summary, String> {
    let mut summary = Summary::default();
    let mut keys = BTreeSet::new();
    for bucket in file.buckets()? {
        summary.hash = crc32c::crc32c_append(summary.hash, &bucket);
        file.rows(&bucket, &mut |key, value| {
            summary.hash = crc32c::crc32c_append(crc32c::crc32c_append(summary.hash, key), value);
            if bucket == b"key" {
                let (at, tombstone) = parse_revision_key(key).ok_or_else(|| malformed("key", key))?;
                summary.revision = at.main;
                let kv = mvccpb::KeyValue::decode(value).map_err(|_| malformed("key", key))?;
                match tombstone {
                    true => keys.remove(&kv.key),
                    false => keys.insert(kv.key),
                };
            } else if bucket == b"meta" && key == b"storageVersion" {
                summary.version = String::from_utf8_lossy(value).into_owned();
            }
            Ok(())
        })?;
    }
    summary.total_keys = keys.len() as u64;
    Ok(summary)
}

struct Writer<'a> {
    batch: Batch,
    bytes: usize,
    write: &'a mut dyn FnMut(Batch) -> Result<(), Broken>,
}

impl Writer<'_> {
    fn put(&mut self, space: Space, key: Vec<u8>, value: Bytes) -> Result<(), String> {
        self.bytes += key.len() + value.len();
        self.batch.put(space, key, value);
        if self.bytes >= BATCH_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), String> {
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        (self.write)(batch).map_err(|broken| broken.to_string())
    }
}

/// The rows of a bucket; a missing bucket has none.
fn each<F: ReadAt>(file: &File<F>, bucket: &str, visit: &mut Visitor<'_>) -> Result<(), String> {
    file.rows(bucket.as_bytes(), visit).map(drop)
}

fn malformed(bucket: &str, key: &[u8]) -> String {
    format!(
        "bucket {bucket}: the row {:?} is malformed",
        String::from_utf8_lossy(key)
    )
}

/// Takes over the compact revision and the cluster's version; the position in the log that the file had.
fn marks<F: ReadAt>(file: &File<F>, state: &mut State) -> Result<Position, String> {
    let mut position = Position::default();
    let mut compacted = -1;
    each(file, "meta", &mut |key, value| {
        let number = || {
            let bytes = value.try_into().map_err(|_| malformed("meta", key));
            bytes.map(u64::from_be_bytes)
        };
        match key {
            b"consistent_index" => position.index = number()?,
            b"term" => position.term = number()?,
            b"scheduledCompactRev" | b"finishedCompactRev" => {
                let (at, _) = parse_revision_key(value).ok_or_else(|| malformed("meta", key))?;
                compacted = compacted.max(at.main);
            }
            b"storageVersion" => {
                let version = String::from_utf8_lossy(value);
                let known = ["3.5.", "3.6.", "3.7."];
                if !known.iter().any(|minor| version.starts_with(minor)) {
                    return Err(format!(
                        "the file has storage version {version}, which is not known here"
                    ));
                }
            }
            _ => {}
        }
        Ok::<(), String>(())
    })?;
    state.compact_revision = compacted;
    each(file, "cluster", &mut |key, value| {
        match key {
            b"clusterVersion" => state.cluster_version = Some(String::from_utf8_lossy(value).into_owned()),
            b"downgrade" => {
                let downgrade: DowngradeJson =
                    serde_json::from_slice(value).map_err(|_| malformed("cluster", key))?;
                state.downgrade_target = downgrade.enabled.then_some(downgrade.target);
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(position)
}

/// Reads every revision once. Where revisions are missing, a restore has raised them, and what is before the gap
/// counts as compacted.
fn survey<F: ReadAt>(file: &File<F>, compact_revision: i64) -> Result<Survey, String> {
    let mut survey = Survey {
        revision: compact_revision.max(1),
        compact_revision,
        rows: 0,
        checksum: 0,
    };
    let mut last = RevisionAt::new(compact_revision.max(1), 0);
    each(file, "key", &mut |key, value| {
        let (at, _) = parse_revision_key(key).ok_or_else(|| malformed("key", key))?;
        survey.rows += 1;
        survey.checksum = crc32c::crc32c_append(crc32c::crc32c_append(survey.checksum, key), value);
        if at.main > survey.compact_revision.max(1) {
            let kv = mvccpb::KeyValue::decode(value).map_err(|_| malformed("key", key))?;
            // A restore that raises the revision marks it with a row that has no key.
            if kv.key.is_empty() {
                survey.compact_revision = at.main;
            } else if at.main > last.main + 1 {
                survey.compact_revision = at.main - 1;
            }
            last = at;
        }
        survey.revision = survey.revision.max(at.main);
        Ok(())
    })?;
    Ok(survey)
}

/// What lives on of the rows at or below the compact revision: of each key the newest, unless that is a tombstone
/// older than the compaction.
fn living<F: ReadAt>(file: &File<F>, compact_revision: i64) -> Result<BTreeSet<RevisionAt>, String> {
    let mut newest: BTreeMap<Bytes, (RevisionAt, bool)> = BTreeMap::new();
    each(file, "key", &mut |key, value| {
        let (at, tombstone) = parse_revision_key(key).ok_or_else(|| malformed("key", key))?;
        if at.main <= compact_revision {
            let kv = mvccpb::KeyValue::decode(value).map_err(|_| malformed("key", key))?;
            if !kv.key.is_empty() {
                newest.insert(kv.key, (at, tombstone));
            }
        }
        Ok(())
    })?;
    let lives =
        |(at, tombstone): (RevisionAt, bool)| (!tombstone || at.main == compact_revision).then_some(at);
    Ok(newest.into_values().filter_map(lives).collect())
}

fn records<F: ReadAt>(
    file: &File<F>,
    survey: &Survey,
    living: &BTreeSet<RevisionAt>,
    visit: &mut dyn FnMut(RevisionAt, Bytes, Record) -> Result<(), String>,
) -> Result<(), String> {
    each(file, "key", &mut |key, value| {
        let (at, tombstone) = parse_revision_key(key).ok_or_else(|| malformed("key", key))?;
        if at.main <= survey.compact_revision && !living.contains(&at) {
            return Ok(());
        }
        let mut row = BytesMut::with_capacity(1 + value.len());
        row.put_u8(u8::from(tombstone));
        row.put_slice(value);
        let row = row.freeze();
        let record = Record::decode(at, row.clone()).map_err(|broken| broken.to_string())?;
        visit(at, row, record)
    })
}

fn leases<F: ReadAt>(file: &File<F>, writer: &mut Writer<'_>) -> Result<(), String> {
    each(file, "lease", &mut |key, value| {
        let lease = EtcdLease::decode(value).map_err(|_| malformed("lease", key))?;
        let stored = command::Lease {
            ttl: lease.ttl,
            remaining_ttl: lease.remaining_ttl,
        };
        let value = stored.encode_to_vec().into();
        writer.put(Space::Leases, lease.id.to_be_bytes().to_vec(), value)
    })
}

fn alarms<F: ReadAt>(file: &File<F>, state: &mut State) -> Result<(), String> {
    each(file, "alarm", &mut |key, _| {
        let alarm = AlarmMember::decode(key).map_err(|_| malformed("alarm", key))?;
        state.alarms.insert((alarm.alarm, alarm.member_id));
        Ok(())
    })
}

fn members<F: ReadAt>(file: &File<F>, options: &Import, state: &mut State) -> Result<(), String> {
    if let Some(members) = &options.members {
        state.found(members.iter().cloned());
        return Ok(());
    }
    each(file, "members", &mut |key, value| {
        let member: MemberJson = serde_json::from_slice(value).map_err(|_| malformed("members", key))?;
        let published = !member.name.is_empty() || !member.client_urls.is_empty();
        let stored = Member {
            id: member.id,
            raft_attributes: Some(RaftAttributes {
                peer_urls: member.peer_urls,
                is_learner: member.is_learner,
            }),
            member_attributes: published.then_some(Attributes {
                name: member.name,
                client_urls: member.client_urls,
            }),
        };
        state.members.insert(member.id, stored);
        Ok(())
    })?;
    each(file, "members_removed", &mut |key, _| {
        let id = std::str::from_utf8(key).ok();
        let id = id.and_then(|id| u64::from_str_radix(id, 16).ok());
        state
            .removed_members
            .insert(id.ok_or_else(|| malformed("members_removed", key))?);
        Ok(())
    })
}

fn auth<F: ReadAt>(file: &File<F>, writer: &mut Writer<'_>) -> Result<(), String> {
    let mut meta = AuthMeta {
        enabled: false,
        revision: 1,
    };
    each(file, "auth", &mut |key, value| {
        match key {
            b"authEnabled" => meta.enabled = value == [1],
            b"authRevision" => {
                let revision = value.try_into().map_err(|_| malformed("auth", key))?;
                meta.revision = u64::from_be_bytes(revision).max(1);
            }
            _ => {}
        }
        Ok(())
    })?;
    writer.put(Space::Meta, META_KEY.to_vec(), meta.encode_to_vec().into())?;
    for (bucket, prefix) in [("authUsers", USER_PREFIX), ("authRoles", ROLE_PREFIX)] {
        each(file, bucket, &mut |name, value| {
            let sound = match bucket {
                "authUsers" => authpb::User::decode(value).is_ok(),
                _ => authpb::Role::decode(value).is_ok(),
            };
            if !sound {
                return Err(malformed(bucket, name));
            }
            let value = Bytes::copy_from_slice(value);
            writer.put(Space::Meta, [prefix, name].concat(), value)
        })?;
    }
    Ok(())
}
