//! Committed entries into [`State`] and engine, and who follows them.
//!
//! ```text
//!   committed entries ─► State::apply ─► one engine batch ─► observer (watches) ─► who waits (propose)
//!                        \_________________ in one turn __________________/
//! ```
//!
//! Every batch carries the log id it brings the engine to, so the engine always knows where it stands.
//! Nothing is synced per batch, since the log replays; a [snapshot](crate::consensus::snapshot) syncs first and only
//! then names the log id up to which raft may purge.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::Membership;

use super::applied_state::AppliedState;
use super::batch::{Effect, apply_batch, check_level, is_about_members, keep_store};
use super::hash::Compactions;
use super::metrics;
use super::state_cell::StateCell;
use super::sweep::Compacting;
use crate::base::kv::Read;
use crate::base::metrics::MemberMetrics;
use crate::base::{Broken, LeaseId, Level, MemberId, Revision, limits};
use crate::consensus::SharedObserver;
use crate::consensus::lease::lessor::{Lessor, Ttl};
use crate::consensus::peers::addresses;
use crate::consensus::propose::queue::Proposals;
use crate::consensus::propose::quota_gate::QuotaGate;
use crate::consensus::raft::format::entry::Payload;
use crate::consensus::raft::types::{Entry, LogId, SnapshotMeta, StoredMembership, position};
use crate::consensus::tokens::{Tokens, simple_token};
use crate::proto::command::command::Request;
use crate::runtime::buggify::{self, Site};
use crate::runtime::{Env, Instant, signal};
use crate::state::{Answer, Lease, Pending, Replaced, SharedStore, State};
use crate::storage::{Engine, Store, View};
use crate::transport::AddressBook;

struct Inner {
    state: State,
    engine: Arc<dyn Engine>,
    applied_state: AppliedState,
    /// An entry could not be applied: the state is somewhere between two, and the engine has nothing of it. The member ends,
    /// and must not write down such a state meanwhile.
    is_torn: bool,
}

/// Where the state stands, for those who watch a member from outside.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reached {
    pub revision: Revision,
    /// The index that `digest` belongs to.
    pub index: u64,
    pub digest: u64,
    /// The cluster's level as of then.
    pub level: Level,
}

/// What has been applied, for who looks at it from another thread. Set before anybody is answered.
#[derive(Clone, Default)]
pub struct Applied {
    /// Reads see everything up to it.
    pub log_id: Option<LogId>,
    pub reached: Reached,
    /// Whether clients are asked who they are.
    pub auth_enabled: bool,
}

impl Applied {
    fn of(inner: &Inner) -> Applied {
        let state = &inner.state;
        Applied {
            log_id: inner.applied_state.applied,
            reached: Reached {
                revision: state.revision(),
                index: state.position().index,
                digest: state.digest(),
                level: state.level(),
            },
            auth_enabled: state.auth().is_enabled(),
        }
    }
}

/// Who the members are, for who looks at it from another thread.
#[derive(Clone, Default)]
pub struct MembersSeen {
    /// Counts changes of the members, the decided and raft's.
    pub changes: u64,
    /// Removed, and out of raft's membership: they are not spoken with any more.
    pub left: BTreeSet<MemberId>,
    /// Whether this member is one without a vote.
    pub is_learner: bool,
}

/// The replicated state of this member, and who follows it.
pub struct StateMachine {
    pub env: Env,
    inner: StateCell<Inner>,
    store: Store,
    applied: signal::Sender<Applied>,
    pub proposals: Proposals,
    pub lessor: Lessor,
    pub tokens: Tokens,
    pub compactions: Compactions,
    compacting: signal::Sender<Compacting>,
    pub quota_gate: QuotaGate,
    /// An apply that takes longer is told of.
    slow_apply: Duration,
    /// Up to which this member applies what is in the log.
    level: Level,
    /// The highest index up to which the engine is known to be durable.
    synced: signal::Sender<u64>,
    /// This member.
    member: MemberId,
    members: signal::Sender<MembersSeen>,
    book: AddressBook,
    observer: SharedObserver,
}

/// Who follows what is applied, besides the observer.
pub struct ApplyListeners {
    pub proposals: Proposals,
    pub lessor: Lessor,
    pub tokens: Tokens,
    pub compactions: Compactions,
    pub slow_apply: Duration,
    pub quota: Option<u64>,
    pub level: Level,
}

