//! The cluster's version: the lowest that a member brings, settled by the leader; and downgrades, by one minor version.
//! Rules and texts are those of etcd's `etcdserver/version`. In the same way the cluster's level rises, which is not
//! etcd's: see [`crate::base::level`].

use std::sync::Arc;
use std::time::Duration;

use semver::Version;

use crate::base::{Denied, MemberId};
use crate::consensus::{Consensus, Description};
use crate::proto::command::LevelRaiseCommand;
use crate::proto::command::command::Request as Command;
use crate::proto::etcdserverpb::{DowngradeRequest, DowngradeResponse, downgrade_request::DowngradeAction};
use crate::proto::membershippb::{ClusterVersionSetRequest, DowngradeInfoSetRequest};
use crate::server::VERSION;
use crate::server::api::{Api, mismatch};
use crate::server::auth::Caller;
use crate::state::{Answer, State};

/// A cluster of which not all is known yet.
const LOWEST: Version = Version::new(3, 0, 0);
/// How often the leader asks the others, as etcd.
const LOOK_INTERVAL: Duration = Duration::from_secs(4);
/// Pause before the leader looks again at a cluster without a version.
const SETTLE_RETRY: Duration = Duration::from_millis(100);

/// The version this release brings to a cluster: without the patch.
pub fn own() -> Version {
    minor_of(&parse(VERSION).expect("the release has a version"))
}

/// As in etcd, the patch may be missing.
fn parse(text: &str) -> Option<Version> {
    let whole = Version::parse(text).or_else(|_| Version::parse(&format!("{text}.0")));
    whole.ok()
}

fn minor_of(version: &Version) -> Version {
    Version::new(version.major, version.minor, 0)
}

/// What a member brings; `None`: it does not say.
fn version_of(member: &Option<Description>) -> Option<Version> {
    Some(minor_of(&parse(&member.as_ref()?.server_version)?))
}

/// Where a downgrade may lead from a version.
fn downgraded(version: &Version) -> Option<Version> {
    Some(Version::new(version.major, version.minor.checked_sub(1)?, 0))
}

/// What the leader makes of the cluster's version, given the lowest of all members; `None`: leave it.
fn decide(current: Option<&Version>, lowest: Option<Version>, target: Option<&Version>) -> Option<Version> {
    let Some(current) = current else {
        return Some(lowest.unwrap_or(LOWEST));
    };
    let lowest = lowest?;
    match target {
        Some(target) => {
            let leads_there = |from: &Version| downgraded(from).as_ref() == Some(target);
            (target != current && leads_there(current) && leads_there(&lowest)).then(|| target.clone())
        }
        None => (current < &lowest && current.major == lowest.major).then_some(lowest),
    }
}

/// The cluster's version, and where a downgrade leads that is under way.
fn decided(state: &State) -> (Option<Version>, Option<Version>) {
    let version = state.cluster_version().and_then(parse);
    (version, state.downgrade_target().and_then(parse))
}

/// # Errors
/// The cluster has outgrown this release.
pub async fn check_own(consensus: &Consensus) -> Result<(), String> {
    let (cluster, _) = consensus.read(decided).await;
    match cluster {
        Some(cluster) if own() < minor_of(&cluster) => Err(format!(
            "invalid downgrade; server version is lower than determined cluster version: this is {}, the cluster's \
             {cluster}",
            own()
        )),
        _ => Ok(()),
    }
}

/// Settles the cluster's version while this member leads.
pub async fn run(api: Arc<Api>) {
    let mut leadership = api.consensus.status_signal();
    loop {
        if api.leads() {
            let members = api.describe_members().await;
            api.settle_version(&members).await;
            api.settle_level(&members).await;
        }
        let is_known = |state: &State| state.cluster_version().is_some();
        let known = api.consensus.read(is_known).await;
        let pause = if known { LOOK_INTERVAL } else { SETTLE_RETRY };
        if let Ok(Err(_)) = api.env.timeout(pause, leadership.changed()).await {
            return;
        }
    }
}

/// Ends downgrades that every member has followed, while this member leads.
pub async fn run_downgrades(api: Arc<Api>, interval: Duration) {
    loop {
        api.env.sleep(interval).await;
        let (_, target) = api.consensus.read(decided).await;
        let Some(target) = target.filter(|_| api.leads()) else {
            continue;
        };
        let members = api.describe_members().await;
        if !members
            .iter()
            .all(|member| version_of(member) == Some(target.clone()))
        {
            continue;
        }
        tracing::info!("cluster-version" = %target, "the cluster has been downgraded");
        let cancelled = api.set_downgrade(&Caller::Member, None).await;
        if let Err(error) = cancelled {
            tracing::warn!(%error, "failed to cancel downgrade");
        }
    }
}

