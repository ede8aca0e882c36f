//! A snapshot that a leader sends: received where connections are served, handed to raft on the core.

use std::io;
use std::pin::pin;

use openraft::Snapshot;
use openraft::errors::Fatal;

use super::SnapshotData;
use crate::base::{Broken, MemberId, limits};
use crate::consensus::Consensus;
use crate::consensus::core::Core;
use crate::consensus::peers::listener::next_frame;
use crate::consensus::peers::message::SnapshotReply;
use crate::consensus::raft::cause;
use crate::consensus::raft::format::record::SnapshotHead;
use crate::consensus::raft::log::place;
use crate::consensus::raft::types::{SnapshotMeta, SnapshotResponse, TypeConfig, Vote};
use crate::runtime::buggify::{Site, pause};
use crate::storage::Install;
use crate::storage::snapshot::SnapshotDecoder;
use crate::transport::{FrameReader, FrameWriter, decode, encode};

impl Core {
    /// Whether the log holds durably what a leader's snapshot ends with, as it got that from the same leader: such a
    /// snapshot, whose leader has not heard yet what was appended, is not installed (Raft, figure 13, step 6). openraft
    /// would count the entries behind it as not yet submitted. To be asked while no entries come.
    async fn has_logged(&self, vote: Vote, meta: &SnapshotMeta) -> Result<bool, Broken> {
        // Answered after everything that raft was handed before.
        let same_leader = self
            .raft()
            .with_raft_state(move |state| *state.vote_ref() == vote);
        let same_leader = same_leader.await.map_err(|fatal| cause::stopped("", &fatal))?;
        match &meta.last_log_id {
            Some(last) if same_leader => self.wal().holds(place(last)).await,
            _ => Ok(false),
        }
    }

    /// Hands a received snapshot to raft, while no entries come.
    async fn take_snapshot(
        self,
        vote: Vote,
        meta: SnapshotMeta,
        install: Install,
    ) -> io::Result<SnapshotResponse> {
        let no_appends = self.0.appends.acquire_many(limits::APPEND_PERMITS);
        let _no_appends = no_appends.await.map_err(io::Error::other)?;
        if self.has_logged(vote, &meta).await.map_err(io::Error::other)? {
            tracing::info!(last = ?meta.last_log_id, "the log is past the snapshot already");
            return Ok(SnapshotResponse { vote });
        }
        let data = SnapshotData::Received(install);
        let installed = self
            .raft()
            .install_full_snapshot(vote, Snapshot { meta, snapshot: data })
            .await;
        installed.map_err(|fatal: Fatal<TypeConfig>| io::Error::other(fatal))
    }
}

/// Receives and installs a snapshot, and says now and then that it is at it.
pub async fn serve_snapshot(
    consensus: Consensus,
    from: MemberId,
    reader: FrameReader,
    mut writer: FrameWriter,
) -> io::Result<()> {
    let metrics = consensus.env().metrics();
    let (peer, begun) = (metrics.peers.of(from), consensus.env().now());
    let _under_way = peer.snapshots_received.under_way.hold();
    let mut received = pin!(receive_snapshot(&consensus, from, reader));
    let sign_of_life = consensus.election_timeout() / 2;
    let response = loop {
        match consensus.env().timeout(sign_of_life, received.as_mut()).await {
            Ok(response) => {
                let took = consensus.env().now() - begun;
                peer.snapshots_received.ended(response.is_ok(), took);
                break response?;
            }
            Err(_) => writer.send(&encode(&SnapshotReply::Working)).await?,
        }
    };
    let installed = SnapshotReply::Installed((&response.vote).into());
    writer.send(&encode(&installed)).await?;
    writer.end().await
}

/// Receives a snapshot into a fresh generation of the store and hands it to raft.
async fn receive_snapshot(
    consensus: &Consensus,
    from: MemberId,
    mut reader: FrameReader,
) -> io::Result<SnapshotResponse> {
    let head = reader.next().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let head: SnapshotHead = decode(&head)?;
    let (vote, meta) = head.into_parts().map_err(io::Error::other)?;
    tracing::info!(from = format!("{from:x}"), last = ?meta.last_log_id, "receiving a snapshot");
    let begun = consensus.env().now();
    let install = consensus.0.vitals.store.begin_install().await?;
    let mut decoder = SnapshotDecoder::new();
    while decoder.finish().is_err() {
        let (chunk, is_fresh) = next_frame(&mut reader).await;
        let chunk = chunk?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if is_fresh {
            consensus.hear_leader(&vote);
        }
        install.write(decoder.next_chunk(chunk).map_err(io::Error::other)?)?;
    }
    pause(
        consensus.env(),
        Site::SnapshotInstallLate,
        10 * consensus.election_timeout(),
    )
    .await;
    let installed = consensus
        .run(move |core| core.take_snapshot(vote, meta, install))
        .await;
    let took = consensus.env().now() - begun;
    consensus.env().metrics().snapshots.install.observe(took);
    installed
}
