//! Asks the members what they think of themselves: term, leader, committed and applied index.
//!
//! For the timeline alone; no check uses it. A member that does not answer says nothing.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate::proto::etcdserverpb as pb;
use quorate::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate::runtime::Env;
use quorate_jepsen::timeline::State;
use quorate_jepsen::workload::{Clock, Connection};

const INTERVAL: Duration = Duration::from_millis(50);
const TIMEOUT: Duration = Duration::from_millis(500);

/// One answer: when, who says so, and what.
#[derive(Clone, Debug)]
struct Seen {
    member_id: u64,
    leader: u64,
    state: State,
}

/// What each member said, in order of time.
#[derive(Clone, Default)]
pub struct Probes(Arc<Mutex<Vec<Vec<Seen>>>>);

impl Probes {
    /// Asks one member again and again, as long as there is somebody to run this.
    pub async fn run(self, env: Env, clock: Clock, member: usize, address: String) {
        let mut connection: Option<Connection> = None;
        loop {
            if connection.is_none() {
                connection = Connection::open(&env, &address, TIMEOUT, None).await;
            }
            if let Some(open) = &connection {
                let mut client = MaintenanceClient::new(open.calls());
                let asked = client.status(pb::StatusRequest {});
                match env.timeout(TIMEOUT, asked).await {
                    Ok(Ok(answer)) => self.note(member, clock.now() / 1_000, &answer.into_inner()),
                    _ => connection = None,
                }
            }
            env.sleep(INTERVAL).await;
        }
    }

    fn note(&self, member: usize, at: u64, answer: &pb::StatusResponse) {
        let seen = Seen {
            member_id: answer.header.as_ref().map_or(0, |header| header.member_id),
            leader: answer.leader,
            state: State {
                at,
                term: answer.raft_term,
                leader: None,
                committed: answer.raft_index,
                applied: answer.raft_applied_index,
                snapshot: 0,
            },
        };
        let mut all = self.0.lock().expect("nothing under this lock panics");
        if all.len() <= member {
            all.resize(member + 1, Vec::new());
        }
        all[member].push(seen);
    }

    /// What each member said, by member, as far as it changed.
    pub fn states(&self, members: usize) -> Vec<Vec<State>> {
        let mut all = self.0.lock().expect("nothing under this lock panics").clone();
        all.resize(members, Vec::new());
        let id_of = |seen: &Vec<Seen>| seen.last().map(|seen| seen.member_id);
        let ids: Vec<Option<u64>> = all.iter().map(id_of).collect();
        let named = |seen: Seen| State {
            leader: ids.iter().position(|id| *id == Some(seen.leader)),
            ..seen.state
        };
        let changes = |seen: Vec<Seen>| {
            let mut states: Vec<State> = seen.into_iter().map(named).collect();
            states.dedup_by_key(|state| State { at: 0, ..*state });
            states
        };
        all.into_iter().map(changes).collect()
    }
}
