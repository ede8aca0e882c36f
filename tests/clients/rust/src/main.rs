//! The `etcd-client` crate (tonic's own transport, not ours) against an empty server: its address, and with TLS the
//! folder of ca.crt, client.crt and client.key.
//!
//! Every step asserts on its answer; the first that is wrong ends the program with a panic. It takes a real etcd just
//! as well: see `../../run`.

use std::time::Duration;

use etcd_client::{
    Certificate, Client, CompactionOptions, Compare, CompareOp, ConnectOptions, DeleteOptions, Error,
    EventType, GetOptions, Identity, LeaseGrantOptions, LeaseTimeToLiveOptions, Permission, PutOptions,
    ResignOptions, SortOrder, SortTarget, TlsOptions, Txn, TxnOp, TxnOpResponse, WatchOptions, WatchResponse,
    WatchStream,
};

/// How long the whole may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let host = std::env::args().nth(1).expect("the address of a server");
    let certificates = std::env::args().nth(2);
    let (address, over) = match certificates {
        Some(_) => (format!("https://{host}"), " over TLS"),
        None => (host, ""),
    };
    let all = async {
        let options = certificates.as_deref().map(with_tls);
        let mut client = Client::connect([&address], options).await.expect("connects");
        puts_and_gets(&mut client).await.expect("puts and gets");
        transactions(&mut client).await.expect("transactions");
        deletions(&mut client).await.expect("deletions");
        watches(&mut client).await.expect("watches");
        leases(&mut client).await.expect("leases");
        compaction(&mut client).await.expect("compaction");
        members(&mut client).await.expect("members");
        locks(&mut client).await.expect("locks");
        elections(&mut client).await.expect("elections");
        users(&mut client, &address, certificates.as_deref())
            .await
            .expect("users");
    };
    tokio::time::timeout(PATIENCE, all)
        .await
        .expect("everything is answered in time");
    println!("etcd-client{over}: every answer is as expected");
}

fn with_tls(certificates: &str) -> ConnectOptions {
    let read = |name: &str| std::fs::read(format!("{certificates}/{name}")).expect("a certificate");
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(read("ca.crt")))
        .identity(Identity::from_pem(read("client.crt"), read("client.key")));
    ConnectOptions::new().with_tls(tls)
}

/// The text of a refusal.
fn refusal<T>(answer: Result<T, Error>) -> String {
    match answer {
        Err(Error::GRpcStatus(status)) => status.message().to_owned(),
        Err(other) => panic!("refused in another way: {other}"),
        Ok(_) => panic!("should be refused"),
    }
}

fn pair(kv: &etcd_client::KeyValue) -> (&str, &str) {
    (kv.key_str().expect("text"), kv.value_str().expect("text"))
}

/// Revisions 2 to 6: a=1, a=2, b=3, c/1=4, c/2=5.
async fn puts_and_gets(client: &mut Client) -> Result<(), Error> {
    let put = client.put("a", "1", None).await?;
    assert_eq!(put.header().map(|header| header.revision()), Some(2));
    assert!(put.prev_key().is_none());
    let put = client
        .put("a", "2", Some(PutOptions::new().with_prev_key()))
        .await?;
    assert_eq!(put.prev_key().map(pair), Some(("a", "1")));
    for (key, value) in [("b", "3"), ("c/1", "4"), ("c/2", "5")] {
        client.put(key, value, None).await?;
    }
    assert_eq!(
        refusal(client.put("", "x", None).await),
        "etcdserver: key is not provided"
    );

    let got = client.get("a", None).await?;
    let kv = &got.kvs()[0];
    assert_eq!((pair(kv), kv.version()), (("a", "2"), 2));
    assert_eq!((kv.create_revision(), kv.mod_revision(), kv.lease()), (2, 3, 0));
    assert_eq!(got.header().map(|header| header.revision()), Some(6));
    let got = client.get("a", Some(GetOptions::new().with_revision(2))).await?;
    assert_eq!(pair(&got.kvs()[0]), ("a", "1"));
    assert_eq!(client.get("absent", None).await?.count(), 0);

    let limited = GetOptions::new().with_range("z").with_limit(2);
    let got = client.get("a", Some(limited)).await?;
    assert_eq!((got.kvs().len(), got.count(), got.more()), (2, 4, true));
    let counted = GetOptions::new().with_prefix().with_count_only();
    let got = client.get("c/", Some(counted)).await?;
    assert_eq!((got.kvs().len(), got.count()), (0, 2));
    let sorted = GetOptions::new()
        .with_all_keys()
        .with_sort(SortTarget::Mod, SortOrder::Descend);
    let got = client.get("", Some(sorted.with_keys_only())).await?;
    let keys: Vec<_> = got.kvs().iter().map(pair).collect();
    assert_eq!(keys, [("c/2", ""), ("c/1", ""), ("b", ""), ("a", "")]);
    let between = GetOptions::new()
        .with_from_key()
        .with_min_mod_revision(4)
        .with_max_create_revision(5);
    let got = client.get("a", Some(between.with_serializable())).await?;
    let found: Vec<_> = got.kvs().iter().map(pair).collect();
    assert_eq!(found, [("b", "3"), ("c/1", "4")]);
    let future = client.get("a", Some(GetOptions::new().with_revision(1000))).await;
    assert_eq!(
        refusal(future),
        "etcdserver: mvcc: required revision is a future revision"
    );

    let mut pieces = client
        .kv_client()
        .get_stream("c/", Some(GetOptions::new().with_prefix()))
        .await?;
    let mut found = Vec::new();
    while let Some(piece) = pieces.message().await? {
        found.extend(piece.kvs().iter().map(|kv| kv.value().to_vec()));
    }
    assert_eq!(found, [b"4", b"5"]);
    Ok(())
}