impl StateMachine {
    /// Rebuilds the state from the store.
    pub fn open(
        env: Env,
        store: Store,
        listeners: ApplyListeners,
        member: MemberId,
        book: AddressBook,
        observer: SharedObserver,
    ) -> Result<StateMachine, Broken> {
        let ApplyListeners {
            proposals,
            lessor,
            tokens,
            compactions,
            slow_apply,
            quota,
            level,
        } = listeners;
        let inner = Inner::open(store.engine(), level)?;
        lessor.replaced(inner.leases());
        observer.installed(inner.state.revision());
        let machine = StateMachine {
            synced: signal::channel(0).0,
            applied: signal::channel(Applied::of(&inner)).0,
            member,
            members: signal::channel(MembersSeen::default()).0,
            book,
            tokens,
            compactions,
            compacting: signal::channel(Compacting::of(&inner.state)).0,
            quota_gate: QuotaGate::new(quota, inner.state.logical_bytes().0),
            slow_apply,
            level,
            inner: StateCell::new(env.clone(), inner),
            env,
            store,
            proposals,
            lessor,
            observer,
        };
        machine.follow_members(&machine.inner.read());
        Ok(machine)
    }

    /// Takes over who the members are, after any change of them.
    fn follow_members(&self, inner: &Inner) {
        let state = &inner.state;
        for (id, urls) in state.peer_urls() {
            self.book.set(id, addresses(urls));
        }
        let in_raft = |id: &MemberId| {
            inner
                .applied_state
                .membership()
                .membership()
                .get_node(id)
                .is_some()
        };
        let left = state.removed_members().filter(|id| !in_raft(id)).collect();
        let is_learner = state.is_learner(self.member);
        self.members.send_if_modified(|seen| {
            *seen = MembersSeen {
                changes: seen.changes + 1,
                left,
                is_learner,
            };
            true
        });
    }

    /// Tells of every change of the members, the decided and raft's.
    pub fn members_signal(&self) -> signal::Receiver<MembersSeen> {
        self.members.subscribe()
    }

    pub fn read<T>(&self, look: impl FnOnce(&State, &dyn Read) -> T) -> T {
        let inner = self.inner.read();
        look(&inner.state, &*inner.engine)
    }

    /// A look that may keep the store as it is at this moment.
    pub fn look<T>(&self, look: impl FnOnce(&State, &dyn Fn() -> SharedStore) -> T) -> T {
        let inner = self.inner.read();
        look(&inner.state, &|| Arc::new(inner.engine.view()))
    }

    /// Whether an entry could not be applied: this member ends.
    pub fn is_torn(&self) -> bool {
        self.inner.read().is_torn
    }

    /// A look that sweeps: see [`super::sweep`].
    pub fn sweep<T>(
        &self,
        look: impl FnOnce(&mut State, &Arc<dyn Engine>) -> Result<T, Replaced>,
    ) -> Result<T, Replaced> {
        let mut inner = self.inner.write();
        if inner.is_torn {
            return Err(Replaced);
        }
        let Inner { state, engine, .. } = &mut *inner;
        let done = look(state, engine)?;
        // Not only with what is applied next: that may wait for the space.
        self.quota_gate.resized(state.logical_bytes().0);
        Ok(done)
    }

    /// Tells how far compactions have come.
    pub fn follow_compactions(&self, state: &State) {
        let now = Compacting::of(state);
        self.compacting
            .send_if_modified(|seen| std::mem::replace(seen, now) != now);
    }

    /// Tells when there is something to sweep, and when it is swept.
    pub fn compacting_signal(&self) -> signal::Receiver<Compacting> {
        self.compacting.subscribe()
    }

    pub fn applied(&self) -> Option<LogId> {
        self.applied.borrow().log_id
    }

    pub fn applied_signal(&self) -> signal::Receiver<Applied> {
        self.applied.subscribe()
    }

    pub fn membership(&self) -> StoredMembership {
        self.inner.read().applied_state.membership().clone()
    }

    /// A look at raft's membership as of what is applied.
    pub fn with_membership<T>(&self, look: impl FnOnce(&StoredMembership) -> T) -> T {
        look(self.inner.read().applied_state.membership())
    }

