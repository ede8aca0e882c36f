//! The operator of a cluster with a small quota: when the alarm for lack of space is on, makes space and switches it off.
//!
//! ```text
//!   ask (through raft) ─► alarm seen ─► a while in which nothing may grow ─► compact ─► disarm
//! ```

use std::time::Duration;

use quorate::proto::etcdserverpb as pb;
use quorate::proto::etcdserverpb::alarm_request::AlarmAction;
use quorate::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate::runtime::Env;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Clock, Connection, Stop, User, call};
use crate::history::{ABANDONED_CALL_MAX, Nanos, Outcome, Recorder, Request};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(400);
/// Longest time for which an alarm is left on.
const LEFT_ON_MILLIS_MAX: u64 = 3_000;

#[derive(Clone)]
pub struct OperatorOptions {
    pub seed: u64,
    pub client: u32,
    pub user: Option<User>,
    /// The members' client addresses ("host:port"), by member number.
    pub addresses: Vec<String>,
    pub call_timeout: Duration,
}

/// Works until the watches end: the quiet end needs space, too.
pub async fn run_operator(env: Env, clock: Clock, recorder: Recorder, options: OperatorOptions, stop: Stop) {
    let mut operator = Operator {
        rng: ChaCha8Rng::seed_from_u64(options.seed ^ 0x4f50_4552_4154),
        env,
        clock,
        recorder,
        options,
        unsure_until: 0,
    };
    while stop.watches_due().is_none() && !stop.watches_stopped() {
        operator.env.sleep(LOOK_EVERY).await;
        let _ = operator.look(&stop).await;
    }
}

struct Operator {
    env: Env,
    clock: Clock,
    recorder: Recorder,
    options: OperatorOptions,
    rng: ChaCha8Rng,
    /// Until then an attempt of unknown outcome may still switch an alarm off.
    unsure_until: Nanos,
}

impl Operator {
    async fn look(&mut self, stop: &Stop) -> Option<()> {
        let member = self.rng.random_range(0..self.options.addresses.len());
        let address = self.options.addresses[member].clone();
        let (timeout, user) = (self.options.call_timeout, self.options.user.clone());
        let connection = Connection::open(&self.env, &address, timeout, user.as_ref()).await?;
        let alarms = self.ask(&connection, AlarmAction::Get, 0).await?;
        if alarms.is_empty() {
            return None;
        }
        let now = self.clock.now();
        let record = (self.unsure_until < now).then(|| self.recorder.alarm(now));
        if !stop.clients_stopped() {
            let left_on = self.rng.random_range(0..LEFT_ON_MILLIS_MAX);
            self.env.sleep(Duration::from_millis(left_on)).await;
        }
        let space = self.make_space(&connection, member).await;
        if let Some(record) = record {
            self.recorder.disarm(record, self.clock.now());
        }
        space?;
        for alarm in alarms {
            let disarmed = self
                .ask(&connection, AlarmAction::Deactivate, alarm.member_id)
                .await;
            if disarmed.is_none() {
                self.unsure_until = self.clock.now() + ABANDONED_CALL_MAX;
                return None;
            }
        }
        Some(())
    }

    async fn ask(
        &self,
        connection: &Connection,
        action: AlarmAction,
        member_id: u64,
    ) -> Option<Vec<pb::AlarmMember>> {
        let request = pb::AlarmRequest {
            action: action as i32,
            member_id,
            alarm: pb::AlarmType::Nospace as i32,
        };
        let mut client = MaintenanceClient::new(connection.calls());
        let asked = self.env.timeout(self.options.call_timeout, client.alarm(request));
        Some(asked.await.ok()?.ok()?.into_inner().alarms)
    }

    /// Forgets all history.
    async fn make_space(&self, connection: &Connection, member: usize) -> Option<()> {
        let newest = pb::RangeRequest {
            key: b"k".as_slice().into(),
            ..Default::default()
        };
        let revision = self.record(connection, member, newest.into()).await?;
        // Or the alarm could be disarmed before there is space again.
        let compaction = pb::CompactionRequest {
            revision,
            physical: true,
        };
        // Refused if it is compacted there already.
        self.record(connection, member, compaction.into()).await;
        Some(())
    }

    /// A call that is part of the history; the revision of its answer.
    async fn record(&self, connection: &Connection, member: usize, request: Request) -> Option<i64> {
        let id = self.recorder.invoke(
            self.options.client,
            member as u32,
            self.clock.now(),
            request.clone(),
        );
        let outcome = call(&self.env, connection, &request, self.options.call_timeout).await;
        self.recorder.complete(id, self.clock.now(), outcome.clone());
        match outcome {
            Outcome::Ok(answer) => Some(answer.revision()),
            _ => None,
        }
    }
}
