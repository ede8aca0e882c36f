//! Users with limited rights, and the administrator who gives and takes these.
//!
//! ```text
//!   found: root and its role, the user "limited", auth on
//!   round n, on keys below u/n/:   give ──────── take        by a permission of a role, or by a role of the user
//!   limited clients:               reads and writes below u/<n-1>/, u/<n>/, u/<n+1>/, at any member
//! ```
//!
//! Each round has a prefix of its own, so that a late attempt to give cannot be mistaken for another round's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quorate::proto::authpb::{Permission as Range, permission::Type};
use quorate::proto::etcdserverpb as pb;
use quorate::proto::etcdserverpb::auth_client::AuthClient;
use quorate::runtime::Env;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tonic::Status;

use super::{Calls, Clock, Connection, Stop, User, call, is_stranger};
use crate::history::{Change, Permission, Recorder, Request};

const ROOT: &str = "root";
const LIMITED: &str = "limited";
/// The role that the limited users always have.
const ROLE: &str = "role";

/// Who acts, and on whom.
#[derive(Clone)]
pub struct UsersOptions {
    pub seed: u64,
    pub client: u32,
    /// The members' client addresses ("host:port"), by member number.
    pub addresses: Vec<String>,
    pub call_timeout: Duration,
    /// Mean pause between two calls.
    pub pause: Duration,
    /// The round that is on; shared by the administrator and the limited clients.
    pub round: Arc<AtomicU64>,
}

impl UsersOptions {
    fn rng(&self) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(self.seed ^ (u64::from(self.client) << 32) ^ 0x5553_4552_5300)
    }
}

/// One change of users and roles.
#[derive(Clone)]
enum Step {
    AddUser(&'static str),
    AddRole(String),
    GrantRole(&'static str, String),
    RevokeRole(String),
    GrantPermission(String, Range),
    RevokePermission(String, Range),
    Enable,
}

impl Step {
    async fn send(self, calls: Calls) -> Result<(), Status> {
        let mut auth = AuthClient::new(calls);
        match self {
            Step::AddUser(name) => {
                let user = User::new(name);
                let request = pb::AuthUserAddRequest {
                    name: user.name,
                    password: user.password,
                    ..Default::default()
                };
                auth.user_add(request).await.map(drop)
            }
            Step::AddRole(name) => auth.role_add(pb::AuthRoleAddRequest { name }).await.map(drop),
            Step::GrantRole(user, role) => {
                let user = user.to_owned();
                auth.user_grant_role(pb::AuthUserGrantRoleRequest { user, role })
                    .await
                    .map(drop)
            }
            Step::RevokeRole(role) => {
                let name = LIMITED.to_owned();
                auth.user_revoke_role(pb::AuthUserRevokeRoleRequest { name, role })
                    .await
                    .map(drop)
            }
            Step::GrantPermission(name, range) => {
                let perm = Some(range);
                auth.role_grant_permission(pb::AuthRoleGrantPermissionRequest { name, perm })
                    .await
                    .map(drop)
            }
            Step::RevokePermission(role, range) => {
                let request = pb::AuthRoleRevokePermissionRequest {
                    role,
                    key: range.key,
                    range_end: range.range_end,
                };
                auth.role_revoke_permission(request).await.map(drop)
            }
            Step::Enable => auth.auth_enable(pb::AuthEnableRequest {}).await.map(drop),
        }
    }

    /// Whether a refusal says that an earlier attempt has done it.
    fn is_done(&self, refusal: &Status) -> bool {
        let text = refusal.message();
        match self {
            Step::AddUser(_) => text == "etcdserver: user name already exists",
            Step::AddRole(_) => text == "etcdserver: role name already exists",
            // Whoever does not log in then is nobody.
            Step::Enable => text == "etcdserver: user name is empty",
            Step::RevokeRole(_) => text == "etcdserver: role is not granted to the user",
            Step::RevokePermission(..) => text == "etcdserver: permission is not granted to the role",
            _ => false,
        }
    }
}

/// Repeats steps until they are acknowledged.
struct Administrator<'a> {
    env: &'a Env,
    clock: &'a Clock,
    recorder: &'a Recorder,
    options: &'a UsersOptions,
    rng: ChaCha8Rng,
    /// Unset until there is auth to log in to.
    user: Option<User>,
    connection: Option<Connection>,
}

impl Administrator<'_> {
    /// Carries out a step; `told` hears of each change of its state. `false`: given up.
    async fn carry_out(&mut self, step: Step, stop: &Stop, mut told: impl FnMut(&Change)) -> bool {
        let mut change = Change {
            invoked: self.recorder.moment(self.clock.now()),
            unknown: None,
            returned: None,
        };
        told(&change);
        while !stop.clients_stopped() {
            let Some(calls) = self.calls().await else {
                self.env.sleep(Duration::from_millis(50)).await;
                continue;
            };
            let timeout = self.options.call_timeout;
            let sent = self.env.timeout(timeout, step.clone().send(calls)).await;
            match sent {
                Ok(Ok(())) => {}
                Ok(Err(refusal)) if step.is_done(&refusal) => {}
                Ok(Err(refusal))
                    if crate::history::is_definite_refusal(refusal.code(), refusal.message()) =>
                {
                    self.connection = None;
                    continue;
                }
                _ => {
                    self.connection = None;
                    change.unknown = Some(self.recorder.moment(self.clock.now()));
                    told(&change);
                    continue;
                }
            }
            change.returned = Some(self.recorder.moment(self.clock.now()));
            told(&change);
            return true;
        }
        false
    }

