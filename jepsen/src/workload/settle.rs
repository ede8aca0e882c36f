//! The quiet end of a run: with all faults healed the cluster must serve fresh writes and reads
//! through every member, catch up, and say what it holds.
//!
//! Liveness is a phase, not an assertion: what is not reached within the time allowed is an error
//! here, and what the members hold is judged by [`crate::durability`].

use std::time::Duration;

use quorate::proto::etcdserverpb as pb;
use quorate::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate::runtime::{Env, Instant};

use super::{Clock, Connection, User, call};
use crate::history::{Answer, Nanos, Outcome, Recorder, Request};
use crate::property::{Property, Violation};

/// What a member says of a revision that it has forgotten.
const COMPACTED: &str = "required revision has been compacted";

/// How long the quiet end may take, and who asks.
#[derive(Clone, Debug)]
pub struct SettleOptions {
    /// The client number under which the last operations are recorded.
    pub client: u32,
    pub user: Option<User>,
    /// The members' client addresses ("host:port"), by member number.
    pub addresses: Vec<String>,
    /// Time for everything together.
    pub timeout: Duration,
    pub call_timeout: Duration,
}

/// Writes and reads through every member, waits until all members have reached the last revision, and
/// records what each holds. Returns that revision, or which sort of liveness did not come about in time.
pub async fn settle(
    env: &Env,
    clock: &Clock,
    recorder: &Recorder,
    options: &SettleOptions,
) -> Result<i64, Box<Violation>> {
    let deadline = env.now() + options.timeout;
    let settling = Settling {
        env,
        clock,
        recorder,
        options,
        deadline,
    };
    for member in 0..options.addresses.len() {
        let key = format!("settle/{member}");
        let put = pb::PutRequest {
            key: key.into(),
            ..Default::default()
        };
        settling
            .until_ok(member, put.into(), Property::ServesWrites)
            .await?;
    }
    loop {
        let mut revision = 0;
        for member in 0..options.addresses.len() {
            let answer = settling
                .until_ok(member, everything(false).into(), Property::ServesReads)
                .await?;
            revision = revision.max(answer.revision());
        }
        // A member that compacts by itself may forget the revision before all were asked: then another one.
        if let Some(states) = settling.final_states(revision).await? {
            for FinalState {
                member,
                at,
                range,
                hash_kv,
            } in states
            {
                recorder.final_state(member, at, revision, range, hash_kv, None);
            }
            return Ok(revision);
        }
    }
}

/// What a member holds at the last revision.
struct FinalState {
    member: u32,
    at: Nanos,
    range: pb::RangeResponse,
    hash_kv: Option<pb::HashKvResponse>,
}

fn revision_of(range: &pb::RangeResponse) -> i64 {
    range.header.as_ref().map_or(0, |header| header.revision)
}

fn everything(serializable: bool) -> pb::RangeRequest {
    pb::RangeRequest {
        key: b"\0".as_slice().into(),
        range_end: b"\0".as_slice().into(),
        serializable,
        ..Default::default()
    }
}

struct Settling<'a> {
    env: &'a Env,
    clock: &'a Clock,
    recorder: &'a Recorder,
    options: &'a SettleOptions,
    deadline: Instant,
}

impl Settling<'_> {
    async fn connect(&self, member: usize) -> Option<Connection> {
        let address = &self.options.addresses[member];
        let (timeout, user) = (self.options.call_timeout, self.options.user.as_ref());
        let connected = Connection::open(self.env, address, timeout, user).await;
        if connected.is_none() {
            self.env.sleep(Duration::from_millis(100)).await;
        }
        connected
    }

    fn late(&self, property: Property, member: usize, what: &str) -> Result<(), Box<Violation>> {
        if self.env.now() < self.deadline {
            return Ok(());
        }
        let text = format!(
            "member {member}: {what} was not possible within {:?} after all faults were healed",
            self.options.timeout
        );
        Err(Box::new(Violation::of_operations(property, [], text)))
    }

    /// Repeats `request` at a member until it is answered. Every attempt is an operation of its own,
    /// with a value of its own.
    async fn until_ok(
        &self,
        member: usize,
        request: Request,
        property: Property,
    ) -> Result<Answer, Box<Violation>> {
        let mut attempt = 0;
        loop {
            self.late(property, member, &format!("\"{request}\""))?;
            let Some(connection) = self.connect(member).await else {
                continue;
            };
            let mut request = request.clone();
            if let Request::Put(put) = &mut request {
                attempt += 1;
                put.value = format!("settled-{member}-{attempt}").into();
            }
            let now = self.clock.now();
            let id = self
                .recorder
                .invoke(self.options.client, member as u32, now, request.clone());
            let outcome = call(self.env, &connection, &request, self.options.call_timeout).await;
            self.recorder.complete(id, self.clock.now(), outcome.clone());
            if let Outcome::Ok(answer) = outcome {
                return Ok(answer);
            }
            self.env.sleep(Duration::from_millis(100)).await;
        }
    }

    /// What all members hold at a revision; `None` if one of them has compacted it.
    async fn final_states(&self, revision: i64) -> Result<Option<Vec<FinalState>>, Box<Violation>> {
        let mut states = Vec::new();
        for member in 0..self.options.addresses.len() {
            match self.final_state(member, revision).await? {
                Some(state) => states.push(state),
                None => return Ok(None),
            }
        }
        Ok(Some(states))
    }

    async fn final_state(&self, member: usize, revision: i64) -> Result<Option<FinalState>, Box<Violation>> {
        loop {
            let what = format!("reaching revision {revision}");
            self.late(Property::Convergence, member, &what)?;
            let Some(connection) = self.connect(member).await else {
                continue;
            };
            // At that revision, not now: a lease may end between one member and the next.
            let request = pb::RangeRequest {
                revision,
                ..everything(true)
            };
            let request = request.into();
            match call(self.env, &connection, &request, self.options.call_timeout).await {
                Outcome::Ok(Answer::Range(range)) if revision_of(&range) >= revision => {
                    let hash_kv = self.hash_kv(&connection, revision).await;
                    return Ok(Some(FinalState {
                        member: member as u32,
                        at: self.clock.now(),
                        range,
                        hash_kv,
                    }));
                }
                Outcome::Denied { text, .. } if text.contains(COMPACTED) => return Ok(None),
                _ => self.env.sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// The member's hash of all history up to `revision`; `None` where it is not offered.
    async fn hash_kv(&self, connection: &Connection, revision: i64) -> Option<pb::HashKvResponse> {
        let mut client = MaintenanceClient::new(connection.calls());
        let request = pb::HashKvRequest { revision };
        let hashing = client.hash_kv(request);
        let answered = self.env.timeout(self.options.call_timeout, hashing).await.ok()?;
        answered.ok().map(tonic::Response::into_inner)
    }
}
