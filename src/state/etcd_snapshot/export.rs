//! A consistent view as the rows of etcd's file.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use serde_json::{Map, Value, json};

use super::{BUCKETS, STORAGE_VERSION, revision_key};
use crate::base::kv::{Read, Space, Visit};
use crate::base::{Broken, RevisionAt};
use crate::bbolt::Rows;
use crate::proto::command::{self, AuthMeta, EtcdLease, StateMeta};
use crate::proto::membershippb::Member;
use crate::state::auth::{META_KEY, ROLE_PREFIX, USER_PREFIX};
use crate::state::meta::stored_meta;
use crate::state::record::Record;
use crate::state::retained_revisions::Lookup;

type Row = (Vec<u8>, Vec<u8>);

/// The rows of a view. Small buckets are kept in memory; keys and leases are read as they are wanted.
pub struct Export<R> {
    view: R,
    swept_revision: i64,
    small: BTreeMap<&'static str, Vec<Row>>,
}

impl<R: Read> Export<R> {
    pub fn new(view: R) -> Result<Export<R>, Broken> {
        let meta = stored_meta(&view)?.ok_or_else(|| Broken::contradiction("the store is empty"))?;
        let mut small = BTreeMap::from([
            ("alarm", alarms(&meta)),
            ("auth", auth(&view)?),
            ("authRoles", named(&view, ROLE_PREFIX)?),
            ("authUsers", named(&view, USER_PREFIX)?),
            ("cluster", cluster(&meta)),
            ("members", meta.members.iter().map(member).collect()),
            (
                "members_removed",
                meta.removed_members.iter().map(|id| removed(*id)).collect(),
            ),
            ("meta", marks(&meta)),
        ]);
        small.values_mut().for_each(|rows| rows.sort());
        Ok(Export {
            view,
            swept_revision: meta.swept_revision,
            small,
        })
    }

    /// CRC-32C over all rows; without what differs between members that agree, if `comparable`.
    pub fn hash(&self, comparable: bool) -> Result<u32, Broken> {
        let mut hash = 0;
        for bucket in BUCKETS {
            hash = crc32c::crc32c_append(hash, bucket.as_bytes());
            self.rows(bucket, &[], &mut |key, value| {
                let ours = bucket == "meta" && matches!(key, b"consistent_index" | b"term");
                if !(comparable && ours) {
                    hash = crc32c::crc32c_append(hash, key);
                    hash = crc32c::crc32c_append(hash, value);
                }
                Visit::Continue
            })?;
        }
        Ok(hash)
    }

