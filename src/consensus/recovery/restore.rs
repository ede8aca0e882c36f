//! A member out of a file: as if it had installed a snapshot and purged its log behind it.

use std::collections::{BTreeMap, BTreeSet};

use openraft::Membership;

use crate::base::kv::Batch;
use crate::base::{Broken, MemberId};
use crate::bbolt::{File, ReadAt};
use crate::consensus::apply::applied_state::AppliedState;
use crate::consensus::raft::format::record::encode_vote;
use crate::consensus::raft::types::{Peer, StoredMembership, Vote, log_id};
use crate::runtime::Env;
use crate::state::etcd_snapshot::{Import, Imported, import};
use crate::state::{Position, State};
use crate::storage::Store;
use crate::storage::wal::{LogId, Recovered, Wal};

/// Fills an empty store, so that all members which do the same with the same file agree. The log is begun by
/// [`begin_log`]: only with it there is a member.
pub async fn fill<F: ReadAt>(
    store: &Store,
    file: &File<F>,
    options: &Import,
    progress: &mut (dyn FnMut() + Send),
) -> Result<Imported, Broken> {
    let install = store.begin_install().await?;
    let empty = store.engine();
    let write = &mut |batch| install.write(batch);
    let imported = import(file, options, &*empty, write, progress).map_err(Broken::Import)?;
    let engine = install.commit().await?;
    // Opening checks everything that a start would.
    let state = State::open(&*engine)?;
    let nodes: BTreeMap<MemberId, Peer> = state
        .peer_urls()
        .map(|(id, urls)| {
            let peer = Peer {
                name: String::new(),
                peer_urls: urls.to_vec(),
            };
            (id, peer)
        })
        .collect();
    let voters: BTreeSet<MemberId> = state.member_ids(false).collect();
    let membership = Membership::new(vec![voters], nodes)
        .map_err(|error| Broken::Import(format!("the file names no members: {error}")))?;
    let at = log_id(imported.position);
    let applied_state = AppliedState::new(Some(at), StoredMembership::new(Some(at), membership));
    let mut batch = Batch::default();
    applied_state.store(&mut batch);
    engine.write(batch)?;
    engine.sync().await?;
    Ok(imported)
}

/// Begins the log behind what was filled in. No vote of a term up to the file's is given again.
pub async fn begin_log(
    env: &Env,
    log: Recovered,
    member: MemberId,
    position: Position,
) -> Result<(), Broken> {
    let begun = env.on_core(move || async move {
        let wal = log.start();
        let begun = begin(&wal, member, position).await;
        wal.close().await;
        begun
    });
    let begun = begun.await;
    begun.unwrap_or_else(|error| Err(Broken::invariant(format!("cannot write the log: {error}"))))
}

async fn begin(wal: &Wal, member: MemberId, position: Position) -> Result<(), Broken> {
    let vote = Vote::new(position.term, member);
    wal.save_vote(encode_vote(&vote)).await?;
    let end = LogId {
        term: position.term,
        node: crate::consensus::raft::log::NO_NODE,
        index: position.index,
    };
    wal.purge(end).await
}
