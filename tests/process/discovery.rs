//! Members that know nothing of one another but a token and a discovery service, or a domain that lists them.
// Helpers of tests are tests too.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::net::UdpSocket;

use quorate::client::Channel;
use quorate::proto::etcdserverpb as pb;
use quorate::runtime::Env;

use super::support::{Client, Cluster, Member, PATIENCE, run, wait_for};
use super::tls::{Authority, SERVER, secure, start};

const TOKEN: &str = "8A591FAB-1D72-41FA-BDF2-A27162FDA1E0";

fn size_key() -> String {
    format!("/_etcd/registry/{TOKEN}/_config/size")
}

fn members_key() -> String {
    format!("/_etcd/registry/{TOKEN}/members/")
}

/// A service that was asked for a cluster of `size`.
async fn service(env: &Env, size: &str) -> Cluster {
    let service = Cluster::start(1, &[]);
    let mut client = service.members[0].connect(env).await;
    client.put(env, &size_key(), size).await;
    service
}

/// Members that look for one another there; none runs.
fn seekers(size: usize, endpoints: &str, flags: &[&str]) -> Cluster {
    let mut cluster = Cluster::new(size, flags);
    for member in &mut cluster.members {
        member
            .flags
            .retain(|flag| !flag.starts_with("--initial-cluster="));
        member.flags.push(format!("--discovery-token={TOKEN}"));
        member.flags.push(format!("--discovery-endpoints={endpoints}"));
    }
    cluster
}

async fn names(env: &Env, client: &mut Client) -> Vec<String> {
    let request = pb::MemberListRequest { linearizable: true };
    let answer = env.timeout(PATIENCE, client.cluster.member_list(request)).await;
    let members = answer.unwrap().unwrap().into_inner().members;
    let names: BTreeSet<String> = members.into_iter().map(|member| member.name).collect();
    names.into_iter().collect()
}

/// Waits for a line of a member that runs.
fn wait_for_line(member: &Member, part: &str) {
    wait_for(&format!("{part:?} in the log of {}", member.name), || {
        member.log().contains(part).then_some(())
    });
}

fn start_all(cluster: &mut Cluster) {
    cluster.members.iter_mut().for_each(Member::spawn);
    cluster.members.iter_mut().for_each(Member::wait_ready);
}

#[test]
fn three_members_find_one_another() {
    run(async |env| {
        let service = service(&env, "3").await;
        let mut cluster = seekers(3, &service.members[0].address, &[]);
        start_all(&mut cluster);
        let mut client = cluster.members[1].connect(&env).await;
        client.put(&env, "a", "1").await;
        assert_eq!(names(&env, &mut client).await, ["m0", "m1", "m2"]);
        cluster.assert_equal_hashes(&env).await;

        // What it found out is kept: neither the service nor the token is needed again.
        drop(service);
        cluster.members[0].kill();
        cluster.members[0].start();
        wait_for_line(&cluster.members[0], "discovery token is ignored");
        let mut client = cluster.members[0].connect(&env).await;
        assert_eq!(client.get(&env, "a").await.as_deref(), Some("1"));
    });
}

#[test]
fn who_comes_too_late_is_refused() {
    run(async |env| {
        let service = service(&env, "1").await;
        let mut cluster = seekers(2, &service.members[0].address, &[]);
        cluster.members[0].start();
        let (code, log) = cluster.members[1].run_to_end();
        assert_eq!(code, Some(1), "{log}");
        for part in [
            "discovery: cluster is full",
            "failed to bootstrap; discovery token was already used",
            "do not reuse discovery token",
        ] {
            assert!(log.contains(part), "{part}: {log}");
        }
        let mut registry = service.members[0].connect(&env).await;
        let everybody = pb::RangeRequest {
            key: members_key().into(),
            range_end: members_key().replace("members/", "members0").into(),
            ..Default::default()
        };
        let registered = registry.range(&env, everybody).await.unwrap();
        assert_eq!(registered.kvs.len(), 1, "who is refused does not register");
    });
}

