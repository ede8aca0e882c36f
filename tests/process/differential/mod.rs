//! Generated sessions with this server and with a real etcd 3.7.1, answer by answer. Without an `etcd` on the PATH the test
//! says so and passes. `QUORATE_DIFFERENTIAL=100000 cargo test --release --test process differential` asks so often, and
//! `QUORATE_DIFFERENTIAL_SEED` chooses the sessions.
//!
//! What differs between any two servers (ids, terms, ports, tokens, what is left of a lease) is taken out of the answers;
//! what differs for a reason is listed in [`explained`].

mod shapes;

use std::fmt::Debug;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use quorate::proto::etcdserverpb as pb;
use quorate::runtime::Env;
use tonic::{Code, Request, Status};

use super::etcdctl::find_all;
use super::support::{Client, Cluster, PATIENCE, run};
use shapes::{ROLES, Shape, USERS};

const SESSION: usize = 100;
/// Requests unless [`REQUESTS_VARIABLE`] says otherwise.
const REQUESTS: usize = 3_000;
const REQUESTS_VARIABLE: &str = "QUORATE_DIFFERENTIAL";
const SEED_VARIABLE: &str = "QUORATE_DIFFERENTIAL_SEED";
/// Pause before a server is asked again for what comes a little later.
const AGAIN: Duration = Duration::from_millis(20);

/// So often a watch is asked for its progress in vain.
const SILENT_MAX: u32 = 10;

/// One of the two servers.
struct Side {
    client: Client,
    tokens: Vec<Option<String>>,
}

/// The header without what differs between any two clusters.
fn scrub(header: Option<pb::ResponseHeader>) -> Option<pb::ResponseHeader> {
    header.map(|header| pb::ResponseHeader {
        revision: header.revision,
        ..Default::default()
    })
}