impl Api {
    pub fn leads(&self) -> bool {
        self.consensus.status().leader == Some(self.consensus.member_id())
    }

    /// What each member says of itself; `None`: it cannot be asked.
    async fn describe_members(&self) -> Vec<Option<Description>> {
        let own_id = self.consensus.member_id();
        let ask = |id: MemberId| async move {
            match id == own_id {
                true => Some(self.consensus.describe()),
                false => self.consensus.describe_peer(id).await,
            }
        };
        let ids = self.consensus.members().await.into_iter().map(|member| member.id);
        futures_util::future::join_all(ids.map(ask)).await
    }

    /// Raises the cluster's level to the lowest of all members', once all have told theirs.
    async fn settle_level(&self, members: &[Option<Description>]) {
        let level_of = |member: &Option<Description>| member.as_ref().map(|member| member.level);
        let Some(level) = members.iter().map(level_of).min().flatten() else {
            return;
        };
        if level <= self.consensus.read(State::level).await {
            return;
        }
        let request = LevelRaiseCommand {
            level: level.0.into(),
        };
        // By this leader or never: a later one knows of other members.
        let outcome = self
            .consensus
            .propose_as_leader(Command::LevelRaise(request))
            .await;
        match outcome.and_then(|outcome| outcome.answer) {
            Ok(_) => tracing::info!("cluster-level" = %level, "updated cluster level"),
            Err(error) => tracing::warn!(%error, "cannot raise the cluster's level yet"),
        }
    }

    async fn settle_version(&self, members: &[Option<Description>]) {
        if members.is_empty() {
            // The members are not known before the first entry is applied.
            return;
        }
        let lowest = members.iter().map(version_of).min().flatten();
        let (current, target) = self.consensus.read(decided).await;
        let Some(version) = decide(current.as_ref(), lowest, target.as_ref()) else {
            return;
        };
        let request = ClusterVersionSetRequest {
            ver: version.to_string(),
        };
        let outcome = self.consensus.propose(Command::ClusterVersionSet(request)).await;
        match outcome.and_then(|outcome| outcome.answer) {
            Ok(_) => tracing::info!("cluster-version" = %version, "updated cluster version"),
            Err(error) => tracing::warn!(%error, "cannot set the cluster's version yet"),
        }
    }

    pub async fn downgrade(
        &self,
        request: DowngradeRequest,
        caller: &Caller,
    ) -> Result<DowngradeResponse, Denied> {
        // An action that no release knows is not one of the three.
        let Ok(action) = DowngradeAction::try_from(request.action) else {
            return Err(Denied::UnknownMethod);
        };
        match action {
            DowngradeAction::Validate => {
                self.check_downgrade(&request.version).await?;
            }
            DowngradeAction::Enable => {
                let target = self.check_downgrade(&request.version).await?;
                self.set_downgrade(caller, Some(target)).await?;
            }
            DowngradeAction::Cancel => {
                self.consensus.read_barrier().await?;
                match self.consensus.read(decided).await.1 {
                    Some(_) => self.set_downgrade(caller, None).await?,
                    None => tracing::warn!("failed to cancel downgrade: {}", Denied::NoInflightDowngrade),
                }
            }
        }
        let (version, _) = self.consensus.read(decided).await;
        Ok(DowngradeResponse {
            header: Some(self.header_now()),
            version: version
                .map(|version| format!("{}.{}", version.major, version.minor))
                .unwrap_or_default(),
        })
    }

    async fn check_downgrade(&self, target: &str) -> Result<Version, Denied> {
        let target = parse(target).ok_or(Denied::WrongDowngradeVersionFormat)?;
        let target = minor_of(&target);
        self.consensus.read_barrier().await?;
        let (current, under_way) = self.consensus.read(decided).await;
        let current = current.ok_or(Denied::ClusterVersionUnavailable)?;
        if downgraded(&current).as_ref() != Some(&target) {
            return Err(Denied::InvalidDowngradeTarget);
        }
        match under_way {
            Some(_) => Err(Denied::DowngradeInProcess),
            None => Ok(target),
        }
    }

    async fn set_downgrade(&self, caller: &Caller, target: Option<Version>) -> Result<(), Denied> {
        let request = DowngradeInfoSetRequest {
            enabled: target.is_some(),
            ver: target.map(|target| target.to_string()).unwrap_or_default(),
        };
        match self.propose(caller, Command::DowngradeInfoSet(request)).await? {
            (Answer::Empty, _) => Ok(()),
            (other, _) => mismatch(&other),
        }
    }
}

#[cfg(test)]
mod tests;
