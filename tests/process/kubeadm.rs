//! A control plane as kubeadm makes it: the flags of its static pods, certificates everywhere, members that join one after
//! another as learners, and one that is reset and joins again, all under load.
//!
//! The nodes are loopback addresses, so that each has kubeadm's own ports.
// Helpers of tests are tests too.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::fs;

use quorate::proto::etcdserverpb as pb;
use quorate::runtime::Env;

use super::members::{Load, add, eventually};
use super::support::{Client, Cluster, PATIENCE, connect as connect_plainly, http_get, run};
use super::tls::{Authority, connect};

const NODES: [&str; 3] = ["127.77.0.1", "127.77.0.2", "127.77.0.3"];

fn name(node: usize) -> String {
    format!("control-plane-{node}")
}

fn peer_url(node: usize) -> String {
    format!("https://{}:2380", NODES[node])
}

struct ControlPlane {
    pki: Authority,
    cluster: Cluster,
}

impl ControlPlane {
    fn new() -> ControlPlane {
        let pki = Authority::new();
        for (node, host) in NODES.iter().enumerate() {
            let hosts = [&name(node), "localhost", "127.0.0.1", host];
            pki.issue_for(&format!("server-{node}"), 10 + node as u64, &hosts);
            pki.issue_for(&format!("peer-{node}"), 20 + node as u64, &hosts);
        }
        pki.issue("apiserver-etcd-client", 1);
        let mut cluster = Cluster::new(NODES.len(), &[]);
        for (member, host) in cluster.members.iter_mut().zip(NODES) {
            member.address = format!("{host}:2379");
        }
        ControlPlane { pki, cluster }
    }

    /// The command of the static pod, as kubeadm writes it for etcd 3.6 and later. `others`: who is there already.
    fn write_manifest(&mut self, node: usize, others: &[usize]) {
        let host = NODES[node];
        let listed = others.iter().chain([&node]);
        let listed = listed.map(|node| format!("{}={}", name(*node), peer_url(*node)));
        let mut flags = self.pki.flags(&[
            &format!("--advertise-client-urls=https://{host}:2379"),
            &format!("--cert-file=@/server-{node}.pem"),
            "--client-cert-auth=true",
            &format!("--data-dir={}", self.cluster.members[node].data_dir.display()),
            "--feature-gates=InitialCorruptCheck=true",
            &format!("--initial-advertise-peer-urls={}", peer_url(node)),
            &format!("--initial-cluster={}", listed.collect::<Vec<_>>().join(",")),
            &format!("--key-file=@/server-{node}.key"),
            &format!("--listen-client-urls=https://{host}:2379"),
            &format!("--listen-metrics-urls=http://{host}:2381"),
            &format!("--listen-peer-urls={}", peer_url(node)),
            &format!("--name={}", name(node)),
            &format!("--peer-cert-file=@/peer-{node}.pem"),
            "--peer-client-cert-auth=true",
            &format!("--peer-key-file=@/peer-{node}.key"),
            "--peer-trusted-ca-file=@/ca.pem",
            "--snapshot-count=10000",
            "--trusted-ca-file=@/ca.pem",
            "--watch-progress-notify-interval=5s",
        ]);
        if !others.is_empty() {
            flags.push("--initial-cluster-state=existing".into());
        }
        self.cluster.members[node].flags = flags;
    }

    async fn client(&self, env: &Env, node: usize) -> Client {
        let config = self.pki.client(Some("apiserver-etcd-client"));
        let connected = connect(env, &self.cluster.members[node].address, config).await;
        connected.expect("the API server's certificate is good").client
    }

    /// `kubeadm join`: a learner, which is started and promoted. Its id.
    async fn join(&mut self, env: &Env, node: usize, others: &[usize]) -> u64 {
        let mut asked = self.client(env, others[0]).await;
        let url = peer_url(node);
        let added = eventually(env, async || asked.cluster.member_add(add(&url, true)).await).await;
        let id = added.into_inner().member.unwrap().id;
        self.write_manifest(node, others);
        self.cluster.members[node].start();
        assert_eq!(probe(node, "/livez").0, 200);
        // It may have been promoted by nobody yet.
        let (code, why) = probe(node, "/readyz?verbose");
        assert!(
            code == 503 && why.contains("[-]non_learner failed"),
            "{code} {why}"
        );
        eventually(env, async || {
            asked
                .cluster
                .member_promote(pb::MemberPromoteRequest { id })
                .await
        })
        .await;
        self.assert_healthy(env, node).await;
        id
    }

    /// The probes of the static pod succeed.
    async fn assert_healthy(&self, env: &Env, node: usize) {
        for path in ["/livez", "/readyz", "/health"] {
            let deadline = env.now() + PATIENCE;
            while probe(node, path).0 != 200 {
                assert!(env.now() < deadline, "{path}: {:?}", probe(node, path));
                env.sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

fn probe(node: usize, path: &str) -> (u16, String) {
    http_get(&format!("{}:2381", NODES[node]), path)
}

#[test]
fn a_control_plane_grows_and_replaces_a_node_under_load() {
    run(async |env| {
        let mut plane = ControlPlane::new();
        plane.write_manifest(0, &[]);
        plane.cluster.members[0].start();
        plane.assert_healthy(&env, 0).await;

        let load = Load::start(&env, vec![plane.client(&env, 0).await], "grow");
        plane.join(&env, 1, &[0]).await;
        plane.join(&env, 2, &[0, 1]).await;
        let mut acknowledged = load.end().await;

        // The first node is reset, which removes the member and its data, and joins again.
        let clients = vec![plane.client(&env, 1).await, plane.client(&env, 2).await];
        let mut one = clients[0].clone();
        let load = Load::start(&env, clients, "replace");
        let old = plane
            .client(&env, 0)
            .await
            .status(&env)
            .await
            .header
            .unwrap()
            .member_id;
        let request = pb::MemberRemoveRequest { id: old };
        eventually(&env, async || one.cluster.member_remove(request).await).await;
        assert_eq!(plane.cluster.members[0].end().0, Some(0));
        fs::remove_dir_all(&plane.cluster.members[0].data_dir).unwrap();
        let new = plane.join(&env, 0, &[1, 2]).await;
        assert_ne!(new, old);
        acknowledged.extend(load.end().await);
        assert!(acknowledged.len() > 100, "{}", acknowledged.len());

        let revision = one.linearizable_revision(&env).await;
        let mut hashes = Vec::new();
        for node in 0..NODES.len() {
            let mut client = plane.client(&env, node).await;
            for key in &acknowledged {
                assert_eq!(client.get(&env, key).await.as_deref(), Some("x"), "{key}");
            }
            let hash = client.maintenance.hash_kv(pb::HashKvRequest { revision }).await;
            hashes.push(hash.unwrap().into_inner().hash);
            plane.assert_healthy(&env, node).await;
        }
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");

        // Nobody gets in without a certificate.
        let address = &plane.cluster.members[0].address;
        assert!(connect(&env, address, plane.pki.client(None)).await.is_err());
        let mut plain = connect_plainly(&env, address).await;
        assert!(plain.try_status(&env).await.is_err());
    });
}
