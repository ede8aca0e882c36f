//! The stream of a snapshot: etcd's file in messages of at most 32 KiB, and behind it its SHA-256, as
//! `etcdctl snapshot save` stores it and `etcdutl snapshot restore` demands it.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, stream};
use sha2::{Digest, Sha256};
use tonic::Status;

use crate::base::{Broken, Denied};
use crate::consensus::SnapshotFile;
use crate::proto::etcdserverpb::SnapshotResponse;
use crate::runtime::{Aside, Instant};
use crate::server::api::Api;
use crate::server::wire::status::status;
pub use crate::state::etcd_snapshot::STORAGE_VERSION as VERSION;

/// Bytes of one message, as etcd.
const MESSAGE_BYTES: usize = 32 * 1024;

/// A file that is being sent.
struct Sending {
    api: Arc<Api>,
    /// `None` before the first message, and after the last part.
    file: Option<SnapshotFile>,
    started: bool,
    part: Bytes,
    /// Of the file, not of the checksum behind it.
    remaining: u64,
    checksum: Option<Sha256>,
    /// When the first part was asked for.
    begun: Instant,
}

pub fn stream(api: Arc<Api>) -> impl Stream<Item = Result<SnapshotResponse, Status>> + Send {
    let sending = Sending {
        begun: api.env.now(),
        api,
        file: None,
        started: false,
        part: Bytes::new(),
        remaining: 0,
        checksum: Some(Sha256::new()),
    };
    stream::unfold(sending, |mut sending| async move {
        let next = sending.next().await.transpose()?;
        if next.is_err() {
            (sending.file, sending.checksum) = (None, None);
        }
        Some((next.map_err(status), sending))
    })
}

impl Sending {
    async fn next(&mut self) -> Result<Option<SnapshotResponse>, Denied> {
        if self.checksum.is_none() {
            return Ok(None);
        }
        if !self.started {
            (self.started, self.begun) = (true, self.api.env.now());
            let export = self.api.consensus.export().await;
            let file = read(self.api.clone(), move || SnapshotFile::new(export?)).await?;
            self.remaining = file.file_bytes();
            tracing::info!(
                size = self.remaining,
                "storage-version" = VERSION,
                "sending database snapshot to client"
            );
            self.file = Some(file);
        }
        if self.part.is_empty()
            && let Some(mut file) = self.file.take()
        {
            let (part, file) = read(self.api.clone(), move || Ok((file.next_part()?, file))).await?;
            self.part = part.unwrap_or_default();
            self.file = (!self.part.is_empty()).then_some(file);
        }
        let blob = self.part.split_to(self.part.len().min(MESSAGE_BYTES));
        if blob.is_empty() {
            let checksum = self.checksum.take().map(Sha256::finalize);
            let took = self.api.env.now() - self.begun;
            self.api.member_metrics().snapshots.read_out.observe(took);
            tracing::info!("successfully sent database snapshot to client");
            return Ok(checksum.map(|checksum| message(0, Bytes::copy_from_slice(&checksum))));
        }
        self.remaining = self.remaining.saturating_sub(blob.len() as u64);
        if let Some(checksum) = &mut self.checksum {
            checksum.update(&blob);
        }
        Ok(Some(message(self.remaining, blob)))
    }
}

/// Off the tasks that serve others; damage ends the member.
async fn read<T: Send + 'static>(
    api: Arc<Api>,
    look: impl FnOnce() -> Result<T, Broken> + Send + 'static,
) -> Result<T, Denied> {
    let found = api.env.run_aside(Aside::Background, look).await;
    api.consensus.checked(found)
}

fn message(remaining: u64, blob: Bytes) -> SnapshotResponse {
    SnapshotResponse {
        header: None,
        remaining_bytes: remaining,
        blob,
        version: VERSION.into(),
    }
}
