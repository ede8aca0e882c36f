//! A member that has lost its quorum: what it still answers, and how it says no.

use std::time::Duration;

use quorate::client::Channel;
use quorate::config::Config;
use quorate::node::Node;
use quorate::proto::etcdserverpb::{
    self as pb, kv_client::KvClient, lease_client::LeaseClient, maintenance_client::MaintenanceClient,
};
use quorate::runtime::Env;
use tonic::Code;

use crate::{PATIENCE, RUNTIME, put, range, refusal};

/// Three members on loopback.
async fn start(env: &Env, dir: &std::path::Path) -> Vec<Node> {
    // Below the range from which the kernel gives ports to connections: nobody takes them between this and the start.
    let mut ports = 10_000 + (std::process::id() % 10_000) as u16..;
    let mut held = Vec::new();
    while held.len() < 3 {
        let port = ports.next().expect("there are free ports");
        held.extend(env.listen(&format!("127.0.0.1:{port}")).await);
    }
    let addresses: Vec<String> = held.iter().map(|listener| listener.local_address()).collect();
    drop(held);
    let url = |address: &String| vec![format!("http://{address}")];
    let cluster: Vec<_> = addresses
        .iter()
        .enumerate()
        .map(|(at, address)| (format!("m{at}"), url(address)))
        .collect();
    let mut nodes = Vec::new();
    for (at, address) in addresses.iter().enumerate() {
        let config = Config {
            name: format!("m{at}"),
            data_dir: dir.join(format!("m{at}")),
            listen_client: vec!["127.0.0.1:0".into()],
            listen_peer: vec![address.clone().into()],
            advertise_peer_urls: url(address),
            initial_cluster: cluster.clone(),
            heartbeat_interval: Duration::from_millis(50),
            election_timeout: Duration::from_millis(500),
            log_segment_bytes: 1 << 20,
            ..Config::default()
        };
        nodes.push(Node::start(env.clone(), config).await.unwrap());
    }
    for node in &nodes {
        env.timeout(PATIENCE, node.ready())
            .await
            .expect("ready in time")
            .unwrap();
    }
    nodes
}

fn with_leader<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request
        .metadata_mut()
        .insert("hasleader", "true".parse().unwrap());
    request
}

#[test]
fn who_demands_a_leader_is_told_that_there_is_none() {
    RUNTIME.block_on(async {
        let env = quorate::runtime::tokio::env();
        let dir = tempfile::tempdir().unwrap();
        let mut nodes = start(&env, dir.path()).await;
        let survivor = nodes.remove(0);
        let channel = Channel::connect(&env, &survivor.client_addresses()[0], PATIENCE)
            .await
            .unwrap();
        let mut kv = KvClient::new(channel.clone());
        kv.put(with_leader(put("a", "1"))).await.unwrap();
        let mut lease = LeaseClient::new(channel.clone());
        let mut strict = lease
            .lease_keep_alive(with_leader(tokio_stream::pending()))
            .await
            .unwrap()
            .into_inner();
        for node in nodes {
            node.stop().await;
        }
        let no_leader = (Code::Unavailable, "etcdserver: no leader".to_owned());
        let ended = env
            .timeout(PATIENCE, strict.message())
            .await
            .expect("the stream ends");
        assert_eq!(refusal(ended), no_leader);
        // By then the member has been without a leader for three election time-outs.
        assert_eq!(refusal(kv.put(with_leader(put("a", "2"))).await), no_leader);
        let opened = lease.lease_keep_alive(with_leader(tokio_stream::pending())).await;
        assert_eq!(refusal(opened.map(|_| ())), no_leader);

        let local = pb::RangeRequest {
            serializable: true,
            ..range("a", "")
        };
        let answer = kv.range(local).await.unwrap().into_inner();
        assert_eq!(answer.kvs[0].value, "1", "what is local can still be read");
        let late = refusal(kv.range(with_deadline(range("a", ""))).await);
        assert_eq!(late, (Code::DeadlineExceeded, "context deadline exceeded".into()));
        let mut maintenance = MaintenanceClient::new(channel.clone());
        let status = maintenance
            .status(pb::StatusRequest {})
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            (status.leader, &*status.errors),
            (0, &["etcdserver: no leader".to_owned()][..])
        );
        survivor.stop().await;
    });
}

fn with_deadline<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(Duration::from_millis(300));
    request
}
