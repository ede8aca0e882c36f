//! What one batch of commands does to the state, command by command.

use std::sync::Arc;

use bytes::Bytes;

use super::metrics::{self, Stopwatch};
use crate::base::broken::Unknown;
use crate::base::{Broken, Level};
use crate::consensus::propose::command::{self, Decoded};
use crate::consensus::raft::format::entry::{Batch, BatchName};
use crate::consensus::recovery::force_new_cluster::NOBODY;
use crate::proto::command::command::Request;
use crate::runtime::Env;
use crate::state::once::Turn;
use crate::state::{Outcome, Pending, Position, SharedStore, State};
use crate::storage::Engine;

/// An outcome with the request that led to it, for those who follow what is applied.
pub struct Effect {
    pub request: Request,
    pub outcome: Outcome,
}

/// # Errors
/// A release of `level` would apply it in part, or differently.
pub fn check_level(what: impl FnOnce() -> String, needed: Level, known: Level) -> Result<(), Broken> {
    if needed <= known {
        return Ok(());
    }
    Err(Broken::OtherRelease {
        what: what(),
        found: Unknown::Level { needed, known },
    })
}

/// Applies the commands of a batch that stands at `at`. `decoded`: somebody waits here for the answers, and some are decoded
/// already.
pub fn apply_batch(
    env: &Env,
    state: &mut State,
    at: Position,
    batch: &Batch,
    pending: &mut Pending<'_>,
    decoded: Option<Vec<Option<Decoded>>>,
) -> Result<Vec<Effect>, Broken> {
    let turns = take_turns(state, at, batch, pending);
    let asked = decoded.is_some();
    let mut decoded = decoded.into_iter().flatten();
    let mut stopwatch = Stopwatch::start(env);
    let apply = |(turn, (number, encoded)): (Turn, (u64, Bytes))| {
        // A copy: whoever keeps a key of it, a watcher say, would else keep the whole batch in memory.
        let decode = || command::decode(&Bytes::copy_from_slice(&encoded));
        let (header, request) = (decoded.next().flatten().map_or_else(decode, Ok))
            .map_err(|unreadable| Broken::contradiction(format!("entry {} holds {unreadable}", at.index)))?;
        if turn != Turn::First {
            state.advance(at, pending);
            metrics::left_out(env.metrics(), turn, batch.name(), number);
            let outcome = Outcome::unknown(state.revision());
            return Ok(Effect { request, outcome });
        }
        let outcome = state.apply(at, header.as_ref(), &request, pending, asked)?;
        metrics::applied(env.metrics(), &request, &outcome, stopwatch.lap());
        Ok(Effect { request, outcome })
    };
    turns.into_iter().zip(batch.commands()).map(apply).collect()
}

/// Which commands of a batch are to be applied. Members below the level are gone when the cluster has it.
fn take_turns(state: &mut State, at: Position, batch: &Batch, pending: &mut Pending<'_>) -> Vec<Turn> {
    let BatchName {
        origin, incarnation, ..
    } = batch.name();
    // Nobody proposes what makes a new cluster of one member: each such batch has the same numbers.
    if state.level() < Level::APPLIED_ONCE || origin == NOBODY.origin {
        return vec![Turn::First; batch.len()];
    }
    state.take_turns(
        at.index,
        (origin, incarnation),
        batch.floor(),
        batch.numbers(),
        pending,
    )
}

/// What answers still lack is read from the store as it is now: before a sweep gives up what died.
pub fn keep_store(batches: &mut [(BatchName, Vec<Effect>)], engine: &dyn Engine) {
    let mut view = None;
    for effect in batches.iter_mut().flat_map(|(_, effects)| effects) {
        let unread = &mut effect.outcome.unread;
        if unread.needs_store() {
            let view = view.get_or_insert_with(|| Arc::new(engine.view()) as SharedStore);
            unread.store = Some(view.clone());
        }
    }
}

pub fn is_about_members(request: &Request) -> bool {
    matches!(
        request,
        Request::MemberAdd(_)
            | Request::MemberRemove(_)
            | Request::MemberPromote(_)
            | Request::MemberUpdate(_)
            | Request::ClusterMemberAttrSet(_)
    )
}