/// Revision 7: a=3, d=4.
async fn transactions(client: &mut Client) -> Result<(), Error> {
    let compares = [
        Compare::value("a", CompareOp::Equal, "2"),
        Compare::version("a", CompareOp::Greater, 1),
        Compare::create_revision("a", CompareOp::Less, 3),
        Compare::mod_revision("a", CompareOp::NotEqual, 2),
        Compare::lease("a", CompareOp::Equal, 0),
        Compare::version("c/", CompareOp::Equal, 1).with_prefix(),
    ];
    let inner = Txn::new().when([Compare::version("absent", CompareOp::Greater, 0)]);
    let inner = inner.or_else([TxnOp::put("d", "4", None)]);
    let txn = Txn::new().when(compares).and_then([
        TxnOp::put("a", "3", Some(PutOptions::new().with_prev_key())),
        TxnOp::get("a", None),
        TxnOp::delete("absent", None),
        TxnOp::txn(inner),
    ]);
    let answer = client.txn(txn).await?;
    assert!(answer.succeeded());
    assert_eq!(answer.header().map(|header| header.revision()), Some(7));
    match &answer.op_responses()[..] {
        [
            TxnOpResponse::Put(put),
            TxnOpResponse::Get(get),
            TxnOpResponse::Delete(delete),
            TxnOpResponse::Txn(inner),
        ] => {
            assert_eq!(put.prev_key().map(pair), Some(("a", "2")));
            assert_eq!(pair(&get.kvs()[0]), ("a", "3"));
            assert_eq!(delete.deleted(), 0);
            assert!(!inner.succeeded());
        }
        other => panic!("other answers: {other:?}"),
    }
    let txn = Txn::new()
        .when([Compare::value("a", CompareOp::Equal, "2")])
        .or_else([TxnOp::get("d", None)]);
    let answer = client.txn(txn).await?;
    assert!(!answer.succeeded());
    assert!(
        matches!(&answer.op_responses()[..], [TxnOpResponse::Get(get)] if pair(&get.kvs()[0]) == ("d", "4"))
    );
    let twice = Txn::new().and_then([TxnOp::put("e", "1", None), TxnOp::put("e", "2", None)]);
    assert_eq!(
        refusal(client.txn(twice).await),
        "etcdserver: duplicate key given in txn request"
    );
    Ok(())
}

/// Revision 8.
async fn deletions(client: &mut Client) -> Result<(), Error> {
    let prefix = DeleteOptions::new().with_prefix().with_prev_key();
    let deleted = client.delete("c/", Some(prefix)).await?;
    let before: Vec<_> = deleted.prev_kvs().iter().map(pair).collect();
    assert_eq!(
        (deleted.deleted(), &before[..]),
        (2, &[("c/1", "4"), ("c/2", "5")][..])
    );
    let deleted = client.delete("absent", None).await?;
    assert_eq!(
        (
            deleted.deleted(),
            deleted.header().map(|header| header.revision())
        ),
        (0, Some(8))
    );
    Ok(())
}

