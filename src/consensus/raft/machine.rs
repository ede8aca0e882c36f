//! openraft's handle on the state.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use openraft::alias::SnapshotOf;
use openraft::storage::{EntryResponder, RaftStateMachine};

use super::types::{LogId, SnapshotMeta, StoredMembership, TypeConfig};
use crate::consensus::apply::machine::StateMachine;
use crate::consensus::snapshot::{self, SnapshotBuilder, SnapshotData};
use crate::runtime::buggify::{self, Site, pause};

/// Entries applied in one turn and written in one engine batch.
const APPLY_CHUNK_ENTRIES: usize = 64;
/// The longest pause before a chunk is applied, in a simulation.
const APPLY_PAUSE: Duration = Duration::from_millis(300);

/// See the module.
#[derive(Clone)]
pub struct Machine(pub Rc<StateMachine>);

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.0.applied(), self.0.membership()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin,
    {
        let chunk_max = buggify::limit(Site::ApplyOne, APPLY_CHUNK_ENTRIES, 2);
        let mut chunk = Vec::new();
        pause(&self.0.env, Site::ApplyLate, APPLY_PAUSE).await;
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            chunk.push(entry);
            if let Some(responder) = responder {
                responder.send(());
            }
            if chunk.len() == chunk_max {
                self.0.apply(std::mem::take(&mut chunk)).await?;
            }
        }
        Ok(self.0.apply(chunk).await?)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder(self.0.clone())
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: SnapshotData) -> Result<(), io::Error> {
        match data {
            SnapshotData::Received(install) => Ok(snapshot::install(&self.0, meta, install).await?),
            // Our own view is never ahead of the state it was taken from.
            SnapshotData::View(_) => Ok(()),
        }
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig, SnapshotData>>, io::Error> {
        let snapshot = snapshot::of(&self.0);
        // What a follower gets from us, or raft purges behind, must not vanish from our own disk.
        self.0.sync().await?;
        Ok(snapshot.meta.last_log_id.is_some().then_some(snapshot))
    }
}
