//! Clients that wait for as long as it takes, as programs do that set no deadline: on each member one for each kind of call. A
//! member that runs and can be reached owes them an answer, if only that it took too long (`answers-in-time`).
//!
//! Their calls are in no history: they change nothing.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use quorate::proto::etcdserverpb as pb;
use quorate::runtime::Env;
use quorate_jepsen::history::{Outcome, Request};
use quorate_jepsen::workload::{Connection, Consistency, Stop, User, call, wire_form};

use crate::cluster::{self, Cluster};
use crate::coverage;
use crate::report::Violation;
use crate::world::Nanos;
use crate::world::net::HostId;

/// Between two calls, and between two looks at one.
const PAUSE: Duration = Duration::from_millis(1_500);
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// For what is only to begin with.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Longer than any run.
const FOREVER: Duration = Duration::from_secs(1_000_000);
/// What a member may take besides its time-out: a step between two of its threads, a look at its clock.
const GRACE: Duration = Duration::from_secs(2);
/// Of a lease, and of a key, that nobody has.
const NOWHERE: i64 = i64::MAX;
const NOTHING: &[u8] = b"\xff nobody writes here";

/// One call of each way through a member: what it reads, what it commits, and what the leader does for it.
fn calls() -> [(&'static str, Request); 4] {
    let (key, id) = (Bytes::from_static(NOTHING), NOWHERE);
    let read = pb::RangeRequest {
        key: key.clone(),
        ..Default::default()
    };
    let deletion = pb::DeleteRangeRequest {
        key,
        ..Default::default()
    };
    let question = pb::LeaseTimeToLiveRequest { id, keys: false };
    [
        ("read", Request::Range(read)),
        ("deletion", Request::Delete(deletion)),
        ("question for a lease", Request::LeaseTimeToLive(question)),
        (
            "renewal",
            Request::LeaseKeepAlive(pb::LeaseKeepAliveRequest { id }),
        ),
    ]
}

/// How a call ended for whom it was watched.
enum End {
    Answered(Outcome),
    /// The process ended or stood still, or forgot the connection: nobody owes an answer any more.
    Excused,
    /// The client has been told nothing for so long, while nothing was in the way.
    Unanswered(Duration),
}

/// Starts them; they end when clients are to stop.
pub fn start(cluster: &Cluster, user: Option<User>, stop: &Stop) {
    let world = cluster.world();
    let host = world.add_host("p1");
    let env = world.start(host, |_| std::future::pending());
    for member in 0..cluster.len() {
        for (name, request) in calls() {
            let patient = Patient {
                env: env.clone(),
                host,
                cluster: cluster.clone(),
                member,
                user: user.clone(),
                stop: stop.clone(),
            };
            env.spawn_detached(patient.ask_again_and_again(name, request));
        }
    }
}

struct Patient {
    env: Env,
    host: HostId,
    cluster: Cluster,
    member: usize,
    user: Option<User>,
    stop: Stop,
}

impl Patient {
    async fn ask_again_and_again(self, name: &'static str, request: Request) {
        let address = self.cluster.addresses()[self.member].clone();
        let mut open = None;
        while !self.stop.clients_stopped() {
            self.env.sleep(PAUSE).await;
            let connection = match open.take() {
                Some(connection) => connection,
                None => match self.connect(&address).await {
                    Some(connection) => connection,
                    None => continue,
                },
            };
            match self.ask(&connection, &request).await {
                End::Answered(Outcome::Ok(_)) => open = Some(connection),
                End::Answered(outcome) => {
                    if outcome.to_string().contains("etcdserver: request timed out") {
                        self.cluster.count(coverage::TOLD_LATE);
                    }
                }
                End::Excused => {}
                End::Unanswered(waited) => {
                    let member = cluster::name(self.member);
                    let text =
                        format!("{member} has answered nothing to a {name} for {waited:?} of its own time");
                    self.cluster.violate(Violation::new("answers-in-time", text));
                    return;
                }
            }
        }
    }

    /// A connection that the member has taken: one that has just started lets connections wait until it is ready.
    async fn connect(&self, address: &str) -> Option<Connection> {
        let connection = Connection::open(&self.env, address, TIMEOUT, self.user.as_ref()).await?;
        let (_, read) = calls().into_iter().next()?;
        let taken = call(
            &self.env,
            &connection,
            &wire_form(&read, Consistency::Stale),
            TIMEOUT,
        )
        .await;
        matches!(taken, Outcome::Ok(_)).then_some(connection)
    }

    /// The member's own clock.
    fn clock(&self) -> Nanos {
        let host = self.cluster.host(self.member);
        self.cluster
            .world()
            .clock(host, |clock, now| clock.monotonic(now))
    }

    async fn ask(&self, connection: &Connection, request: &Request) -> End {
        let world = self.cluster.world();
        let host = self.cluster.host(self.member);
        let Some(life) = world.running_since(host) else {
            return End::Excused;
        };
        let options = &self.cluster.plan().options;
        let limit = Duration::from_secs(5) + options.election_timeout * 2 + options.election_timeout + GRACE;
        let mut undisturbed = self.clock();
        let mut asking = Box::pin(call(&self.env, connection, request, FOREVER));
        loop {
            match select(asking, world.sleep(LOOK_INTERVAL)).await {
                Either::Left((outcome, _)) => return End::Answered(outcome),
                Either::Right(((), rest)) => asking = rest,
            }
            if world.running_since(host) != Some(life) {
                return End::Excused;
            }
            let (is_disturbed, is_half_open) = world.net(|net, now| {
                (
                    net.is_disturbed(now, self.host, host),
                    net.is_half_open(self.host, host),
                )
            });
            if is_half_open {
                return End::Excused;
            }
            if is_disturbed {
                undisturbed = self.clock();
            }
            let waited = Duration::from_nanos(self.clock() - undisturbed);
            if waited > limit {
                return End::Unanswered(waited);
            }
        }
    }
}