    /// Makes everything applied durable; the log id it covers.
    pub async fn sync(&self) -> Result<Option<LogId>, Broken> {
        let (engine, applied) = {
            let inner = self.inner.read();
            (inner.engine.clone(), inner.applied_state.applied)
        };
        let begun = self.env.now();
        engine.sync().await?;
        let took = self.env.now() - begun;
        self.metrics().engine.commit.observe(took);
        self.note_synced(applied);
        Ok(applied)
    }

    pub fn metrics(&self) -> &MemberMetrics {
        self.env.metrics()
    }

    /// A batch of entries was applied.
    fn tell_if_slow(&self, begun: Instant, entries: usize) {
        let took = self.env.now() - begun;
        if took > self.slow_apply {
            self.metrics().agreement.slow_applies.inc();
            tracing::warn!(
                ?took,
                "expected-duration" = ?self.slow_apply,
                entries,
                "apply request took too long"
            );
        }
    }

    fn note_synced(&self, applied: Option<LogId>) {
        let index = applied.map_or(0, |applied| applied.index);
        self.synced.send_if_modified(|synced| {
            let further = index > *synced;
            *synced = index.max(*synced);
            further
        });
    }

    /// Up to which index the engine is known to be durable.
    pub fn synced_signal(&self) -> signal::Receiver<u64> {
        self.synced.subscribe()
    }

    /// Applies entries that follow each other.
    pub async fn apply(&self, entries: Vec<Entry>) -> Result<(), Broken> {
        let mut entries = entries.into_iter();
        while entries.len() > 0 {
            self.store.room().await;
            self.apply_some(&mut entries)?;
        }
        Ok(())
    }

    /// Applies entries that follow each other, as many as one look at the state may take, and answers who waits for them.
    fn apply_some(&self, entries: &mut std::vec::IntoIter<Entry>) -> Result<(), Broken> {
        let env = &self.env;
        let (begun, mut count, mut commands) = (env.now(), 0, 0);
        let mut batches = Vec::new();
        let last = {
            let mut inner = self.inner.write();
            let Inner {
                state,
                engine,
                applied_state,
                is_torn,
            } = &mut *inner;
            // Until all of it is handed to the engine.
            *is_torn = true;
            let compacted = state.compact_revision();
            let mut pending = Pending::new(&**engine);
            let mut members_changed = false;
            while pending.keys() + commands < limits::APPLY_CHUNK_CHANGES
                && let Some(entry) = entries.next()
            {
                count += 1;
                applied_state.applied = Some(entry.log_id);
                let at = position(&entry.log_id);
                match entry.payload {
                    Payload::Blank => state.advance(at, &mut pending),
                    Payload::Membership(membership) => {
                        let nodes = membership.nodes();
                        state.found(nodes.map(|(&id, peer)| (id, peer.peer_urls.clone())));
                        applied_state.set_membership(stored(entry.log_id, membership));
                        state.advance(at, &mut pending);
                        members_changed = true;
                    }
                    Payload::Normal(batch) => {
                        commands += batch.len();
                        check_level(|| format!("entry {}", at.index), batch.level(), self.level)?;
                        let name = batch.name();
                        let decoded = self.proposals.take_decoded(name);
                        let effects = apply_batch(env, state, at, &batch, &mut pending, decoded)?;
                        batches.push((name, effects));
                    }
                }
            }
            check_level(|| "the cluster".into(), state.level(), self.level)?;
            state.seal(&mut pending);
            let mut changes = pending.into_batch();
            applied_state.store(&mut changes);
            engine.write(changes)?;
            *is_torn = false;
            keep_store(&mut batches, &**engine);
            if state.compact_revision() > compacted {
                self.follow_compactions(state);
            }
            let names = batches.iter().map(|(name, _)| *name);
            self.quota_gate
                .applied(term(&applied_state.applied), state.logical_bytes().0, names);
            for effect in batches.iter().flat_map(|(_, effects)| effects) {
                self.observe(state, effect);
                members_changed |= is_about_members(&effect.request);
            }
            if members_changed {
                self.follow_members(&inner);
            }
            Applied::of(&inner)
        };
        self.tell_if_slow(begun, count);
        let outcomes = |effects: Vec<Effect>| effects.into_iter().map(|effect| effect.outcome);
        let batches = batches
            .into_iter()
            .map(|(name, effects)| (name, outcomes(effects)));
        let term = term(&last.log_id);
        self.applied.send(last);
        self.proposals.applied(term, batches).send(&self.env);
        Ok(())
    }