#[test]
fn a_token_that_nobody_made_is_refused() {
    run(async |env| {
        for (size, text) in [
            (None, "discovery: size key not found"),
            (Some("0"), "discovery: size key is bad"),
            (Some("three"), "discovery: size key is bad"),
        ] {
            let service = Cluster::start(1, &[]);
            if let Some(size) = size {
                let mut client = service.members[0].connect(&env).await;
                client.put(&env, &size_key(), size).await;
            }
            let mut cluster = seekers(1, &service.members[0].address, &[]);
            let (code, log) = cluster.members[0].run_to_end();
            assert_eq!(code, Some(1), "{log}");
            assert!(
                log.contains(&format!("failed to join discovery cluster ({text})")),
                "{log}"
            );
        }
    });
}

#[test]
fn a_member_that_died_waiting_registers_again() {
    run(async |env| {
        let service = service(&env, "2").await;
        let mut cluster = seekers(2, &service.members[0].address, &[]);
        cluster.members[0].spawn();
        wait_for_line(&cluster.members[0], "waiting for peers from discovery service");
        cluster.members[0].kill();
        cluster.members[0].spawn();
        wait_for_line(&cluster.members[0], "waiting for peers from discovery service");
        // Nonsense beside the members does not count.
        let mut registry = service.members[0].connect(&env).await;
        registry
            .put(&env, &format!("{}0", members_key()), "nonsense")
            .await;
        wait_for_line(&cluster.members[0], "invalid peer info returned from discovery");
        cluster.members[1].start();
        cluster.members[0].wait_ready();
        let mut client = cluster.members[0].connect(&env).await;
        assert_eq!(names(&env, &mut client).await, ["m0", "m1"]);
    });
}

#[test]
fn two_members_of_one_name_are_no_cluster() {
    run(async |env| {
        let service = service(&env, "2").await;
        let mut cluster = seekers(2, &service.members[0].address, &[]);
        for flag in &mut cluster.members[1].flags {
            *flag = flag.replace("--name=m1", "--name=m0");
        }
        cluster.members.iter_mut().for_each(Member::spawn);
        for member in &mut cluster.members {
            let (code, log) = member.end();
            assert_eq!(code, Some(1), "{log}");
            assert!(
                log.contains("more than one member with the name \\\"m0\\\""),
                "{log}"
            );
        }
    });
}

#[test]
fn a_service_that_is_not_there_yet_is_waited_for() {
    run(async |env| {
        let mut service = service(&env, "1").await;
        service.members[0].kill();
        let nobody = format!("127.0.0.1:{}", super::support::free_port());
        let endpoints = format!("http://{nobody},http://{}", service.members[0].address);
        let mut cluster = seekers(1, &endpoints, &["--discovery-request-timeout=1s"]);
        cluster.members[0].spawn();
        wait_for_line(
            &cluster.members[0],
            "failed to get cluster size from discovery service",
        );
        wait_for_line(&cluster.members[0], "retry connecting to discovery service");
        // A signal is heard meanwhile.
        let status = cluster.members[0].stop(rustix::process::Signal::TERM);
        assert!(!status.success());

        cluster.members[0].spawn();
        wait_for_line(&cluster.members[0], "retry connecting to discovery service");
        service.members[0].start();
        cluster.members[0].wait_ready();
    });
}

