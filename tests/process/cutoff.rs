//! A follower that hears nobody any more, of three: it says so, in etcd's words and at about etcd's times.
//!
//! The two others are stopped, not killed: their systems keep the connections and say nothing, as a network does that
//! swallows everything. The same is done to a real etcd where there is one on the PATH, and the answers have to be equal.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{join, join_all};
use quorate::proto::etcdserverpb as pb;
use quorate::runtime::{BoxFuture, Env};
use tonic::Streaming;

use super::etcdctl::find_all;
use super::support::{Client, Cluster, PATIENCE, http_get, run};

/// How long things may take here. The election timeout is a second, and etcd's own times are 1.6 s for the status, 4.3 s for
/// the watch, and nothing for `/health` once there is no leader; the rest is for a machine with other things to do.
const NOTICED_MAX: Duration = Duration::from_secs(4);
const WATCH_ENDED_MAX: Duration = Duration::from_secs(8);
const HEALTH_MAX: Duration = Duration::from_secs(2);
const HEARD_AGAIN_MAX: Duration = Duration::from_secs(10);
const NO_ANSWER: &str = "no answer";

/// What was answered, and when.
#[derive(Default)]
struct Seen {
    answers: BTreeMap<&'static str, String>,
    times: BTreeMap<&'static str, Duration>,
}

fn with_leader<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("hasleader", "true".parse().expect("a value of metadata"));
    request
}

fn described<T>(answer: Result<T, tonic::Status>) -> String {
    match answer {
        Ok(_) => "ok".to_owned(),
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
    }
}

/// A watch on one key that demands a leader, or not.
async fn watch(client: &mut Client, key: &'static str, demands_leader: bool) -> Streaming<pb::WatchResponse> {
    let create = pb::WatchCreateRequest {
        key: key.into(),
        ..Default::default()
    };
    let create = pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
    };
    let requests = tokio_stream::iter([create]).chain(tokio_stream::pending());
    let opened = match demands_leader {
        true => client.watch.watch(with_leader(requests)).await,
        false => client.watch.watch(requests).await,
    };
    let mut answers = opened.expect("a stream").into_inner();
    let created = answers.message().await.expect("an answer").expect("an answer");
    assert!(created.created);
    answers
}

async fn get(env: &Env, address: &str, path: &'static str) -> (u16, String) {
    let address = address.to_owned();
    env.run_blocking(move || http_get(&address, path)).await
}

/// The value of a figure without labels.
fn figure(page: &str, name: &str) -> String {
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or("absent").to_owned()
}

/// Polls until a member names no leader, or names one.
async fn wait_for_leader(env: &Env, client: &mut Client, wanted: bool) -> pb::StatusResponse {
    let deadline = env.now() + PATIENCE;
    loop {
        let status = client.status(env).await;
        if (status.leader != 0) == wanted {
            return status;
        }
        assert!(env.now() < deadline, "leader: {:x}", status.leader);
        env.sleep(Duration::from_millis(20)).await;
    }
}

