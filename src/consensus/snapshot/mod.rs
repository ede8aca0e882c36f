//! Snapshots between members, all that is done with them: named here, sent, received, installed; and what the log may
//! forget because of them.
//!
//! ```text
//!   leader: SnapshotBuilder ─► a view ─► send ═══ chunks ═══► receive ─► a fresh generation ─► install ─► StateMachine::replace
//!                                └────► purge: what no follower needs of the log any more
//! ```

pub mod purge;
pub mod receive;
pub mod send;

use std::io;
use std::rc::Rc;

use openraft::Snapshot;
use openraft::alias::SnapshotOf;
use openraft::storage::RaftSnapshotBuilder;

use super::apply::machine::StateMachine;
use super::apply::metrics::Stopwatch;
use super::raft::types::{SnapshotMeta, TypeConfig};
use crate::base::Broken;
use crate::storage::{Install, View};

/// What raft passes around as a snapshot: a view to send, or a received one to install.
pub enum SnapshotData {
    View(Box<dyn View>),
    Received(Install),
}

/// Makes the state durable and says up to which log id.
pub struct SnapshotBuilder(pub Rc<StateMachine>);

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, SnapshotData>, io::Error> {
        let metrics = &self.0.metrics().snapshots;
        let mut stopwatch = Stopwatch::start(&self.0.env);
        // The snapshot is taken before the sync, so the sync covers all that it names.
        let snapshot = of(&self.0);
        let naming = stopwatch.lap();
        self.0.sync().await?;
        let sync = stopwatch.lap();
        metrics.naming.observe(naming);
        metrics.sync.observe(sync);
        metrics.save.observe(naming + sync);
        Ok(snapshot)
    }
}

/// The state as it stands.
pub fn of(machine: &StateMachine) -> SnapshotOf<TypeConfig, SnapshotData> {
    let (meta, view) = machine.view();
    Snapshot {
        meta,
        snapshot: SnapshotData::View(view),
    }
}

/// Replaces the state by a received snapshot.
pub async fn install(machine: &StateMachine, meta: &SnapshotMeta, install: Install) -> Result<(), Broken> {
    let metrics = &machine.metrics().snapshots;
    let _installing = metrics.installing.hold();
    let begun = machine.env.now();
    let engine = install.commit().await?;
    metrics.install_sync.observe(machine.env.now() - begun);
    machine.replace(engine, meta.last_log_id).await
}
