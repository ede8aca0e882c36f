//! Comparing hashes with the other members: at the start, now and then, and after compactions. Whoever differs is named by
//! a CORRUPT alarm, and no member writes from then on.
//!
//! The store's own checksums find damage on one disk; this finds members that have come to disagree. Rules and texts
//! are those of etcd's `corrupt.go`.

use std::sync::Arc;
use std::time::Duration;

use crate::base::MemberId;
use crate::consensus::{Consensus, PeerHash};
use crate::proto::command::command::Request;
use crate::proto::etcdserverpb::{AlarmRequest, AlarmType, alarm_request::AlarmAction};
use crate::runtime::buggify::{Site, buggify};
use crate::server::api::Api;
use crate::state::State;

/// What the others say; who does not answer is left out.
async fn peers<A>(consensus: &Consensus, ask: impl Fn(MemberId) -> A) -> Vec<(MemberId, PeerHash)>
where
    A: Future<Output = Option<PeerHash>>,
{
    let ids = consensus.members().await.into_iter().map(|member| member.id);
    let others = ids.filter(|id| *id != consensus.member_id());
    let asked = others.map(|id| {
        let answer = ask(id);
        async move { (id, answer.await) }
    });
    let answers = futures_util::future::join_all(asked).await;
    let answered = answers.into_iter().filter_map(|(id, answer)| Some((id, answer?)));
    answered.collect()
}

/// # Errors
/// Another member has other data at the same revision.
pub async fn check_initially(consensus: &Consensus) -> Result<(), String> {
    let own = consensus.member_id();
    tracing::info!(
        "local-member-id" = format!("{own:x}"),
        "starting initial corruption check"
    );
    let Ok(hash) = consensus.hash_now(0).await else {
        return Ok(());
    };
    let mut differing = 0;
    let ask = |peer| consensus.peer_hash(peer, hash.hash_revision);
    for (peer, answer) in peers(consensus, ask).await {
        let Some(theirs) = answer.hash else { continue };
        if theirs.compact_revision == hash.compact_revision && theirs.hash != hash.hash {
            differing += 1;
            tracing::warn!(
                "remote-peer-id" = format!("{peer:x}"),
                "local-member-revision" = hash.hash_revision,
                "local-member-hash" = hash.hash,
                "remote-peer-hash" = theirs.hash,
                "found different hash values from remote peer"
            );
        }
    }
    if differing > 0 {
        return Err(format!("{own:x} is corrupt: found data inconsistency with peers"));
    }
    tracing::info!(
        "local-member-id" = format!("{own:x}"),
        "initial corruption checking passed; no corruption"
    );
    Ok(())
}

/// The leader's regular check.
pub async fn run_periodic(api: Arc<Api>, interval: Duration) {
    loop {
        if !buggify(Site::CheckedAgain) {
            api.env.sleep(interval).await;
        }
        if api.leads() && api.check_now().await.is_none() {
            tracing::info!("a check for corruption was given up: the members could not be asked");
        }
    }
}

/// The leader's check of what was compacted.
pub async fn run_after_compactions(api: Arc<Api>, interval: Duration) {
    let mut checked = -1;
    loop {
        api.env.sleep(interval).await;
        let compacted = api.consensus.read(State::compact_revision).await;
        if compacted <= checked || !api.leads() {
            continue;
        }
        let Some(hash) = api.consensus.hash_of_compaction(compacted).await else {
            continue;
        };
        let ask = |peer| api.consensus.peer_compaction_hash(peer, compacted);
        let answers = peers(&api.consensus, ask).await;
        for (peer, answer) in &answers {
            let same_history = answer
                .hash
                .filter(|theirs| theirs.compact_revision == hash.compact_revision);
            if same_history.is_some_and(|theirs| theirs.hash != hash.hash) {
                api.raise_corrupt(*peer).await;
            }
        }
        checked = compacted;
    }
}

impl Api {
    /// `None`: no answer can be given now.
    async fn check_now(&self) -> Option<()> {
        let before = self.consensus.hash_now(0).await.ok()?;
        let ask = |peer| self.consensus.peer_hash(peer, before.hash_revision);
        let answers = peers(&self.consensus, ask).await;
        self.consensus.read_barrier().await.ok()?;
        let after = self.consensus.hash_now(before.hash_revision).await.ok()?;
        let now = self.consensus.read(State::revision).await;
        if after.compact_revision == before.compact_revision && after.hash != before.hash {
            self.raise_corrupt(self.consensus.member_id()).await;
        }
        for (peer, answer) in answers {
            let ahead = answer.revision > now;
            let differs = answer.hash.is_some_and(|theirs| {
                theirs.compact_revision > after.compact_revision
                    || theirs.compact_revision == before.compact_revision && theirs.hash != before.hash
            });
            if ahead || differs {
                self.raise_corrupt(peer).await;
            }
        }
        Some(())
    }

    async fn raise_corrupt(&self, member: MemberId) {
        tracing::error!(
            member = format!("{member:x}"),
            "found corruption: the member's data differ"
        );
        let request = AlarmRequest {
            action: AlarmAction::Activate.into(),
            member_id: member,
            alarm: AlarmType::Corrupt.into(),
        };
        if let Err(error) = self.consensus.propose(Request::Alarm(request)).await {
            tracing::warn!(%error, "the alarm could not be raised; the next check does it");
        }
    }
}