#[test]
fn a_service_may_ask_for_certificates_and_passwords() {
    run(async |env| {
        let (ours, theirs) = (Authority::new(), Authority::new());
        ours.issue("server", 1);
        ours.issue("alice", 2);
        let demand = ["--trusted-ca-file=@/ca.pem", "--client-cert-auth"];
        let service = start(secure(
            1,
            "clients",
            &ours.flags(&[&SERVER[..], &demand].concat()),
        ));
        let address = &service.members[0].address;
        let alice = super::tls::connect(&env, address, ours.client(Some("alice"))).await;
        let mut client = alice.unwrap().client;
        client.put(&env, &size_key(), "1").await;
        protect(&mut client).await;

        let attempt = |flags: &[&str]| {
            let flags = ours.flags(flags);
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            seekers(1, address, &flags)
        };
        let shown = ["--discovery-cert=@/alice.pem", "--discovery-key=@/alice.key"];
        let trusted = [&shown[..], &["--discovery-cacert=@/ca.pem"]].concat();
        let root = ["--discovery-user=root", "--discovery-password=secret"];

        let wrong = [&trusted[..], &["--discovery-user=root:wrong"]].concat();
        let (code, log) = attempt(&wrong).members[0].run_to_end();
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains("authentication failed"), "{log}");

        // Another authority's servers are not believed, unless all are.
        let foreign = format!("--discovery-cacert={}", theirs.path("ca.pem").display());
        let suspicious = [&shown[..], &root, &[&foreign]].concat();
        let (code, log) = attempt(&suspicious).members[0].run_to_end();
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains("failed to join discovery cluster"), "{log}");

        let mut cluster = attempt(&[&trusted[..], &root].concat());
        cluster.members[0].start();

        // The next cluster, by a client that believes everybody.
        let request = pb::DeleteRangeRequest {
            key: members_key().into(),
            range_end: members_key().replace("members/", "members0").into(),
            ..Default::default()
        };
        client
            .kv
            .delete_range(as_root(&mut client.auth, request).await)
            .await
            .unwrap();
        let credulous = [&shown[..], &root, &["--discovery-insecure-skip-tls-verify"]].concat();
        attempt(&credulous).members[0].start();
    });
}

/// Root with a password, and authentication.
async fn protect(client: &mut Client) {
    let user = pb::AuthUserAddRequest {
        name: "root".into(),
        password: "secret".into(),
        ..Default::default()
    };
    let role = pb::AuthRoleAddRequest { name: "root".into() };
    let grant = pb::AuthUserGrantRoleRequest {
        user: "root".into(),
        role: "root".into(),
    };
    client.auth.user_add(user).await.unwrap();
    client.auth.role_add(role).await.unwrap();
    client.auth.user_grant_role(grant).await.unwrap();
    client.auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();
}

async fn as_root<T>(auth: &mut pb::auth_client::AuthClient<Channel>, message: T) -> tonic::Request<T> {
    let credentials = pb::AuthenticateRequest {
        name: "root".into(),
        password: "secret".into(),
    };
    let token = auth.authenticate(credentials).await.unwrap().into_inner().token;
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("token", token.parse().unwrap());
    request
}

#[test]
fn a_running_cluster_is_not_discovered() {
    run(async |env| {
        let service = service(&env, "1").await;
        let flags = ["--initial-cluster-state=existing"];
        let mut cluster = seekers(1, &service.members[0].address, &flags);
        let (code, log) = cluster.members[0].run_to_end();
        assert_eq!(code, Some(1), "{log}");
        let text = "discovery URL should not be set when joining existing initial cluster";
        assert!(log.contains(text), "{log}");
    });
}

/// A name server that knows these services, by name, all at "localhost". It goes on to the end of the process.
fn name_server(services: Vec<(String, Vec<u16>)>) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            let answer = answer(&question[..length], &services);
            socket.send_to(&answer, from).unwrap();
        }
    });
    address.to_string()
}

/// RFC 1035: the header and the question come back, then a record for each port.
fn answer(question: &[u8], services: &[(String, Vec<u16>)]) -> Vec<u8> {
    let (mut name, mut at) = (Vec::new(), 12);
    while question[at] != 0 {
        let end = at + 1 + usize::from(question[at]);
        name.push(String::from_utf8_lossy(&question[at + 1..end]).into_owned());
        at = end;
    }
    let name = name.join(".");
    let found = services.iter().find(|(known, _)| *known == name);
    let ports = found.map(|(_, ports)| ports.as_slice()).unwrap_or_default();
    let mut bytes = question[..2].to_vec();
    // A response; no such name, if there is none.
    bytes.extend([0x81, if found.is_some() { 0x80 } else { 0x83 }, 0, 1]);
    bytes.extend([0, ports.len() as u8, 0, 0, 0, 0]);
    bytes.extend(&question[12..at + 5]);
    for port in ports {
        bytes.extend([0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60, 0, 17, 0, 0, 0, 0]);
        bytes.extend(port.to_be_bytes());
        bytes.extend(b"\x09localhost\0");
    }
    bytes
}