/// Calls that a member without a leader refuses or answers, all at once.
async fn ask(env: &Env, address: &str, client: &Client, lease: i64, seen: &mut Seen) {
    let range = |serializable| pb::RangeRequest {
        key: "a".into(),
        serializable,
        ..Default::default()
    };
    let begun = env.now();
    let strict = async {
        let mut client = client.clone();
        described(client.kv.range(with_leader(range(true))).await)
    };
    let local = async {
        let mut client = client.clone();
        described(client.kv.range(range(true)).await)
    };
    let linearizable = async {
        let mut client = client.clone();
        described(client.kv.range(range(false)).await)
    };
    let put = async {
        let mut client = client.clone();
        described(client.try_put(env, "never", "1").await)
    };
    let keep_alive = async {
        let mut client = client.clone();
        let renewal = tokio_stream::iter([pb::LeaseKeepAliveRequest { id: lease }]);
        let renewal = renewal.chain(tokio_stream::pending());
        match client.lease.lease_keep_alive(renewal).await {
            Ok(answers) => described(answers.into_inner().message().await),
            // Where the head of the answer waits for the first message.
            Err(status) => described::<()>(Err(status)),
        }
    };
    let time_to_live = async {
        let mut client = client.clone();
        let request = pb::LeaseTimeToLiveRequest {
            id: lease,
            keys: false,
        };
        described(client.lease.lease_time_to_live(request).await)
    };
    let member_add = async {
        let mut client = client.clone();
        let request = pb::MemberAddRequest {
            peer_ur_ls: vec!["http://127.0.0.1:1".into()],
            is_learner: false,
        };
        described(client.cluster.member_add(request).await)
    };
    let page = async |path| {
        let (status, body) = get(env, address, path).await;
        format!("{status} {}", body.trim_end())
    };
    let questions: Vec<(&'static str, BoxFuture<'_, String>)> = vec![
        ("hasleader", Box::pin(strict)),
        ("serializable", Box::pin(local)),
        ("linearizable", Box::pin(linearizable)),
        ("put", Box::pin(put)),
        ("keep-alive", Box::pin(keep_alive)),
        ("time-to-live", Box::pin(time_to_live)),
        ("member add", Box::pin(member_add)),
        ("/health", Box::pin(page("/health"))),
        (
            "/health?serializable=true",
            Box::pin(page("/health?serializable=true")),
        ),
        ("/livez", Box::pin(page("/livez"))),
    ];
    let timed = questions.into_iter().map(async |(name, question)| {
        let answer = env.timeout(PATIENCE, question).await;
        let answer: String = answer.unwrap_or_else(|_| NO_ANSWER.into());
        (name, answer, env.now() - begun)
    });
    for (name, answer, took) in join_all(timed).await {
        seen.answers.insert(name, answer);
        seen.times.insert(name, took);
    }
}

/// etcd ends a connection that asks for `/readyz` without an answer when its read has waited in vain.
async fn cut_off(env: &Env, cluster: &mut Cluster, is_etcd: bool) -> Seen {
    let mut seen = Seen::default();
    let follower = (cluster.leader(env, 0).await + 1) % 3;
    let address = cluster.members[follower].address.clone();
    let mut client = cluster.members[follower].connect(env).await;
    client.put_eventually(env, "a", "1").await;
    let lease = pb::LeaseGrantRequest { ttl: 600, id: 0 };
    let lease = client
        .lease
        .lease_grant(lease)
        .await
        .expect("a lease")
        .into_inner()
        .id;
    let mut strict = watch(&mut client, "a", true).await;
    let mut lax = watch(&mut client, "a", false).await;
    assert_eq!(get(env, &address, "/health").await.0, 200);

    let others = [(follower + 1) % 3, (follower + 2) % 3];
    others.iter().for_each(|other| cluster.members[*other].pause());
    let cut = env.now();
    // Asked for when nobody can know yet.
    let early = async {
        let page = get(env, &address, "/health").await;
        (page, env.now() - cut)
    };
    let mut asking = client.clone();
    let noticed = async {
        let status = wait_for_leader(env, &mut asking, false).await;
        let noticed = env.now() - cut;
        let health = get(env, &address, "/health").await;
        (status, noticed, health, env.now() - cut - noticed)
    };
    let ended = async {
        let ended = env.timeout(PATIENCE, strict.message()).await;
        (described(ended.expect("the watch ends")), env.now() - cut)
    };
    let ((early, noticed), (ended, ended_after)) = join(join(early, noticed), ended).await;
    let (status, noticed_after, health, health_took) = noticed;
    assert_eq!(health.0, 503, "{}", health.1);
    seen.answers.insert("status", status.errors.join(", "));
    seen.answers.insert("watch", ended);
    seen.times.insert("status", noticed_after);
    seen.times.insert("watch", ended_after);
    seen.times.insert("first /health", health_took);
    seen.times.insert("/health, from the cut", early.1);
    let ready = async {
        if !is_etcd {
            let (status, body) = get(env, &address, "/readyz").await;
            assert_eq!(status, 503, "{body}");
            assert!(body.contains("[-]linearizable_read failed"), "{body}");
        }
    };
    join(ready, ask(env, &address, &client, lease, &mut seen)).await;
    let (_, page) = get(env, &address, "/metrics").await;
    seen.answers
        .insert("has leader", figure(&page, "etcd_server_has_leader"));
    let changes = figure(&page, "etcd_server_leader_changes_seen_total");

    others.iter().for_each(|other| cluster.members[*other].resume());
    let healed = env.now();
    wait_for_leader(env, &mut client, true).await;
    seen.times.insert("a leader again", env.now() - healed);
    client.put_eventually(env, "a", "2").await;
    let told = env
        .timeout(PATIENCE, lax.message())
        .await
        .expect("an event in time");
    assert_eq!(told.expect("an event").expect("an event").events.len(), 1);
    let (_, page) = get(env, &address, "/metrics").await;
    seen.answers
        .insert("has a leader again", figure(&page, "etcd_server_has_leader"));
    let now = figure(&page, "etcd_server_leader_changes_seen_total");
    seen.answers
        .insert("counts another leader", (now != changes).to_string());
    // Members that did not run for long may elect twice before one of them leads for good.
    let deadline = env.now() + PATIENCE;
    loop {
        let (status, page) = get(env, &address, "/health").await;
        if status == 200 {
            return seen;
        }
        assert!(page.contains("RAFT NO LEADER") && env.now() < deadline, "{page}");
    }
}