async fn next(watch: &mut WatchStream) -> Result<WatchResponse, Error> {
    Ok(watch.message().await?.expect("the stream goes on"))
}

/// Revisions 9 and 10: w=1, w deleted.
async fn watches(client: &mut Client) -> Result<(), Error> {
    let history = WatchOptions::new()
        .with_all_keys()
        .with_start_revision(2)
        .with_prev_key();
    let mut watch = client.watch("", Some(history)).await?;
    assert!(next(&mut watch).await?.created());
    let mut events = Vec::new();
    while events.len() < 9 {
        let response = next(&mut watch).await?;
        assert!(!response.canceled(), "{}", response.cancel_reason());
        for event in response.events() {
            let kv = event.kv().expect("an event has a key");
            let before = event.prev_kv().map(|kv| kv.value_str().expect("text").to_owned());
            events.push((
                event.event_type(),
                kv.key_str()?.to_owned(),
                kv.mod_revision(),
                before,
            ));
        }
    }
    let expected = [
        (EventType::Put, "a", 2, None),
        (EventType::Put, "a", 3, Some("1")),
        (EventType::Put, "b", 4, None),
        (EventType::Put, "c/1", 5, None),
        (EventType::Put, "c/2", 6, None),
        (EventType::Put, "a", 7, Some("2")),
        (EventType::Put, "d", 7, None),
        (EventType::Delete, "c/1", 8, Some("4")),
        (EventType::Delete, "c/2", 8, Some("5")),
    ];
    let expected = expected
        .map(|(kind, key, revision, before)| (kind, key.to_owned(), revision, before.map(str::to_owned)));
    assert_eq!(events, expected);

    watch.request_progress().await?;
    let progress = next(&mut watch).await?;
    assert!(progress.events().is_empty() && !progress.created());
    assert_eq!(progress.header().map(|header| header.revision()), Some(8));

    client.put("w", "1", None).await?;
    client.delete("w", None).await?;
    let mut live = Vec::new();
    while live.len() < 2 {
        live.extend(
            next(&mut watch)
                .await?
                .events()
                .iter()
                .map(|event| event.event_type()),
        );
    }
    assert_eq!(live, [EventType::Put, EventType::Delete]);

    let id = progress.watch_id().max(0);
    watch.cancel(id).await?;
    let canceled = next(&mut watch).await?;
    assert!(canceled.canceled() && canceled.watch_id() == id);
    Ok(())
}

/// Revisions 11 and 12: leased=x, and its end.
async fn leases(client: &mut Client) -> Result<(), Error> {
    let granted = client
        .lease_grant(600, Some(LeaseGrantOptions::new().with_id(77)))
        .await?;
    assert_eq!((granted.id(), granted.ttl()), (77, 600));
    let again = client
        .lease_grant(600, Some(LeaseGrantOptions::new().with_id(77)))
        .await;
    assert_eq!(refusal(again), "etcdserver: lease already exists");
    let chosen = client.lease_grant(600, None).await?.id();
    assert_ne!(chosen, 0);
    client
        .put("leased", "x", Some(PutOptions::new().with_lease(77)))
        .await?;
    let unknown = client
        .put("leased", "x", Some(PutOptions::new().with_lease(1)))
        .await;
    assert_eq!(refusal(unknown), "etcdserver: requested lease not found");

    let (mut keeper, mut kept) = client.lease_keep_alive(77).await?;
    for _ in 0..3 {
        keeper.keep_alive().await?;
        let kept = kept.message().await?.expect("the stream goes on");
        assert_eq!((kept.id(), kept.ttl()), (77, 600));
    }
    let options = LeaseTimeToLiveOptions::new().with_keys();
    let left = client.lease_time_to_live(77, Some(options)).await?;
    assert_eq!(
        (left.granted_ttl(), left.keys()),
        (600, &[b"leased".to_vec()][..])
    );
    assert!((1..=600).contains(&left.ttl()), "{}", left.ttl());
    let mut all: Vec<_> = client
        .leases()
        .await?
        .leases()
        .iter()
        .map(|lease| lease.id())
        .collect();
    all.sort_unstable();
    assert_eq!(all, [77, chosen]);

    client.lease_revoke(77).await?;
    assert_eq!(client.get("leased", None).await?.count(), 0);
    assert_eq!(
        refusal(client.lease_revoke(77).await),
        "etcdserver: requested lease not found"
    );
    assert_eq!(client.lease_time_to_live(77, None).await?.ttl(), -1);
    client.lease_revoke(chosen).await?;
    Ok(())
}

