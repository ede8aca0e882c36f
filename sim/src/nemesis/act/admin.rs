//! What administrators do at a bad moment.

use std::time::Duration;

use quorate::proto::etcdserverpb as pb;
use quorate::proto::etcdserverpb::cluster_client::ClusterClient;
use quorate::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_jepsen::workload::{Calls, Connection};

use super::Blow;
use crate::cluster::{name, peer_url};
use crate::world::Kill;

/// How long one member is asked to change the membership.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
const ASK_PAUSE: Duration = Duration::from_millis(200);

/// Steps of a replacement.
#[derive(Clone, Copy)]
enum Step {
    Remove,
    Add { as_learner: bool },
    Promote,
}

impl Step {
    /// Whether the step is done: an answer that was lost shows at the next attempt.
    async fn attempt(self, mut client: ClusterClient<Calls>, url: &str) -> Result<bool, tonic::Status> {
        let member = find(&mut client, url).await?;
        match (self, member) {
            (Step::Remove, Some(old)) => {
                let request = pb::MemberRemoveRequest { id: old.id };
                client.member_remove(request).await.map(|_| false)
            }
            (Step::Add { as_learner }, None) => {
                let request = pb::MemberAddRequest {
                    peer_ur_ls: vec![url.to_owned()],
                    is_learner: as_learner,
                };
                client.member_add(request).await.map(|_| true)
            }
            (Step::Promote, Some(new)) if new.is_learner => {
                let request = pb::MemberPromoteRequest { id: new.id };
                client.member_promote(request).await.map(|_| true)
            }
            _ => Ok(true),
        }
    }
}

/// The member with this peer URL, if the cluster has one.
async fn find(client: &mut ClusterClient<Calls>, url: &str) -> Result<Option<pb::Member>, tonic::Status> {
    let request = pb::MemberListRequest { linearizable: true };
    let members = client.member_list(request).await?.into_inner().members;
    Ok(members
        .into_iter()
        .find(|member| member.peer_ur_ls.iter().any(|known| known == url)))
}

impl Blow<'_> {
    async fn connect(&self, address: &str, timeout: Duration) -> Option<Connection> {
        let user = self.cluster.plan().user();
        Connection::open(&self.env, address, timeout, user.as_ref()).await
    }

    /// The administrator's call, from a client's host.
    pub(super) async fn move_leader(&self, leader: usize) -> bool {
        let Some(to) = (1..self.cluster.len())
            .map(|step| (leader + step) % self.cluster.len())
            .nth((self.fault.choice % (self.cluster.len() as u64 - 1)) as usize)
        else {
            return false;
        };
        let Some(target) = self.cluster.probe(to) else {
            return false;
        };
        let address = &self.cluster.addresses()[leader];
        let timeout = Duration::from_secs(3);
        let Some(connection) = self.connect(address, timeout).await else {
            return false;
        };
        let request = pb::MoveLeaderRequest { target_id: target.id };
        let mut client = MaintenanceClient::new(connection.calls());
        let moved = self.env.timeout(timeout, client.move_leader(request)).await;
        let answer = match &moved {
            Ok(Ok(_)) => "done".to_owned(),
            Ok(Err(status)) => status.message().to_owned(),
            Err(elapsed) => elapsed.to_string(),
        };
        self.world
            .event("nemesis", format_args!("leadership to {}: {answer}", name(to)));
        matches!(moved, Ok(Ok(_)))
    }

    /// Removes a member that is gone, and adds a new one in its place: as a learner that is promoted, or as a voter.
    /// Whatever else fails meanwhile, it goes on until that is done.
    pub(super) async fn replace(&self, member: usize) -> bool {
        if !self.cluster.begin_replacement() {
            return false;
        }
        let as_learner = self.fault.choice & 2 == 2;
        let url = peer_url(member);
        self.cluster.hold_down(member, Kill::Power);
        self.until_done(Step::Remove, &url).await;
        self.until_done(Step::Add { as_learner }, &url).await;
        self.cluster.wipe(member);
        self.cluster.release(member);
        self.until_done(Step::Promote, &url).await;
        // Until it votes, the loss of another member can be the loss of the quorum.
        while !self.cluster.probe(member).is_some_and(|probe| probe.is_voter) {
            self.world.sleep(ASK_PAUSE).await;
        }
        self.cluster.end_replacement();
        true
    }

    /// Asks one member after the other, until the step is done.
    async fn until_done(&self, step: Step, url: &str) {
        let addresses = self.cluster.addresses();
        for address in addresses.iter().cycle() {
            if let Some(connection) = self.connect(address, ASK_TIMEOUT).await {
                let attempt = step.attempt(ClusterClient::new(connection.calls()), url);
                if let Ok(Ok(true)) = self.env.timeout(ASK_TIMEOUT, attempt).await {
                    return;
                }
            }
            self.world.sleep(ASK_PAUSE).await;
        }
    }
}
