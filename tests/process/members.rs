//! Members that come and go while the cluster serves.

use std::fs;
use std::time::Duration;

use quorate::proto::etcdserverpb as pb;
use quorate::runtime::Env;
use rustix::process::Signal;

use super::support::{Client, Cluster, PATIENCE, free_port, run};

/// Puts "name-0", "name-1" … at the addresses in turn until it is told to stop; then, what was acknowledged.
pub struct Load {
    stop: tokio::sync::oneshot::Sender<()>,
    done: tokio::sync::oneshot::Receiver<Vec<String>>,
}

impl Load {
    pub fn start(env: &Env, mut clients: Vec<Client>, name: &'static str) -> Load {
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let (sender, done) = tokio::sync::oneshot::channel();
        let env_of_load = env.clone();
        env.spawn(async move {
            let mut acknowledged = Vec::new();
            let mut number = 0_usize;
            while stopped.try_recv().is_err() {
                let key = format!("{name}-{number}");
                let count = clients.len();
                let put = clients[number % count].try_put(&env_of_load, &key, "x").await;
                if put.is_ok() {
                    acknowledged.push(key);
                }
                number += 1;
                env_of_load.sleep(Duration::from_millis(2)).await;
            }
            let _ = sender.send(acknowledged);
        });
        Load { stop, done }
    }

    pub async fn end(self) -> Vec<String> {
        let _ = self.stop.send(());
        self.done.await.expect("the load tells what it has done")
    }
}

/// Repeats a change until the cluster takes it: members have to have been connected for a while.
pub async fn eventually<T>(env: &Env, mut change: impl AsyncFnMut() -> Result<T, tonic::Status>) -> T {
    let deadline = env.now() + PATIENCE;
    loop {
        match change().await {
            Ok(done) => return done,
            Err(error) => assert!(env.now() < deadline, "the change is never taken: {error}"),
        }
        env.sleep(Duration::from_millis(100)).await;
    }
}

pub fn add(url: &str, is_learner: bool) -> pb::MemberAddRequest {
    pb::MemberAddRequest {
        peer_ur_ls: vec![url.to_owned()],
        is_learner,
    }
}

async fn ids(client: &mut Client) -> Vec<u64> {
    let request = pb::MemberListRequest { linearizable: true };
    let list = client
        .cluster
        .member_list(request)
        .await
        .expect("a list")
        .into_inner();
    list.members.iter().map(|member| member.id).collect()
}

#[test]
fn a_learner_joins_is_promoted_and_takes_over_under_load() {
    run(async |env| {
        let mut cluster = Cluster::start(3, &["--snapshot-count=50", "--snapshot-catchup-entries=20"]);
        let mut one = cluster.members[1].connect(&env).await;
        let two = cluster.members[2].connect(&env).await;
        let load = Load::start(&env, vec![one.clone(), two.clone()], "load");

        let url = cluster.prepare_joiner();
        let added = eventually(&env, async || one.cluster.member_add(add(&url, true)).await).await;
        let new = added.into_inner().member.unwrap();
        assert!(new.is_learner);
        let early = one
            .cluster
            .member_promote(pb::MemberPromoteRequest { id: new.id })
            .await;
        let early = early.expect_err("it has not started");
        assert_eq!(
            early.message(),
            "etcdserver: can only promote a learner member which is in sync with leader"
        );
        cluster.members[3].start();
        let mut learner = cluster.members[3].connect(&env).await;
        assert!(learner.status(&env).await.is_learner);
        let refused = learner.try_put(&env, "a", "b").await.unwrap_err();
        assert_eq!(refused.message(), "etcdserver: rpc not supported for learner");
        eventually(&env, async || {
            one.cluster
                .member_promote(pb::MemberPromoteRequest { id: new.id })
                .await
        })
        .await;

        // The first member goes, whether it leads or not, and says why it ends.
        let first = cluster.members[0].connect(&env).await.status(&env).await;
        let first = first.header.unwrap().member_id;
        eventually(&env, async || {
            one.cluster
                .member_remove(pb::MemberRemoveRequest { id: first })
                .await
        })
        .await;
        for _ in 0..2 {
            let (code, log) = cluster.members[0].end();
            assert_eq!(code, Some(0), "{log}");
            let why = "the member has been permanently removed from the cluster";
            assert!(log.contains(why), "{log}");
            // Nor does it come back with its data.
            cluster.members[0].spawn();
        }
        cluster.members[0].kill();

        let acknowledged = load.end().await;
        assert!(acknowledged.len() > 100, "{}", acknowledged.len());
        let mut last = cluster.members[3].connect(&env).await;
        for key in &acknowledged {
            assert_eq!(last.get(&env, key).await.as_deref(), Some("x"), "{key}");
        }
        let known = ids(&mut last).await;
        assert!(known.contains(&new.id) && !known.contains(&first), "{known:x?}");
        cluster.members.remove(0);
        cluster.assert_equal_hashes(&env).await;
    });
}