    /// Tells watches, the lessor and the tokens what a command did.
    fn observe(&self, state: &State, effect: &Effect) {
        if matches!(effect.request, Request::MemberPromote(_)) {
            metrics::promoted(self.metrics(), &self.lessor, &effect.outcome);
        }
        let Ok(_) = &effect.outcome.answer else { return };
        if !effect.outcome.events.is_empty() {
            self.observer
                .applied(effect.outcome.revision, &effect.outcome.events);
        }
        match &effect.request {
            Request::LeaseGrant(request) => self.lessor.granted(request.id, request.ttl),
            Request::LeaseRevoke(request) => self.lessor.revoked(request.id),
            Request::LeaseCheckpoint(request) => {
                for checkpoint in &request.checkpoints {
                    self.lessor.checkpointed(checkpoint.id, checkpoint.remaining_ttl);
                }
            }
            Request::Compaction(_) => self.observer.compacted(state.compact_revision()),
            Request::AuthDisable(_) => self.tokens.forget_all(),
            Request::AuthUserDelete(request) => self.tokens.forget_user(&request.name),
            Request::AuthUserChangePassword(request) => self.tokens.forget_user(&request.name),
            Request::Authenticate(request) => {
                if let Ok(Answer::Authenticate { index, .. }) = effect.outcome.answer
                    && !request.token_prefix.is_empty()
                {
                    let token = simple_token(&request.token_prefix, index);
                    self.tokens.assign(token, request.name.clone());
                }
            }
            _ => {}
        }
    }

    /// A received store takes the place of this one. It says of itself that it stands at `announced`.
    pub async fn replace(&self, engine: Arc<dyn Engine>, announced: Option<LogId>) -> Result<(), Broken> {
        // It reads the whole store.
        let level = self.level;
        let fresh = self.env.run_blocking(move || Inner::open(engine, level)).await?;
        if fresh.applied_state.applied != announced {
            return Err(Broken::contradiction(format!(
                "installed snapshot stands at {:?}, announced was {announced:?}",
                fresh.applied_state.applied
            )));
        }
        let applied = fresh.applied_state.applied;
        self.note_synced(applied);
        let fresh = {
            let mut inner = self.inner.write();
            let old = std::mem::replace(&mut *inner, fresh);
            drop(self.env.run_blocking(move || drop(old)));
            self.compactions.forget_all();
            self.follow_compactions(&inner.state);
            self.lessor.replaced(inner.leases());
            self.follow_members(&inner);
            self.quota_gate
                .applied(term(&applied), inner.state.logical_bytes().0, std::iter::empty());
            self.observer.installed(inner.state.revision());
            Applied::of(&inner)
        };
        self.applied.send(fresh);
        self.proposals.installed(term(&applied));
        Ok(())
    }

    /// The state as it stands: the membership and log id, and a consistent view of the engine.
    pub fn view(&self) -> (SnapshotMeta, Box<dyn View>) {
        let inner = self.inner.read();
        let meta = SnapshotMeta {
            last_log_id: inner.applied_state.applied,
            last_membership: inner.applied_state.membership().clone(),
        };
        (meta, inner.engine.view())
    }
}

impl Inner {
    fn open(engine: Arc<dyn Engine>, level: Level) -> Result<Inner, Broken> {
        let applied_state = AppliedState::stored(&*engine)?;
        let cache_bytes = buggify::limit(Site::ValueCacheTiny, limits::VALUE_CACHE_BYTES, 1_000);
        let mut state = State::open_with_cache(&*engine, cache_bytes)?;
        check_level(|| "the cluster".into(), state.level(), level)?;
        engine.discard(state.dead_records());
        Ok(Inner {
            state,
            engine,
            applied_state,
            is_torn: false,
        })
    }

    /// Every lease and its time.
    fn leases(&self) -> BTreeMap<LeaseId, Ttl> {
        let ttl = |(id, lease): (LeaseId, &Lease)| {
            let ttl = Ttl {
                granted: lease.ttl,
                remaining: lease.remaining_ttl,
            };
            (id, ttl)
        };
        self.state.leases().map(ttl).collect()
    }
}

fn term(applied: &Option<LogId>) -> u64 {
    applied.map_or(0, |applied| applied.leader_id.term)
}

fn stored(
    log_id: LogId,
    membership: Membership<u64, crate::consensus::raft::types::Peer>,
) -> StoredMembership {
    StoredMembership::new(Some(log_id), membership)
}
