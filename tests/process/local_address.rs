//! Members whose certificates are for one of several addresses, and from which of them they call the others. Skipped
//! on a machine that has no address but loopback.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used)]

use std::net::UdpSocket;

use super::support::{Cluster, Member, run, wait_for};
use super::tls::Authority;

const GATE: &str = "--feature-gates=SetMemberLocalAddr=true";

/// The address from which this machine would call others. Nothing is sent.
fn own_address() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then(|| address.to_string())
}

/// One member at loopback, and two elsewhere whose certificates are for that address alone. The first has a certificate
/// for `hosts`.
fn cluster(authority: &Authority, elsewhere: &str, hosts: &[&str]) -> Cluster {
    let demand = ["--peer-trusted-ca-file=@/ca.pem", "--peer-client-cert-auth"];
    let flags = authority.flags(&demand);
    let mut cluster = Cluster::new(3, &[&*flags[0], &*flags[1]]);
    let urls: Vec<String> = cluster.members.iter().map(Member::peer_url).collect();
    for (n, member) in cluster.members.iter_mut().enumerate() {
        for flag in &mut member.flags {
            for (at, url) in urls.iter().enumerate() {
                let host = if at == 0 { "127.0.0.1" } else { elsewhere };
                let moved = url.replace("http://127.0.0.1", &format!("https://{host}"));
                *flag = flag.replace(url, &moved);
            }
        }
        let name = format!("peer{n}");
        let own = [elsewhere];
        authority.issue_for(&name, n as u64 + 1, if n == 0 { hosts } else { &own });
        let own = [
            &*format!("--peer-cert-file=@/{name}.pem"),
            &*format!("--peer-key-file=@/{name}.key"),
        ];
        member.flags.extend(authority.flags(&own));
    }
    cluster
}

fn wait_for_line(member: &Member, part: &str) {
    wait_for(&format!("{part:?} in the log of {}", member.name), || {
        member.log().contains(part).then_some(())
    });
}

#[test]
fn with_the_gate_a_member_calls_from_the_address_that_it_advertises() {
    let Some(elsewhere) = own_address() else {
        return println!("skipped: no address but loopback");
    };
    run(async |env| {
        let authority = Authority::new();
        let mut cluster = cluster(&authority, &elsewhere, &["127.0.0.1", &elsewhere]);
        for member in &mut cluster.members[1..] {
            member.flags.push(GATE.to_owned());
        }
        cluster.members.iter_mut().for_each(Member::spawn);
        cluster.members.iter_mut().for_each(Member::wait_ready);
        cluster.assert_equal_hashes(&env).await;
        for member in &cluster.members {
            assert!(!member.log().contains("x509"), "{}", member.log());
        }

        // Without it the system chooses: loopback, to loopback. With the third gone, whichever of the two leads, the
        // second has to call the first: to be elected, or to pass on a write.
        cluster.members[2].kill();
        cluster.members[1].kill();
        cluster.members[1].flags.pop();
        cluster.members[1].spawn();
        let mut client = cluster.members[1].connect(&env).await;
        client.try_put(&env, "a", "1").await.ok();
        let refused = format!("x509: certificate is valid for {elsewhere}, not 127.0.0.1");
        wait_for_line(&cluster.members[0], &refused);
    });
}

#[test]
fn a_member_that_is_refused_everywhere_takes_part_if_it_can_be_called() {
    let Some(elsewhere) = own_address() else {
        return println!("skipped: no address but loopback");
    };
    run(async |env| {
        let authority = Authority::new();
        let mut cluster = cluster(&authority, &elsewhere, &["127.0.0.1"]);
        for member in &mut cluster.members[1..] {
            member.flags.push(GATE.to_owned());
        }
        cluster.members.iter_mut().for_each(Member::spawn);
        cluster.members.iter_mut().for_each(Member::wait_ready);
        wait_for_line(
            &cluster.members[1],
            "x509: certificate is valid for 127.0.0.1, not",
        );
        // Its clients write and read as everybody's.
        let mut client = cluster.members[0].connect(&env).await;
        client.put_eventually(&env, "a", "1").await;
        assert_eq!(client.get(&env, "a").await.as_deref(), Some("1"));
        cluster.assert_equal_hashes(&env).await;
    });
}