fn refused(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

/// Calls a method and writes down the answer.
macro_rules! call {
    ($side:expr, $who:expr, $service:ident.$method:ident($request:expr)) => {
        call!($side, $who, $service.$method($request), |_answer| {})
    };
    ($side:expr, $who:expr, $service:ident.$method:ident($request:expr), $clean:expr) => {{
        let request = $side.request($who, $request);
        match $side.client.$service.$method(request).await {
            Ok(answer) => {
                let mut answer = answer.into_inner();
                answer.header = scrub(answer.header);
                clean(&mut answer, $clean);
                format!("{answer:?}")
            }
            Err(status) => refused(&status),
        }
    }};
}

/// Helps the compiler to see what a closure takes.
fn clean<T>(answer: &mut T, how: impl FnOnce(&mut T)) {
    how(answer);
}

fn clean_members(members: &mut [pb::Member]) {
    for member in members {
        *member = pb::Member {
            is_learner: member.is_learner,
            ..Default::default()
        };
    }
}

impl Side {
    fn request<T>(&self, who: shapes::As, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = who.and_then(|user| self.tokens[user].as_ref()) {
            let token = token.parse().expect("tokens are text");
            request.metadata_mut().insert("token", token);
        }
        request
    }

    async fn ask(&mut self, env: &Env, who: shapes::As, shape: Shape) -> String {
        let asked = self.answer(env, who, shape.clone());
        let answer = env.timeout(PATIENCE, asked).await;
        answer.unwrap_or_else(|_| format!("no answer to {shape:?}"))
    }

    async fn answer(&mut self, env: &Env, who: shapes::As, shape: Shape) -> String {
        match shape {
            Shape::Range(request) => call!(self, who, kv.range(request)),
            Shape::RangeStream(request) => self.range_stream(who, request).await,
            Shape::Put(request) => call!(self, who, kv.put(request)),
            Shape::Delete(request) => call!(self, who, kv.delete_range(request)),
            Shape::Txn(request) => call!(self, who, kv.txn(request)),
            Shape::Compact(request) => call!(self, who, kv.compact(request)),
            Shape::Watch(request) => self.watch(env, who, request).await,
            Shape::Grant(request) => call!(self, who, lease.lease_grant(request)),
            Shape::Revoke(request) => call!(self, who, lease.lease_revoke(request)),
            Shape::KeepAlive(request) => self.keep_alive(who, request).await,
            Shape::TimeToLive(request) => {
                call!(self, who, lease.lease_time_to_live(request), |answer| {
                    answer.ttl = answer.ttl.signum();
                    // etcd keeps them in a map.
                    answer.keys.sort();
                })
            }
            Shape::Leases => {
                call!(
                    self,
                    who,
                    lease.lease_leases(pb::LeaseLeasesRequest {}),
                    |answer| {
                        answer.leases.sort_by_key(|lease| lease.id);
                    }
                )
            }
            Shape::AuthStatus => call!(self, who, auth.auth_status(pb::AuthStatusRequest {})),
            Shape::AuthEnable => call!(self, who, auth.auth_enable(pb::AuthEnableRequest {})),
            Shape::AuthDisable => call!(self, who, auth.auth_disable(pb::AuthDisableRequest {})),
            Shape::Authenticate(request) => self.authenticate(request).await,
            Shape::UserAdd(request) => call!(self, who, auth.user_add(request)),
            Shape::UserDelete(request) => call!(self, who, auth.user_delete(request)),
            Shape::UserGet(request) => call!(self, who, auth.user_get(request)),
            Shape::UserList => call!(self, who, auth.user_list(pb::AuthUserListRequest {})),
            Shape::UserPassword(request) => call!(self, who, auth.user_change_password(request)),
            Shape::UserGrant(request) => call!(self, who, auth.user_grant_role(request)),
            Shape::UserRevoke(request) => call!(self, who, auth.user_revoke_role(request)),
            Shape::RoleAdd(request) => call!(self, who, auth.role_add(request)),
            Shape::RoleDelete(request) => call!(self, who, auth.role_delete(request)),
            Shape::RoleGet(request) => call!(self, who, auth.role_get(request)),
            Shape::RoleList => call!(self, who, auth.role_list(pb::AuthRoleListRequest {})),
            Shape::RoleGrant(request) => call!(self, who, auth.role_grant_permission(request)),
            Shape::RoleRevoke(request) => call!(self, who, auth.role_revoke_permission(request)),
            Shape::MemberList(request) => call!(self, who, cluster.member_list(request), |answer| {
                clean_members(&mut answer.members);
            }),
            Shape::MemberAdd(request) => call!(self, who, cluster.member_add(request)),
            Shape::MemberRemove(request) => call!(self, who, cluster.member_remove(request)),
            Shape::MemberUpdate(request) => call!(self, who, cluster.member_update(request)),
            Shape::MemberPromote(request) => call!(self, who, cluster.member_promote(request)),
            Shape::Alarm(request) => call!(self, who, maintenance.alarm(request), |answer| {
                // Alarms are raised for no member or for that of number 1.
                answer.alarms.sort_by_key(|alarm| (alarm.alarm, alarm.member_id));
            }),
            Shape::Status => call!(self, who, maintenance.status(pb::StatusRequest {}), |answer| {
                *answer = pb::StatusResponse {
                    version: std::mem::take(&mut answer.version),
                    storage_version: std::mem::take(&mut answer.storage_version),
                    is_learner: answer.is_learner,
                    db_size_quota: answer.db_size_quota,
                    downgrade_info: answer.downgrade_info.take(),
                    ..Default::default()
                };
            }),
            Shape::HashKv(request) => call!(self, who, maintenance.hash_kv(request)),
            Shape::MoveLeader(request) => call!(self, who, maintenance.move_leader(request)),
            Shape::Defragment => {
                call!(self, who, maintenance.defragment(pb::DefragmentRequest {}))
            }
            Shape::Downgrade(request) => call!(self, who, maintenance.downgrade(request)),
        }
    }

    async fn authenticate(&mut self, request: pb::AuthenticateRequest) -> String {
        let user = USERS.iter().position(|user| *user == request.name);
        match self.client.auth.authenticate(request).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                if let Some(user) = user {
                    self.tokens[user] = Some(answer.token);
                }
                format!("a token, {:?}", scrub(answer.header))
            }
            Err(status) => refused(&status),
        }
    }

    /// Where a stream is cut is not part of its meaning.
    async fn range_stream(&mut self, who: shapes::As, request: pb::RangeRequest) -> String {
        let request = self.request(who, request);
        let mut stream = match self.client.kv.range_stream(request).await {
            Ok(stream) => stream.into_inner(),
            Err(status) => return refused(&status),
        };
        let mut whole = pb::RangeResponse::default();
        while let Some(next) = stream.next().await {
            match next {
                Ok(part) => {
                    let part = part.range_response.unwrap_or_default();
                    whole.header = scrub(part.header).or(whole.header);
                    whole.kvs.extend(part.kvs);
                    whole.more |= part.more;
                    whole.count = whole.count.max(part.count);
                }
                Err(status) => return refused(&status),
            }
        }
        format!("{whole:?}")
    }

    async fn keep_alive(&mut self, who: shapes::As, request: pb::LeaseKeepAliveRequest) -> String {
        let requests = futures_util::stream::iter([request]);
        let request = self.request(who, requests);
        let mut stream = match self.client.lease.lease_keep_alive(request).await {
            Ok(stream) => stream.into_inner(),
            Err(status) => return refused(&status),
        };
        match stream.next().await {
            Some(Ok(mut answer)) => {
                answer.header = scrub(answer.header);
                format!("{answer:?}")
            }
            Some(Err(status)) => refused(&status),
            None => "the stream ends".into(),
        }
    }

    /// The events up to now, and how the watch began and ended.
    async fn watch(&mut self, env: &Env, who: shapes::As, request: pb::WatchCreateRequest) -> String {
        use pb::watch_request::RequestUnion;
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let send = |union| pb::WatchRequest {
            request_union: Some(union),
        };
        let begun = sender.send(send(RequestUnion::CreateRequest(request))).await;
        begun.expect("the receiver is here");
        let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let request = self.request(who, requests);
        let mut stream = match self.client.watch.watch(request).await {
            Ok(stream) => stream.into_inner(),
            Err(status) => return refused(&status),
        };
        let mut told = Vec::new();
        let mut events = Vec::new();
        let mut silent = 0;
        loop {
            match env.timeout(AGAIN, stream.next()).await {
                Ok(Some(Ok(answer))) => {
                    if answer.watch_id == -1 && !answer.created && !answer.canceled {
                        // Progress: there are no more events yet.
                        break;
                    }
                    events.extend(answer.events);
                    if answer.created || answer.canceled {
                        told.push(format!(
                            "id {} created {} canceled {} {:?} compacted {}",
                            answer.watch_id,
                            answer.created,
                            answer.canceled,
                            answer.cancel_reason,
                            answer.compact_revision
                        ));
                    }
                    if answer.canceled {
                        break;
                    }
                }
                Ok(Some(Err(status))) => {
                    told.push(refused(&status));
                    break;
                }
                Ok(None) => break,
                // A watch from a revision to come has no progress to tell.
                Err(_) if silent == SILENT_MAX => break,
                Err(_) => {
                    silent += 1;
                    let progress = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
                    let _ = sender.send(send(progress)).await;
                }
            }
        }
        format!("{told:?} {events:?}")
    }

    /// Takes back everything that a session has made.
    async fn clear(&mut self, env: &Env) {
        // Alarms may forbid everything else.
        let root = USERS[0].to_owned();
        let enabled = self.client.auth.auth_status(pb::AuthStatusRequest {}).await;
        if enabled.is_ok_and(|answer| answer.into_inner().enabled) {
            let request = pb::AuthenticateRequest {
                name: root.clone(),
                password: root,
            };
            self.authenticate(request).await;
        }
        for alarm in [1, 2] {
            for member_id in [0, 1] {
                let request = pb::AlarmRequest {
                    action: 2,
                    member_id,
                    alarm,
                };
                self.ask(env, Some(0), Shape::Alarm(request)).await;
            }
        }
        self.ask(env, Some(0), Shape::AuthDisable).await;
        self.tokens = vec![None; USERS.len()];
        for name in USERS.iter().chain(&["nobody"]) {
            let name = (*name).to_owned();
            self.ask(env, None, Shape::UserDelete(pb::AuthUserDeleteRequest { name }))
                .await;
        }
        for role in ROLES.iter().chain(&["nobody"]) {
            let role = (*role).to_owned();
            self.ask(env, None, Shape::RoleDelete(pb::AuthRoleDeleteRequest { role }))
                .await;
        }
        for id in -1..5 {
            self.ask(env, None, Shape::Revoke(pb::LeaseRevokeRequest { id }))
                .await;
        }
        let everything = pb::DeleteRangeRequest {
            key: "\0".into(),
            range_end: "\0".into(),
            prev_kv: false,
        };
        self.ask(env, None, Shape::Delete(everything)).await;
    }

    async fn revision(&mut self) -> i64 {
        let status = self.client.maintenance.status(pb::StatusRequest {}).await;
        status
            .ok()
            .and_then(|answer| answer.into_inner().header)
            .map_or(0, |header| header.revision)
    }
}