    fn keys(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> Result<(), Broken> {
        // `main _ sub t`, where a store has `main sub`.
        let start: Vec<u8> = from
            .iter()
            .take(8)
            .chain(from.iter().skip(9).take(8))
            .copied()
            .collect();
        let mut kept = Lookup::new(self.swept_revision, &self.view);
        let mut failed = None;
        self.view.scan(Space::Records, &start, None, &mut |key, value| {
            let row = RevisionAt::from_bytes(key)
                .ok_or_else(|| Broken::malformed(format!("stored revision {key:?}")))
                .and_then(|at| {
                    let lives = at.main > self.swept_revision || kept.is_kept(at)?;
                    let record = Record::decode(at, value.clone())?;
                    Ok(lives.then(|| revision_key(at, record.tombstone)))
                });
            match row {
                Ok(None) => Visit::Continue,
                Ok(Some(key)) if key.as_slice() < from => Visit::Continue,
                // Behind its kind, a record is etcd's KeyValue byte for byte.
                Ok(Some(key)) => visit(&key, value.get(1..).unwrap_or_default()),
                Err(broken) => {
                    failed = Some(broken);
                    Visit::Stop
                }
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    fn leases(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> Result<(), Broken> {
        let mut failed = None;
        self.view.scan(Space::Leases, from, None, &mut |key, value| {
            let id = key.try_into().map(i64::from_be_bytes);
            let (Ok(id), Ok(lease)) = (id, command::Lease::decode(value)) else {
                failed = Some(Broken::malformed("a stored lease"));
                return Visit::Stop;
            };
            let lease = EtcdLease {
                id,
                ttl: lease.ttl,
                remaining_ttl: lease.remaining_ttl,
            };
            visit(key, &lease.encode_to_vec())
        })?;
        failed.map_or(Ok(()), Err)
    }
}

impl<R: Read> Rows for Export<R> {
    fn buckets(&self) -> &[&'static str] {
        &BUCKETS
    }

    fn rows(
        &self,
        bucket: &str,
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit,
    ) -> Result<(), Broken> {
        match bucket {
            "key" => self.keys(from, visit),
            "lease" => self.leases(from, visit),
            _ => {
                let rows = self.small.get(bucket).into_iter().flatten();
                for (key, value) in rows.skip_while(|(key, _)| key.as_slice() < from) {
                    if visit(key, value) == Visit::Stop {
                        break;
                    }
                }
                Ok(())
            }
        }
    }
}

fn alarms(meta: &StateMeta) -> Vec<Row> {
    let row = |alarm: &crate::proto::etcdserverpb::AlarmMember| (alarm.encode_to_vec(), Vec::new());
    meta.alarms.iter().map(row).collect()
}

fn auth(view: &dyn Read) -> Result<Vec<Row>, Broken> {
    let Some(bytes) = view.get(Space::Meta, META_KEY)? else {
        return Ok(Vec::new());
    };
    let meta = AuthMeta::decode(bytes).map_err(|error| Broken::unreadable("stored auth", error))?;
    Ok(vec![
        (b"authEnabled".to_vec(), vec![u8::from(meta.enabled)]),
        (b"authRevision".to_vec(), meta.revision.to_be_bytes().to_vec()),
    ])
}

/// Users or roles: etcd stores the same messages.
fn named(view: &dyn Read, prefix: &[u8]) -> Result<Vec<Row>, Broken> {
    let mut rows = Vec::new();
    view.scan(
        Space::Meta,
        prefix,
        None,
        &mut |key, value: Bytes| match key.strip_prefix(prefix) {
            Some(name) => {
                rows.push((name.to_vec(), value.to_vec()));
                Visit::Continue
            }
            None => Visit::Stop,
        },
    )?;
    Ok(rows)
}

fn cluster(meta: &StateMeta) -> Vec<Row> {
    let mut rows = Vec::new();
    if !meta.cluster_version.is_empty() {
        rows.push((
            b"clusterVersion".to_vec(),
            meta.cluster_version.clone().into_bytes(),
        ));
    }
    if !meta.downgrade_target.is_empty() {
        let downgrade = json!({"target-version": meta.downgrade_target, "enabled": true});
        rows.push((b"downgrade".to_vec(), downgrade.to_string().into_bytes()));
    }
    rows
}

fn member(member: &Member) -> Row {
    let raft = member.raft_attributes.clone().unwrap_or_default();
    let published = member.member_attributes.clone().unwrap_or_default();
    let mut fields = Map::new();
    fields.insert("id".into(), json!(member.id));
    fields.insert("peerURLs".into(), json!(raft.peer_urls));
    if raft.is_learner {
        fields.insert("isLearner".into(), json!(true));
    }
    if !published.name.is_empty() {
        fields.insert("name".into(), json!(published.name));
    }
    if !published.client_urls.is_empty() {
        fields.insert("clientURLs".into(), json!(published.client_urls));
    }
    let key = format!("{:x}", member.id).into_bytes();
    (key, Value::Object(fields).to_string().into_bytes())
}

fn removed(id: u64) -> Row {
    (format!("{id:x}").into_bytes(), b"removed".to_vec())
}

fn marks(meta: &StateMeta) -> Vec<Row> {
    let ids = |learners: bool| {
        let wanted = meta.members.iter().filter(|member| {
            let raft = member.raft_attributes.as_ref();
            raft.is_some_and(|raft| raft.is_learner) == learners
        });
        wanted.map(|member| member.id).collect::<Vec<_>>()
    };
    let (voters, learners) = (ids(false), ids(true));
    let mut state = Map::new();
    state.insert("voters".into(), json!(voters));
    if !learners.is_empty() {
        state.insert("learners".into(), json!(learners));
    }
    state.insert("auto_leave".into(), json!(false));
    let mut rows = vec![
        (
            b"confState".to_vec(),
            Value::Object(state).to_string().into_bytes(),
        ),
        (b"consistent_index".to_vec(), meta.index.to_be_bytes().to_vec()),
        (b"storageVersion".to_vec(), STORAGE_VERSION.as_bytes().to_vec()),
        (b"term".to_vec(), meta.term.to_be_bytes().to_vec()),
    ];
    // As etcd's own: what is scheduled and not finished is done again when the file is opened, there and here.
    for (name, revision) in [
        ("finishedCompactRev", meta.swept_revision),
        ("scheduledCompactRev", meta.compact_revision),
    ] {
        if revision > 0 {
            let at = revision_key(RevisionAt::new(revision, 0), false);
            rows.push((name.into(), at));
        }
    }
    rows
}