#[test]
fn a_follower_that_hears_nobody_says_so() {
    run(async |env| {
        let ours = cut_off(&env, &mut Cluster::start(3, &[]), false).await;
        eprintln!("here: {:#?}\n{:#?}", ours.answers, ours.times);
        let no_leader = "Unavailable: etcdserver: no leader";
        for (name, expected) in [
            ("status", "etcdserver: no leader"),
            ("watch", no_leader),
            ("hasleader", no_leader),
            ("keep-alive", no_leader),
            ("serializable", "ok"),
            ("linearizable", "Unavailable: etcdserver: request timed out"),
            ("/health", r#"503 {"health":"false","reason":"RAFT NO LEADER"}"#),
            ("has leader", "0"),
            ("has a leader again", "1"),
        ] {
            assert_eq!(ours.answers[name], expected, "{name}");
        }
        assert!(ours.answers.values().all(|answer| answer != NO_ANSWER));
        for (name, most) in [
            ("status", NOTICED_MAX),
            ("watch", WATCH_ENDED_MAX),
            ("first /health", HEALTH_MAX),
            ("/health, from the cut", NOTICED_MAX + HEALTH_MAX),
            ("a leader again", HEARD_AGAIN_MAX),
        ] {
            assert!(ours.times[name] <= most, "{name} took {:?}", ours.times[name]);
        }
        let Some(etcd) = find_all("etcd").pop() else {
            return;
        };
        let mut cluster = Cluster::new(3, &[]);
        cluster.members.iter_mut().for_each(|member| {
            member.binary = etcd.clone().into();
            member.spawn();
        });
        cluster.members.iter_mut().for_each(|member| member.wait_ready());
        let mut theirs = cut_off(&env, &mut cluster, true).await;
        eprintln!("etcd: {:#?}\n{:#?}", theirs.answers, theirs.times);
        // Where etcd takes the members for healthy a moment longer, it proposes the change, and waits for as long as the client.
        if theirs.answers["member add"] == NO_ANSWER {
            theirs
                .answers
                .insert("member add", ours.answers["member add"].clone());
        }
        assert_eq!(ours.answers, theirs.answers);
    });
}
