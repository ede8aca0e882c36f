//! Members behind a device that knows nothing of half-closed connections: at the first end-of-stream of either
//! direction it closes both, as many a relay, proxy or load balancer does.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::support::{Cluster, free_port, run};

/// Answers take so long that the end of what is asked is always there first.
const WAY_BACK: Duration = Duration::from_millis(10);

/// A relay in front of one port.
struct Relay {
    port: u16,
    connections: Arc<AtomicU64>,
}

impl Relay {
    /// Relays to a port of this machine, as long as the tests run.
    fn start(to: u16) -> Relay {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
        let connections = Arc::new(AtomicU64::new(0));
        let counted = connections.clone();
        thread::spawn(move || {
            for caller in listener.incoming().flatten() {
                counted.fetch_add(1, Ordering::Relaxed);
                // Nobody listens: the caller is hung up on.
                let Ok(member) = TcpStream::connect(("127.0.0.1", to)) else {
                    continue;
                };
                for (from, to, delay) in [(&caller, &member, Duration::ZERO), (&member, &caller, WAY_BACK)] {
                    let copies = from.try_clone().and_then(|from| Ok((from, to.try_clone()?)));
                    let (from, to) = copies.expect("a socket can be cloned");
                    thread::spawn(move || relay(from, to, delay));
                }
            }
        });
        Relay { port, connections }
    }
}

/// One direction; its end is the end of both.
fn relay(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        thread::sleep(delay);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    // They may be closed already.
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// A cluster whose members reach one another through relays alone.
fn behind_relays(flags: &[&str]) -> (Cluster, Vec<Relay>) {
    let mut cluster = Cluster::new(3, flags);
    let urls: Vec<String> = cluster.members.iter().map(|member| member.peer_url()).collect();
    let port = |url: &String| url.rsplit(':').next().and_then(|port| port.parse().ok());
    let relays: Vec<Relay> = urls
        .iter()
        .map(|url| Relay::start(port(url).expect("a URL has a port")))
        .collect();
    for member in &mut cluster.members {
        for flag in &mut member.flags {
            if flag.starts_with("--listen-peer-urls=") {
                continue;
            }
            for (url, relay) in urls.iter().zip(&relays) {
                *flag = flag.replace(url, &format!("http://127.0.0.1:{}", relay.port));
            }
        }
    }
    (cluster, relays)
}

#[test]
fn members_behind_relays_form_a_cluster_replicate_restart_and_install_snapshots() {
    run(async |env| {
        let (mut cluster, relays) = behind_relays(&["--snapshot-count=50", "--snapshot-catchup-entries=10"]);
        cluster.members.iter_mut().for_each(|member| member.spawn());
        cluster.members.iter_mut().for_each(|member| member.wait_ready());
        for member in &cluster.members {
            let mut client = member.connect(&env).await;
            client.put_eventually(&env, &member.name, "written").await;
        }
        cluster.assert_equal_hashes(&env).await;

        // A restart.
        let leader = cluster.leader(&env, 0).await;
        let other = (leader + 1) % 3;
        cluster.members[other].kill();
        let mut client = cluster.members[leader].connect(&env).await;
        client.put_eventually(&env, "while one was away", "1").await;
        cluster.members[other].start();
        cluster.assert_equal_hashes(&env).await;

        // A member that needs a snapshot.
        cluster.members[other].kill();
        for n in 0..200 {
            let key = format!("key-{}", n % 100);
            client.put_eventually(&env, &key, &n.to_string()).await;
        }
        cluster.members[other].start();
        cluster.assert_equal_hashes(&env).await;
        let log = cluster.members[other].log();
        assert!(
            log.contains("receiving a snapshot"),
            "it caught up by the log:\n{log}"
        );

        // The leader goes, and comes back.
        cluster.members[leader].kill();
        let mut client = cluster.members[other].connect(&env).await;
        client.put_eventually(&env, "under another leader", "1").await;
        cluster.members[leader].start();
        cluster.assert_equal_hashes(&env).await;
        assert!(
            relays
                .iter()
                .all(|relay| relay.connections.load(Ordering::Relaxed) > 0),
            "somebody was reached past the relays"
        );
    });
}
