//! `--force-new-cluster`: what to do when a majority is lost for good. One member goes on alone, with all that is in its log;
//! the others are removed, and may not come back with their data.
//!
//! etcd drops what is not committed as far as this member knows. But it may know late: the last write of all may have been
//! acknowledged and not be marked yet. What nobody acknowledged may have taken effect, too, as far as clients know.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::Membership;

use crate::base::{Broken, Level, MemberId};
use crate::consensus::apply::applied_state::AppliedState;
use crate::consensus::apply::batch::check_level;
use crate::consensus::propose::command::{self, EncodedCommand};
use crate::consensus::raft::format::entry::{Batch, BatchName, Payload, decode_payload, encode_payload};
use crate::consensus::raft::format::record::{decode_vote, encode_vote};
use crate::consensus::raft::log::NO_NODE;
use crate::consensus::raft::types::{LogId, Peer, Vote};
use crate::proto::command::command::Request;
use crate::proto::command::{MemberPromoteCommand, MemberRemoveCommand};
use crate::state::State;
use crate::storage::Store;
use crate::storage::wal::{LogRecord, Wal};

/// Bytes of the log that are read at once.
const READ_BYTES_MAX: usize = 4 << 20;

/// The batch that makes a new cluster has no member that waits for it.
pub const NOBODY: BatchName = BatchName {
    origin: 0,
    incarnation: 0,
    sequence: 0,
};

/// What the log and the store know of the members.
struct Members {
    all: BTreeSet<MemberId>,
    learners: BTreeSet<MemberId>,
}

impl Members {
    fn take(&mut self, payload: &Payload) -> Result<(), Broken> {
        match payload {
            Payload::Blank => {}
            Payload::Membership(membership) => self.all.extend(membership.nodes().map(|(id, _)| *id)),
            Payload::Normal(batch) => {
                for (_, command) in batch.commands() {
                    let (_, request) = command::decode(&command)
                        .map_err(|unreadable| Broken::contradiction(format!("the log holds {unreadable}")))?;
                    if let Request::MemberAdd(request) = request
                        && let Some(member) = request.member
                    {
                        self.all.insert(member.id);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Makes `member` the only one, in its log: the others' removal and a membership of one are appended, and all of it is
/// committed. Does nothing if it is the only one already.
pub async fn force_new_cluster(
    wal: &Wal,
    store: &Store,
    member: MemberId,
    peer_urls: &[String],
    level: Level,
) -> Result<(), Broken> {
    let engine = store.engine();
    let applied_state = AppliedState::stored(&*engine)?;
    let state = State::open(&*engine)?;
    check_level(|| "the cluster".into(), state.level(), level)?;
    let log = wal.state();
    let mut members = Members {
        all: state.members().iter().map(|member| member.id).collect(),
        learners: state.member_ids(true).collect(),
    };
    members
        .all
        .extend(applied_state.membership().membership().nodes().map(|(id, _)| *id));
    let applied = applied_state.applied.as_ref().map_or(0, |at: &LogId| at.index);
    let last = log.last.map_or(0, |at| at.index).max(applied);
    let mut next = applied + 1;
    while next <= last {
        let records = wal.read(next, last + 1, Some(READ_BYTES_MAX)).await?;
        let Some(read) = records.last() else { break };
        next = read.index + 1;
        for record in &records {
            let payload = decode_payload(record.payload.clone()).map_err(|bad| bad.in_log(record.index))?;
            if let Payload::Normal(batch) = &payload {
                check_level(|| format!("entry {}", record.index), batch.level(), level)?;
            }
            members.take(&payload)?;
        }
    }
    members.all.remove(&member);
    if members.all.is_empty() {
        return Ok(());
    }
    let others: Vec<String> = members.all.iter().map(|id| format!("{id:x}")).collect();
    tracing::warn!(
        "local-member-id" = format!("{member:x}"),
        removed = others.join(","),
        "forcing a new cluster of this member alone"
    );
    let removals = members
        .all
        .iter()
        .map(|&id| Request::MemberRemove(MemberRemoveCommand { id }));
    let promotion = members
        .learners
        .contains(&member)
        .then_some(Request::MemberPromote(MemberPromoteCommand { id: member }));
    let encoded = |request| EncodedCommand::new(None, request).map(|command| command.bytes().clone());
    let commands = removals.chain(promotion).map(encoded);
    let commands: Vec<Bytes> = commands.collect::<Result<_, _>>().map_err(Broken::invariant)?;
    let commands: Vec<(u64, Bytes)> = (0..).zip(commands).collect();
    let removal = Payload::Normal(Batch::new(NOBODY, Level::FIRST, 0, &commands));
    let node = Peer {
        name: String::new(),
        peer_urls: peer_urls.to_vec(),
    };
    let alone = Membership::new(vec![BTreeSet::from([member])], BTreeMap::from([(member, node)]))
        .map_err(|error| Broken::invariant(format!("a membership of one: {error}")))?;

    let vote = log.vote.as_deref().map(decode_vote).transpose()?;
    let last_term = log.last.map_or(0, |last| last.term);
    let applied_term = applied_state.applied.as_ref().map_or(0, |at| at.leader_id.term);
    // A term of its own: nobody else can have written entries in it that are told apart only by it.
    let term = vote
        .map_or(0, |vote| vote.leader_id.term)
        .max(last_term)
        .max(applied_term)
        + 1;
    wal.save_vote(encode_vote(&Vote::new(term, member))).await?;
    let entries = [removal, Payload::Membership(alone)];
    let records: Vec<LogRecord> = (last + 1..)
        .zip(&entries)
        .map(|(index, payload)| LogRecord {
            term,
            node: NO_NODE,
            index,
            payload: encode_payload(payload),
        })
        .collect();
    let end = records.last().map(LogRecord::id);
    wal.append(records).await?;
    if let Some(end) = end {
        wal.save_committed(end);
    }
    Ok(())
}