/// Why two answers may differ; `None`: they must not.
fn explained(shape: &Shape) -> Option<&'static str> {
    match shape {
        // etcd sorts each chunk by the target and looks for the next behind its last key: it counts keys twice, and can
        // send them twice or not at all.
        Shape::RangeStream(range) if range.sort_order == 0 && range.sort_target != 0 => {
            Some("RangeStream, sorted by a target without an order")
        }
        _ => None,
    }
}

fn from_variable(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn generated_sessions_are_answered_as_by_etcd() {
    let Some(etcd) = find_all("etcd").pop() else {
        return;
    };
    run(async |env| {
        let flags = [
            "--unsafe-no-fsync",
            "--bcrypt-cost=4",
            "--log-level=error",
            // The shortest lease lasts 15 s: none ends within a session.
            "--heartbeat-interval=1000",
            "--election-timeout=10000",
        ];
        let mut theirs = Cluster::new(1, &flags);
        theirs.members[0].binary = etcd.into();
        theirs.members[0].spawn();
        let mut ours = Cluster::new(1, &flags);
        ours.members[0].spawn();
        let mut sides = Vec::new();
        for cluster in [&theirs, &ours] {
            let mut client = cluster.members[0].connect(&env).await;
            client.put_eventually(&env, "first", "").await;
            let tokens = vec![None; USERS.len()];
            sides.push(Side { client, tokens });
        }
        // The cluster's version is settled a little after the first write.
        env.sleep(Duration::from_secs(5)).await;
        let [mut theirs, mut ours]: [Side; 2] = sides.try_into().ok().expect("two");
        let requests = from_variable(REQUESTS_VARIABLE, REQUESTS);
        let first_seed = from_variable(SEED_VARIABLE, 0);
        let mut found = std::collections::BTreeMap::<&str, usize>::new();
        for number in 0..requests.div_ceil(SESSION) {
            let seed = first_seed + number;
            compare_session(&env, seed, &mut theirs, &mut ours, &mut found).await;
        }
        eprintln!("{requests} requests compared; explained differences: {found:?}");
    });
}

/// The session of a seed.
fn drawn(seed: usize) -> Vec<(shapes::As, Shape)> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(seed as u64).to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let tree = shapes::session(SESSION).new_tree(&mut runner);
    tree.expect("sessions can be drawn").current()
}