/// Members that DNS lists under a domain; none runs. `suffix` is the end of the service's name.
fn listed(size: usize, suffix: &str, missing: usize, flags: &[&str]) -> Cluster {
    let mut cluster = Cluster::new(size, flags);
    let port = |member: &Member| member.peer_url().rsplit_once(':').unwrap().1.parse().unwrap();
    let ports = cluster.members.iter().skip(missing).map(port).collect();
    let service = format!("_etcd-server{suffix}._tcp.cluster.example");
    let resolver = name_server(vec![(service, ports)]);
    for member in &mut cluster.members {
        member.launcher = vec!["env".to_owned(), format!("QUORATE_NAME_SERVER={resolver}")];
        member
            .flags
            .retain(|flag| !flag.starts_with("--initial-cluster="));
        member.flags.push("--discovery-srv=cluster.example".to_owned());
    }
    cluster
}

#[test]
fn a_domain_lists_three_members() {
    run(async |env| {
        for (suffix, flags) in [("", &[][..]), ("-blue", &["--discovery-srv-name=blue"])] {
            let mut cluster = listed(3, suffix, 0, flags);
            start_all(&mut cluster);
            let mut client = cluster.members[1].connect(&env).await;
            client.put(&env, "a", "1").await;
            assert_eq!(names(&env, &mut client).await, ["m0", "m1", "m2"]);
            cluster.assert_equal_hashes(&env).await;

            // DNS is not asked again.
            cluster.members[0].kill();
            fs::write(cluster.members[0].data_dir.with_extension("resolv"), "").unwrap();
            cluster.members[0].start();
        }
    });
}

#[test]
fn a_domain_that_lists_nobody_or_only_others_is_refused() {
    let check = |mut cluster: Cluster, parts: &[&str]| {
        let (code, log) = cluster.members[0].run_to_end();
        assert_eq!(code, Some(1), "{log}");
        for part in parts {
            assert!(log.contains(part), "{part}: {log}");
        }
    };
    check(
        listed(1, "-other", 0, &[]),
        &[
            "error setting up initial cluster: error querying DNS SRV records for _etcd-server-ssl lookup ",
            "error querying DNS SRV records for _etcd-server lookup _etcd-server._tcp.cluster.example: ",
            "no such host",
        ],
    );
    check(
        listed(2, "", 1, &[]),
        &["cannot find local etcd member \\\"m0\\\" in SRV records"],
    );
    // Listed for TLS, advertised without.
    check(
        listed(1, "-ssl", 0, &[]),
        &["has scheme mismatch with expected peer http://127.0.0.1:"],
    );
}

/// Members with certificates for the domain, and no authority but the system's, which is ours for once.
#[test]
fn who_is_listed_for_tls_vouches_for_the_domain() {
    run(async |env| {
        let ours = Authority::new();
        ours.issue_for("member", 1, &["cluster.example"]);
        ours.issue_for("stranger", 2, &["localhost", "127.0.0.1"]);
        let secure = |certificate: &str| {
            let flags = ours.flags(&[
                &*format!("--peer-cert-file=@/{certificate}.pem"),
                &*format!("--peer-key-file=@/{certificate}.key"),
            ]);
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            let mut cluster = listed(3, "-ssl", 0, &flags);
            for member in &mut cluster.members {
                member.launcher.extend(ours.flags(&["SSL_CERT_FILE=@/ca.pem"]));
                for flag in &mut member.flags {
                    if flag.contains("peer-urls=") {
                        *flag = flag.replace("http://", "https://");
                    }
                }
            }
            cluster
        };
        let mut cluster = secure("member");
        start_all(&mut cluster);
        let mut client = cluster.members[2].connect(&env).await;
        client.put(&env, "a", "1").await;
        cluster.assert_equal_hashes(&env).await;

        let mut strangers = secure("stranger");
        strangers.members.iter_mut().for_each(Member::spawn);
        wait_for_line(&strangers.members[0], "a peer cannot be reached");
        assert!(!strangers.members[0].log().contains(super::support::READY));
    });
}
