//! Clients that wait for as long as it takes, as programs do that set no deadline: on each member one for each kind of call. A
//! member that runs and can be reached owes them an answer, if only that it took too long (`answers-in-time`).
//!
//! Their calls are in no history: they change nothing.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use quorate::base::limits;
use quorate::proto::etcdserverpb as pb;
use quorate::runtime::Env;
use quorate_jepsen::history::{Outcome, Request};
use quorate_jepsen::workload::{Connection, Consistency, Stop, call, wire_form};

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
/// What may come on top of a member's time-out: an answer that it holds back on purpose (`Site::AnsweredLate`), what a
/// network that was disturbed sends again, and messages between its threads.
const GRACE: Duration = Duration::from_secs(4);
/// Of a lease, and of a key, that nobody has.
const NOWHERE: i64 = i64::MAX;
const NOTHING: &[u8] = b"\xff nobody writes here";

fn read() -> Request {
    Request::Range(pb::RangeRequest {
        key: Bytes::from_static(NOTHING),
        ..Default::default()
    })
}

/// One call of each way through a member: what it reads, what it commits, and what the leader does for it.
fn calls() -> [(&'static str, Request); 4] {
    let id = NOWHERE;
    let deletion = pb::DeleteRangeRequest {
        key: Bytes::from_static(NOTHING),
        ..Default::default()
    };
    let question = pb::LeaseTimeToLiveRequest { id, keys: false };
    [
        ("read", read()),
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
    /// The process ended, or forgot the connection: nobody owes an answer any more.
    Excused,
    /// The client has been told nothing for so long, while nothing was in the way.
    Unanswered(Duration),
}

/// All of them, on one host; they end when clients are to stop.
pub fn clients(
    cluster: &Cluster,
    (env, host): (&Env, HostId),
    stop: &Stop,
) -> Vec<impl Future<Output = ()> + use<>> {
    let mut clients = Vec::new();
    for member in 0..cluster.len() {
        for (name, request) in calls() {
            let patient = Patient {
                env: env.clone(),
                host,
                cluster: cluster.clone(),
                member,
                stop: stop.clone(),
            };
            clients.push(patient.ask_again_and_again(name, request));
        }
    }
    clients
}

/// A connection that a member has taken.
struct Line {
    connection: Connection,
    opened: Nanos,
    /// Of the member's process.
    life: u64,
}

struct Patient {
    env: Env,
    host: HostId,
    cluster: Cluster,
    member: usize,
    stop: Stop,
}

impl Patient {
    async fn ask_again_and_again(self, name: &'static str, request: Request) {
        let address = self.cluster.addresses()[self.member].clone();
        let mut open = None;
        while !self.stop.clients_stopped() {
            self.env.sleep(PAUSE).await;
            let line = match open.take() {
                Some(line) => line,
                None => match self.connect(&address).await {
                    Some(line) => line,
                    None => continue,
                },
            };
            let asked = self.env.now();
            match self.ask(&line, &request).await {
                End::Answered(Outcome::Ok(_)) => open = Some(line),
                End::Answered(_) if self.env.now() - asked > limits::REQUEST_TIMEOUT_BASE => {
                    self.cluster.count(coverage::TOLD_LATE);
                }
                End::Answered(_) | End::Excused => {}
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
    async fn connect(&self, address: &str) -> Option<Line> {
        let (world, user) = (self.cluster.world(), self.cluster.plan().user());
        let (opened, life) = (world.now(), world.lives(self.cluster.host(self.member)));
        let connection = Connection::open(&self.env, address, TIMEOUT, user.as_ref()).await?;
        let look = wire_form(&read(), Consistency::Stale);
        let taken = call(&self.env, &connection, &look, TIMEOUT).await;
        matches!(taken, Outcome::Ok(_)).then_some(Line {
            connection,
            opened,
            life,
        })
    }

    /// The member's own clock.
    fn clock(&self) -> Nanos {
        let host = self.cluster.host(self.member);
        self.cluster
            .world()
            .clock(host, |clock, now| clock.monotonic(now))
    }

    async fn ask(&self, line: &Line, request: &Request) -> End {
        let world = self.cluster.world();
        let host = self.cluster.host(self.member);
        let options = &self.cluster.plan().options;
        let limit = limits::REQUEST_TIMEOUT_BASE + options.election_timeout * 3 + GRACE;
        let (mut running, mut undisturbed) = (world.running_since(host), self.clock());
        let mut asking = Box::pin(call(&self.env, &line.connection, request, FOREVER));
        loop {
            match select(asking, world.sleep(LOOK_INTERVAL)).await {
                Either::Left((outcome, _)) => return End::Answered(outcome),
                Either::Right(((), rest)) => asking = rest,
            }
            let (is_disturbed, has_halved) = world.net(|net, now| {
                let is_disturbed = net.is_disturbed(now, self.host, host);
                (is_disturbed, net.has_halved_since(line.opened, self.host, host))
            });
            if has_halved || world.is_off(host) || world.lives(host) != line.life {
                return End::Excused;
            }
            // A process that stood still, or still does.
            let runs = world.running_since(host);
            if is_disturbed || runs.is_none() || runs != running {
                (undisturbed, running) = (self.clock(), runs);
            }
            let waited = Duration::from_nanos(self.clock() - undisturbed);
            if waited > limit {
                return End::Unanswered(waited);
            }
        }
    }
}