#[test]
fn a_wiped_member_is_refused_until_it_is_replaced() {
    run(async |env| {
        let mut cluster = Cluster::start(3, &[]);
        let mut client = cluster.members[1].connect(&env).await;
        client.put(&env, "a", "1").await;
        let wiped = cluster.members[0].connect(&env).await.status(&env).await;
        let wiped = wiped.header.unwrap().member_id;
        cluster.members[0].kill();
        fs::remove_dir_all(&cluster.members[0].data_dir).unwrap();
        // With a vote and a log forgotten it could undo what was agreed.
        let (code, log) = cluster.members[0].run_to_end();
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains("has already been bootstrapped"), "{log}");
        fs::remove_dir_all(&cluster.members[0].data_dir).unwrap();

        eventually(&env, async || {
            client
                .cluster
                .member_remove(pb::MemberRemoveRequest { id: wiped })
                .await
        })
        .await;
        let url = cluster.members[0].peer_url();
        let added = eventually(&env, async || client.cluster.member_add(add(&url, false)).await).await;
        let new = added.into_inner().member.unwrap().id;
        assert_ne!(new, wiped, "ids never come back");
        cluster.members[0]
            .flags
            .push("--initial-cluster-state=existing".into());
        cluster.members[0].start();
        let mut replaced = cluster.members[0].connect(&env).await;
        assert_eq!(replaced.get(&env, "a").await.as_deref(), Some("1"));
        assert_eq!(replaced.status(&env).await.header.unwrap().member_id, new);
        cluster.assert_equal_hashes(&env).await;
    });
}

/// The members are no strangers to a new leader: it need not wait until it knows them for as long as the old one did.
#[test]
fn a_removed_leader_is_replaced_at_once() {
    run(async |env| {
        let mut cluster = Cluster::start(3, &[]);
        let leader = cluster.leader(&env, 0).await;
        let removed = cluster.members[leader].connect(&env).await.status(&env).await;
        let id = removed.header.unwrap().member_id;
        let mut client = cluster.members[(leader + 1) % 3].connect(&env).await;
        let remove = pb::MemberRemoveRequest { id };
        eventually(&env, async || client.cluster.member_remove(remove).await).await;
        let (code, log) = cluster.members[leader].end();
        assert_eq!(code, Some(0), "{log}");
        let url = cluster.members[leader].peer_url();
        let added = client.cluster.member_add(add(&url, false)).await;
        added.expect("the cluster is well");
        let member = &mut cluster.members[leader];
        fs::remove_dir_all(&member.data_dir).unwrap();
        member.flags.push("--initial-cluster-state=existing".into());
        member.start();
        cluster.assert_equal_hashes(&env).await;
    });
}

#[test]
fn one_member_goes_on_alone_when_the_others_are_lost() {
    run(async |env| {
        let mut cluster = Cluster::start(3, &[]);
        let mut client = cluster.members[0].connect(&env).await;
        for number in 0..20 {
            client.put(&env, &format!("k{number}"), "v").await;
        }
        let own = client.status(&env).await.header.unwrap().member_id;
        cluster.members.truncate(1);
        let member = &mut cluster.members[0];
        member.kill();
        member.flags.push("--force-new-cluster".into());
        for round in 0..2 {
            member.start();
            let mut client = member.connect(&env).await;
            assert_eq!(ids(&mut client).await, [own]);
            for number in 0..20 {
                assert_eq!(
                    client.get(&env, &format!("k{number}")).await.as_deref(),
                    Some("v"),
                    "k{number} in round {round}"
                );
            }
            client.put(&env, "alone", &round.to_string()).await;
            member.stop(Signal::TERM);
            // The flag does nothing to a cluster of one.
            if round == 1 {
                member.flags.pop();
            }
        }
        member.start();
        let mut client = member.connect(&env).await;
        assert_eq!(client.get(&env, "alone").await.as_deref(), Some("1"));
    });
}

fn replaced(flags: &[String], name: &str, value: &str) -> Vec<String> {
    let prefix = format!("--{name}=");
    let flags = flags.iter().map(|flag| match flag.starts_with(&prefix) {
        true => format!("{prefix}{value}"),
        false => flag.clone(),
    });
    flags.collect()
}

/// As etcd: once there are data, nobody compares the list of first members with anything.
#[test]
fn a_member_whose_peer_url_was_updated_restarts_with_the_new_one() {
    run(async |env| {
        let mut cluster = Cluster::start(1, &[]);
        let member = &mut cluster.members[0];
        let url = format!("http://127.0.0.1:{}", free_port());
        let mut client = member.connect(&env).await;
        client.put(&env, "a", "x").await;
        let id = ids(&mut client).await[0];
        let update = pb::MemberUpdateRequest {
            id,
            peer_ur_ls: vec![url.clone()],
        };
        client.cluster.member_update(update).await.expect("an update");
        member.stop(Signal::TERM);
        let flags = replaced(&member.flags, "listen-peer-urls", &url);
        member.flags = replaced(&flags, "initial-advertise-peer-urls", &url);
        member.start();
        let mut client = member.connect(&env).await;
        assert_eq!(client.get(&env, "a").await.as_deref(), Some("x"));
        member.stop(Signal::TERM);
        // Without data the two have to be one.
        fs::remove_dir_all(&member.data_dir).expect("the data can be removed");
        let (code, log) = member.run_to_end();
        assert_eq!(code, Some(1), "{log}");
        assert!(
            log.contains("but missing from --initial-advertise-peer-urls"),
            "{log}"
        );
    });
}