    async fn calls(&mut self) -> Option<Calls> {
        if self.connection.as_ref().is_none_or(Connection::is_closed) {
            let member = self.rng.random_range(0..self.options.addresses.len());
            let address = &self.options.addresses[member];
            let (timeout, user) = (self.options.call_timeout, self.user.as_ref());
            self.connection = Connection::open(self.env, address, timeout, user).await;
        }
        self.connection.as_ref().map(Connection::calls)
    }

    async fn pause(&mut self, times: u32) {
        let mean = self.options.pause.as_micros() as u64 * u64::from(times);
        let micros = self.rng.random_range(0..2 * mean.max(1));
        self.env.sleep(Duration::from_micros(micros)).await;
    }

    async fn round(&mut self, stop: &Stop) {
        let number = self.options.round.load(Ordering::SeqCst) + 1;
        let prefix = format!("u/{number}/");
        let kind = [Type::Read, Type::Write, Type::Readwrite][self.rng.random_range(0..3)];
        let range = Range {
            perm_type: kind as i32,
            key: prefix.clone().into(),
            range_end: format!("u/{number}0").into(),
        };
        let (give, take) = if self.rng.random() {
            let role = ROLE.to_owned();
            (
                Step::GrantPermission(role.clone(), range.clone()),
                Step::RevokePermission(role, range),
            )
        } else {
            let role = format!("role {number}");
            let made = self.carry_out(Step::AddRole(role.clone()), stop, |_| ()).await
                && self
                    .carry_out(Step::GrantPermission(role.clone(), range), stop, |_| ())
                    .await;
            if !made {
                return;
            }
            (Step::GrantRole(LIMITED, role.clone()), Step::RevokeRole(role))
        };
        // Some calls before, in the midst, and after.
        self.options.round.store(number, Ordering::SeqCst);
        self.pause(4).await;
        let recorder = self.recorder.clone();
        let mut record = None;
        let given = |change: &Change| match record {
            None => {
                record = Some(recorder.permission(Permission {
                    prefix: prefix.clone().into(),
                    reads: kind != Type::Write,
                    writes: kind != Type::Read,
                    given: change.clone(),
                    taken: None,
                }));
            }
            Some(record) => recorder.change_permission(record, |it| it.given = change.clone()),
        };
        if !self.carry_out(give, stop, given).await {
            return;
        }
        self.pause(12).await;
        let record = record.expect("it was told");
        let taken =
            |change: &Change| recorder.change_permission(record, |it| it.taken = Some(change.clone()));
        self.carry_out(take, stop, taken).await;
        self.pause(4).await;
    }
}

/// Makes the users and switches auth on: from then on everybody has to log in. `false`: the run ended before.
pub async fn found_users(
    env: &Env,
    clock: &Clock,
    recorder: &Recorder,
    options: &UsersOptions,
    stop: &Stop,
) -> bool {
    let mut administrator = Administrator {
        env,
        clock,
        recorder,
        options,
        rng: options.rng(),
        user: None,
        connection: None,
    };
    for step in [
        Step::AddRole(ROOT.to_owned()),
        Step::AddUser(ROOT),
        Step::GrantRole(ROOT, ROOT.to_owned()),
        Step::AddRole(ROLE.to_owned()),
        Step::AddUser(LIMITED),
        Step::GrantRole(LIMITED, ROLE.to_owned()),
        Step::Enable,
    ] {
        if !administrator.carry_out(step, stop, |_| ()).await {
            return false;
        }
    }
    true
}

/// Gives and takes, round after round.
pub async fn run_administrator(
    env: Env,
    clock: Clock,
    recorder: Recorder,
    options: UsersOptions,
    stop: Stop,
) {
    let mut administrator = Administrator {
        env: &env,
        clock: &clock,
        recorder: &recorder,
        rng: options.rng(),
        options: &options,
        user: Some(User::root()),
        connection: None,
    };
    while !stop.clients_stopped() {
        administrator.round(&stop).await;
    }
}

/// A client that reads and writes as the limited user.
pub async fn run_limited(env: Env, clock: Clock, recorder: Recorder, options: UsersOptions, stop: Stop) {
    let mut rng = options.rng();
    let user = User::new(LIMITED);
    let mut number = 0;
    recorder.limited(options.client);
    while !stop.clients_stopped() {
        let member = rng.random_range(0..options.addresses.len());
        let address = &options.addresses[member];
        let opened = Connection::open(&env, address, options.call_timeout, Some(&user)).await;
        let Some(connection) = opened else {
            env.sleep(Duration::from_millis(50)).await;
            continue;
        };
        while !stop.clients_stopped() && !connection.is_closed() {
            let round = options.round.load(Ordering::SeqCst) + 1;
            let round = round.saturating_sub([0, 1, 1, 1, 1, 2][rng.random_range(0..6)]);
            number += 1;
            let request = request(&mut rng, round, options.client, number);
            let id = recorder.invoke(options.client, member as u32, clock.now(), request.clone());
            let outcome = call(&env, &connection, &request, options.call_timeout).await;
            recorder.complete(id, clock.now(), outcome.clone());
            if outcome.is_unknown() || is_stranger(&outcome) {
                break;
            }
            let micros = rng.random_range(0..2 * options.pause.as_micros() as u64);
            env.sleep(Duration::from_micros(micros)).await;
        }
    }
}

fn request(rng: &mut ChaCha8Rng, round: u64, client: u32, number: u64) -> Request {
    let key = format!("u/{round}/{}", rng.random_range(0..3));
    if rng.random() {
        let request = pb::PutRequest {
            key: key.into(),
            value: format!("c{client}-{number}").into(),
            ..Default::default()
        };
        request.into()
    } else {
        let request = pb::RangeRequest {
            key: key.into(),
            ..Default::default()
        };
        request.into()
    }
}
