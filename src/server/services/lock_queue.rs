//! What locks and elections are made of: keys under a prefix, each attached to its contender's lease, in the order in
//! which they were created. Who has the oldest key has won; the others wait for older keys to go.
//!
//! ```text
//!   name/<lease a>  create 7   ◄── the winner
//!   name/<lease b>  create 9   waits for the deletion of the key before its own
//! ```
//!
//! etcd serves these calls through a client of its own, whose errors travel with the code Unknown; and so here.

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tonic::Status;

use crate::base::{Denied, LeaseId, Revision};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::{request_op, response_op, watch_request::RequestUnion};
use crate::proto::mvccpb::KeyValue;
use crate::server::api::Api;
use crate::server::auth::Caller;

/// Life of the lease that a contender gets who brings none; in seconds.
const SESSION_TTL_SECONDS: i64 = 60;

/// The prefix of everyone who contends for a name.
pub fn prefix(name: &[u8]) -> Vec<u8> {
    [name, b"/"].concat()
}

/// The key of a contender.
pub fn key(prefix: &[u8], lease: LeaseId) -> Vec<u8> {
    let sign = if lease < 0 { "-" } else { "" };
    let lease = format!("{sign}{:x}", lease.unsigned_abs());
    [prefix, lease.as_bytes()].concat()
}

/// The end of the keys with a prefix.
fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

fn by_creation(prefix: &[u8], order: SortOrder, max_create_revision: Revision) -> pb::RangeRequest {
    pb::RangeRequest {
        key: prefix.to_vec().into(),
        range_end: end_of(prefix).into(),
        sort_order: order.into(),
        sort_target: SortTarget::Create.into(),
        limit: 1,
        max_create_revision,
        ..Default::default()
    }
}

/// The oldest key.
pub fn oldest(prefix: &[u8]) -> pb::RangeRequest {
    by_creation(prefix, SortOrder::Ascend, 0)
}

pub fn get(key: &[u8]) -> pb::RangeRequest {
    pb::RangeRequest {
        key: key.to_vec().into(),
        ..Default::default()
    }
}

pub fn range_op(request: pb::RangeRequest) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(request_op::Request::RequestRange(request)),
    }
}

pub fn put_op(key: &[u8], value: &[u8], lease: LeaseId) -> pb::RequestOp {
    let put = pb::PutRequest {
        key: key.to_vec().into(),
        value: value.to_vec().into(),
        lease,
        ..Default::default()
    };
    pb::RequestOp {
        request: Some(request_op::Request::RequestPut(put)),
    }
}

pub fn delete_op(key: &[u8]) -> pb::RequestOp {
    let delete = pb::DeleteRangeRequest {
        key: key.to_vec().into(),
        ..Default::default()
    };
    pb::RequestOp {
        request: Some(request_op::Request::RequestDeleteRange(delete)),
    }
}

/// "The life of this key began at this revision"; 0: it does not exist.
pub fn created_at(key: &[u8], revision: Revision) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.to_vec().into(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Default::default()
    }
}

/// The first pair that the range at this place of a transaction found.
pub fn found(response: &pb::TxnResponse, place: usize) -> Option<&KeyValue> {
    match &response.responses.get(place)?.response {
        Some(response_op::Response::ResponseRange(range)) => range.kvs.first(),
        _ => None,
    }
}

pub fn revision(header: &Option<pb::ResponseHeader>) -> Revision {
    header.as_ref().map_or(0, |header| header.revision)
}

/// A key whose contender may give up while it waits: then the key is taken away, or all behind it would wait for
/// somebody who is gone.
pub struct Claim {
    api: super::kv::Shared,
    caller: Caller,
    key: Vec<u8>,
    created: Revision,
    kept: bool,
}

impl Claim {
    pub fn new(api: &Api, caller: &Caller, key: &[u8], created: Revision) -> Claim {
        Claim {
            api: api.shared(),
            caller: caller.clone(),
            key: key.to_vec(),
            created,
            kept: false,
        }
    }

    /// The contender has won, or its key is its own affair.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let withdraw = pb::TxnRequest {
            compare: vec![created_at(&self.key, self.created)],
            success: vec![delete_op(&self.key)],
            ..Default::default()
        };
        let (api, caller) = (self.api.clone(), self.caller.clone());
        let env = api.env.clone();
        env.spawn_detached(async move {
            if let Err(error) = api.txn(withdraw, caller).await {
                tracing::warn!(%error, "a contender's key stays until its lease ends");
            }
        });
    }
}

impl Api {
    /// The lease of a contender; a new one if it brings none.
    pub async fn contender_lease(&self, lease: LeaseId, caller: &Caller) -> Result<LeaseId, Denied> {
        if lease != 0 {
            return Ok(lease);
        }
        let grant = pb::LeaseGrantRequest {
            ttl: SESSION_TTL_SECONDS,
            id: 0,
        };
        Ok(self.lease_grant(grant, caller.clone()).await?.id)
    }

    /// Waits until every key of the prefix that was created before `created` is gone.
    pub async fn wait_for_older(
        &self,
        prefix: &[u8],
        created: Revision,
        caller: &Caller,
    ) -> Result<(), Denied> {
        loop {
            let before = by_creation(prefix, SortOrder::Descend, created - 1);
            let response = self.range(before, caller.clone()).await?;
            let Some(last) = response.kvs.first() else {
                return Ok(());
            };
            self.wait_for_deletion(&last.key, revision(&response.header), caller)
                .await?;
        }
    }

    async fn wait_for_deletion(&self, key: &[u8], from: Revision, caller: &Caller) -> Result<(), Denied> {
        let mut watch = self.watch_from(key, &[], from, caller);
        while let Some(response) = watch.next().await {
            let response = response.map_err(|_| Denied::LostWatcher)?;
            if response.events.iter().any(is_deletion) {
                return Ok(());
            }
            if response.canceled {
                return Err(watch_refused(&response));
            }
        }
        Err(Denied::LostWatcher)
    }

    /// What happens to keys from a revision on.
    pub fn watch_from(
        &self,
        key: &[u8],
        range_end: &[u8],
        start_revision: Revision,
        caller: &Caller,
    ) -> BoxStream<'static, Result<pb::WatchResponse, Status>> {
        let create = pb::WatchCreateRequest {
            key: key.to_vec().into(),
            range_end: range_end.to_vec().into(),
            start_revision,
            ..Default::default()
        };
        let request = pb::WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        self.watch_stream(stream::iter([Ok(request)]), caller.clone())
    }

    /// What happens to the keys of a prefix.
    pub fn watch_prefix(
        &self,
        prefix: &[u8],
        from: Revision,
        caller: &Caller,
    ) -> BoxStream<'static, Result<pb::WatchResponse, Status>> {
        self.watch_from(prefix, &end_of(prefix), from, caller)
    }
}

pub fn is_deletion(event: &crate::proto::mvccpb::Event) -> bool {
    event.r#type() == crate::proto::mvccpb::event::EventType::Delete
}

/// Why a watch ended, as far as there is a text of ours for it.
pub fn watch_refused(response: &pb::WatchResponse) -> Denied {
    if response.compact_revision > 0 {
        Denied::Compacted
    } else if response.cancel_reason.contains(Denied::PermissionDenied.text()) {
        Denied::PermissionDenied
    } else {
        Denied::LostWatcher
    }
}

#[cfg(test)]
mod tests;