async fn compaction(client: &mut Client) -> Result<(), Error> {
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    client
        .compact(7, Some(CompactionOptions::new().with_physical()))
        .await?;
    assert_eq!(refusal(client.compact(7, None).await), compacted);
    assert_eq!(
        refusal(client.compact(1000, None).await),
        "etcdserver: mvcc: required revision is a future revision"
    );
    assert_eq!(
        refusal(client.get("a", Some(GetOptions::new().with_revision(6))).await),
        compacted
    );
    let got = client
        .get("c/1", Some(GetOptions::new().with_revision(7)))
        .await?;
    assert_eq!(pair(&got.kvs()[0]), ("c/1", "4"));
    let mut watch = client
        .watch("a", Some(WatchOptions::new().with_start_revision(2)))
        .await?;
    assert!(next(&mut watch).await?.created());
    let canceled = next(&mut watch).await?;
    assert!(canceled.canceled());
    assert_eq!(canceled.compact_revision(), 7);
    Ok(())
}

async fn members(client: &mut Client) -> Result<(), Error> {
    let status = client.status().await?;
    let member = status
        .header()
        .map(|header| header.member_id())
        .expect("a header");
    assert_eq!(status.leader(), member);
    assert!(status.version().starts_with("3."), "{}", status.version());
    assert!(status.raft_index() > 0 && status.raft_term() > 0 && status.db_size() > 0);
    assert!(status.errors().is_empty() && !status.is_learner());
    let list = client.member_list().await?;
    assert_eq!(list.members().len(), 1);
    assert_eq!(list.members()[0].id(), member);
    assert!(!list.members()[0].client_urls().is_empty());
    assert_eq!(client.hash_kv(0).await?.compact_version(), 7);
    client.defragment().await?;
    Ok(())
}

async fn locks(client: &mut Client) -> Result<(), Error> {
    let held = client.lock("name", None).await?;
    assert!(held.key().starts_with(b"name/"));
    // Who comes second waits until the first is done.
    let mut other = client.clone();
    let waits = async { other.lock("name", None).await };
    let frees = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        client.unlock(held.key().to_vec()).await
    };
    let (second, freed) = tokio::join!(waits, frees);
    freed?;
    client.unlock(second?.key().to_vec()).await?;
    Ok(())
}

async fn elections(client: &mut Client) -> Result<(), Error> {
    let lease = client.lease_grant(60, None).await?.id();
    let elected = client.campaign("who", "one", lease).await?;
    let leader = elected.leader().expect("a leader").clone();
    let found = client.leader("who").await?;
    assert_eq!(found.kv().map(|kv| kv.value()), Some(&b"one"[..]));
    client
        .resign(Some(ResignOptions::new().with_leader(leader)))
        .await?;
    assert_eq!(refusal(client.leader("who").await), "election: no leader");
    client.lease_revoke(lease).await?;
    Ok(())
}

async fn users(client: &mut Client, address: &str, certificates: Option<&str>) -> Result<(), Error> {
    client.user_add("root", "secret", None).await?;
    client.role_add("root").await?;
    client.user_grant_role("root", "root").await?;
    client.role_add("reader").await?;
    client
        .role_grant_permission("reader", Permission::read("public/").with_prefix())
        .await?;
    client.user_add("alice", "word", None).await?;
    client.user_grant_role("alice", "reader").await?;
    client.put("public/a", "1", None).await?;
    client.auth_enable().await?;
    let connect = async |user: &str, password: &str| {
        let options = certificates.map_or_else(ConnectOptions::new, with_tls);
        Client::connect([address], Some(options.with_user(user, password))).await
    };
    let mut alice = connect("alice", "word").await?;
    assert_eq!(alice.get("public/a", None).await?.kvs().len(), 1);
    assert_eq!(
        refusal(alice.put("public/a", "2", None).await),
        "etcdserver: permission denied"
    );
    assert_eq!(
        refusal(connect("alice", "guess").await),
        "etcdserver: authentication failed, invalid user ID or password"
    );
    let mut root = connect("root", "secret").await?;
    root.auth_disable().await?;
    Ok(())
}
