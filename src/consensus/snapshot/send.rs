//! A snapshot on its way to a follower, where connections are served.

use std::io;
use std::pin::pin;

use futures_util::future::{Either, select};
use openraft::alias::SnapshotOf;

use super::SnapshotData;
use crate::consensus::peers::message::SnapshotReply;
use crate::consensus::raft::format::record::SnapshotHead;
use crate::consensus::raft::types::{SnapshotResponse, TypeConfig, Vote};
use crate::runtime::buggify::{Site, pause};
use crate::storage::snapshot::SnapshotEncoder;
use crate::transport::{Dialer, Purpose, decode, encode};

/// Streams a view in chunks; the answer comes when the peer has installed it.
pub async fn send_snapshot(
    dialer: &Dialer,
    vote: Vote,
    data: SnapshotOf<TypeConfig, SnapshotData>,
) -> io::Result<SnapshotResponse> {
    let SnapshotData::View(view) = data.snapshot else {
        return Err(io::Error::other("a received snapshot is not sent on"));
    };
    let (mut reader, mut writer) = dialer.dial(Purpose::Snapshot).await?;
    let head = encode(&SnapshotHead::new(&vote, &data.meta));
    let send = pin!(async move {
        writer.send(&head).await?;
        let mut chunks = SnapshotEncoder::new(view);
        while let Some(chunk) = chunks.next_chunk()? {
            pause(&dialer.env, Site::SnapshotChunkLate, dialer.timeout / 4).await;
            writer.send(&chunk).await?;
        }
        // No end: the snapshot says itself where it ends.
        io::Result::Ok(writer)
    });
    let answer = pin!(async {
        loop {
            let frame = dialer.env.timeout(dialer.timeout, reader.next()).await??;
            match decode(&frame.ok_or(io::ErrorKind::UnexpectedEof)?)? {
                SnapshotReply::Working => {}
                SnapshotReply::Installed(vote) => return Ok(SnapshotResponse::new(vote.into())),
            }
        }
    });
    match select(send, answer).await {
        Either::Left((sent, answer)) => {
            let _writer = sent?;
            answer.await
        }
        Either::Right((answer, _)) => answer,
    }
}