async fn compare_session(
    env: &Env,
    seed: usize,
    theirs: &mut Side,
    ours: &mut Side,
    found: &mut std::collections::BTreeMap<&'static str, usize>,
) {
    join(theirs.clear(env), ours.clear(env)).await;
    let mut told: Vec<String> = Vec::new();
    for (who, mut shape) in drawn(seed) {
        let current = theirs.revision().await;
        shape.settle(current);
        let (expected, mut got) = join(
            theirs.ask(env, who, shape.clone()),
            ours.ask(env, who, shape.clone()),
        )
        .await;
        told.push(format!("{who:?} {shape:?}\n    -> {expected}"));
        // A compaction is hashed a little later.
        for _ in 0..50 {
            if expected == got || !matches!(shape, Shape::HashKv(_)) {
                break;
            }
            env.sleep(AGAIN).await;
            got = ours.ask(env, who, shape.clone()).await;
        }
        if expected == got {
            continue;
        }
        match explained(&shape) {
            Some(why) => *found.entry(why).or_default() += 1,
            None => {
                let before = told[told.len().saturating_sub(12)..].join("\n");
                panic!("session {seed} differs\n{before}\netcd:    {expected}\nquorate: {got}");
            }
        }
    }
}

/// Answers are compared as texts: a type that shows nothing would hide everything.
const _: fn() = || {
    fn shows<T: Debug>() {}
    shows::<pb::RangeResponse>();
};

#[test]
fn the_same_seed_draws_the_same_session() {
    assert_eq!(format!("{:?}", drawn(1)), format!("{:?}", drawn(1)));
    assert_ne!(format!("{:?}", drawn(1)), format!("{:?}", drawn(2)));
    let status = Status::new(Code::NotFound, "x");
    assert_eq!(refused(&status), "NotFound: x");
}
