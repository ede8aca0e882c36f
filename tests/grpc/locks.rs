//! Locks and elections over the wire.

use std::time::Duration;

use quorate::client::Channel;
use quorate::proto::etcdserverpb::{self as pb, lease_client::LeaseClient};
use quorate::proto::v3electionpb::{
    CampaignRequest, LeaderRequest, ProclaimRequest, ResignRequest, election_client::ElectionClient,
};
use quorate::proto::v3lockpb::{LockRequest, UnlockRequest, lock_client::LockClient};
use quorate::runtime::Task;
use tonic::Code;

use crate::{Member, PATIENCE, range, refusal, with_member};

async fn grant(member: &Member, id: i64) {
    let mut lease = LeaseClient::new(member.channel().await);
    lease
        .lease_grant(pb::LeaseGrantRequest { ttl: 60, id })
        .await
        .unwrap();
}

async fn revoke(member: &Member, id: i64) {
    let mut lease = LeaseClient::new(member.channel().await);
    lease.lease_revoke(pb::LeaseRevokeRequest { id }).await.unwrap();
}

fn lock_request(lease: i64) -> LockRequest {
    LockRequest {
        name: "mutex".into(),
        lease,
    }
}

/// Waits until as many keys stand under a prefix.
async fn contenders(member: &Member, prefix: &str, end: &str, count: i64) {
    let mut kv = member.kv().await;
    while kv.range(range(prefix, end)).await.unwrap().into_inner().count != count {
        member.env.sleep(std::time::Duration::from_millis(2)).await;
    }
}

/// Nothing tells that a call will wait on; a moment without its answer has to do.
async fn still_waits<T>(member: &Member, task: &mut Task<T>) {
    let moment = Duration::from_millis(50);
    assert!(member.env.timeout(moment, task).await.is_err());
}

#[test]
fn a_lock_goes_to_one_after_the_other_in_order() {
    with_member(|member| async move {
        for id in [1, 2, 3] {
            grant(&member, id).await;
        }
        let channel: Channel = member.channel().await;
        let mut client = LockClient::new(channel.clone());
        let first = client.lock(lock_request(1)).await.unwrap().into_inner();
        assert_eq!(first.key, "mutex/1");
        let again = client.lock(lock_request(1)).await.unwrap().into_inner();
        assert_eq!(again.key, "mutex/1", "the same lease holds it already");
        let mut waiting = Vec::new();
        for id in [2, 3] {
            let mut client = LockClient::new(channel.clone());
            waiting.push(
                member
                    .env
                    .spawn(async move { client.lock(lock_request(id)).await }),
            );
            contenders(&member, "mutex/", "mutex0", id).await;
        }
        for task in &mut waiting {
            still_waits(&member, task).await;
        }
        client.unlock(UnlockRequest { key: first.key }).await.unwrap();
        let second = waiting.remove(0).await.unwrap().unwrap().into_inner();
        assert_eq!(second.key, "mutex/2");
        still_waits(&member, &mut waiting[0]).await;
        revoke(&member, 2).await;
        let third = waiting.remove(0).await.unwrap().unwrap().into_inner();
        assert_eq!(third.key, "mutex/3");
    });
}

#[test]
fn who_stops_waiting_leaves_no_key() {
    with_member(|member| async move {
        grant(&member, 1).await;
        grant(&member, 2).await;
        let channel = member.channel().await;
        let mut client = LockClient::new(channel.clone());
        client.lock(lock_request(1)).await.unwrap();
        let mut other = LockClient::new(channel);
        let waiting = member.env.spawn(async move { other.lock(lock_request(2)).await });
        contenders(&member, "mutex/", "mutex0", 2).await;
        waiting.abort();
        contenders(&member, "mutex/", "mutex0", 1).await;
    });
}

#[test]
fn a_lock_needs_a_lease_that_lives() {
    with_member(|member| async move {
        let mut client = LockClient::new(member.channel().await);
        let not_found = (Code::Unknown, "etcdserver: requested lease not found".to_owned());
        assert_eq!(refusal(client.lock(lock_request(99)).await), not_found);
        let own = client.lock(lock_request(0)).await.unwrap().into_inner();
        let mut lease = LeaseClient::new(member.channel().await);
        let leases = lease
            .lease_leases(pb::LeaseLeasesRequest {})
            .await
            .unwrap()
            .into_inner()
            .leases;
        let [granted] = leases.as_slice() else {
            panic!("one lease: {leases:?}");
        };
        assert_eq!(own.key, format!("mutex/{:x}", granted.id));
        // The session of who waits ends meanwhile.
        grant(&member, 2).await;
        let mut other = LockClient::new(member.channel().await);
        let waiting = member.env.spawn(async move { other.lock(lock_request(2)).await });
        contenders(&member, "mutex/", "mutex0", 2).await;
        revoke(&member, 2).await;
        client.unlock(UnlockRequest { key: own.key }).await.unwrap();
        let expired = (Code::Unknown, "mutex: session is expired".to_owned());
        assert_eq!(refusal(waiting.await.unwrap()), expired);
    });
}

fn candidate(lease: i64, value: &str) -> CampaignRequest {
    CampaignRequest {
        name: "seat".into(),
        lease,
        value: value.to_owned().into(),
    }
}

#[test]
fn an_election_has_one_leader_whose_values_are_observed() {
    with_member(|member| async move {
        grant(&member, 1).await;
        grant(&member, 2).await;
        let channel = member.channel().await;
        let mut client = ElectionClient::new(channel.clone());
        let asked = LeaderRequest { name: "seat".into() };
        let nobody = (Code::Unknown, "election: no leader".to_owned());
        assert_eq!(refusal(client.leader(asked.clone()).await), nobody);
        let mut observed = client.observe(asked.clone()).await.unwrap().into_inner();
        let mut next = async || {
            let next = member.env.timeout(PATIENCE, observed.message()).await;
            next.expect("in time").unwrap().unwrap().kv.unwrap().value
        };
        let won = client.campaign(candidate(1, "one")).await.unwrap().into_inner();
        let leader = won.leader.unwrap();
        assert_eq!((leader.key.as_ref(), leader.lease), (&b"seat/1"[..], 1));
        assert_eq!(next().await, "one");
        let proclaim = ProclaimRequest {
            leader: Some(leader.clone()),
            value: "uno".into(),
        };
        client.proclaim(proclaim.clone()).await.unwrap();
        assert_eq!(next().await, "uno");
        let mut other = ElectionClient::new(channel);
        let waiting = member
            .env
            .spawn(async move { other.campaign(candidate(2, "two")).await });
        contenders(&member, "seat/", "seat0", 2).await;
        let now = client.leader(asked).await.unwrap().into_inner();
        assert_eq!(now.kv.unwrap().value, "uno");
        client
            .resign(ResignRequest { leader: Some(leader) })
            .await
            .unwrap();
        let second = waiting.await.unwrap().unwrap().into_inner();
        assert_eq!(second.leader.unwrap().key, "seat/2");
        assert_eq!(next().await, "two");
        let not_leader = (Code::Unknown, "election: not leader".to_owned());
        assert_eq!(refusal(client.proclaim(proclaim).await), not_leader);
        let missing = (Code::Unknown, "\"leader\" field must be provided".to_owned());
        assert_eq!(refusal(client.resign(ResignRequest::default()).await), missing);
    });
}
