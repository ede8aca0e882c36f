use std::time::Duration;

use super::*;

#[tokio::test]
async fn connections_are_kept_alive_and_peers_have_to_acknowledge() {
    let listener = bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let connected = connect_to(None, listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    prepare(&accepted, false).unwrap();
    for socket in [&connected, &accepted] {
        assert!(sockopt::socket_keepalive(socket).unwrap());
        let idle = sockopt::tcp_keepidle(socket).unwrap();
        let between = sockopt::tcp_keepintvl(socket).unwrap();
        let probes = sockopt::tcp_keepcnt(socket).unwrap();
        assert_eq!(
            (idle, between),
            (limits::TCP_KEEPALIVE_INTERVAL, limits::TCP_KEEPALIVE_INTERVAL)
        );
        assert_eq!(probes, limits::TCP_KEEPALIVE_PROBES);
        assert!(socket.nodelay().unwrap());
    }
    assert!(sockopt::tcp_user_timeout(&connected).unwrap() > 0);
    assert_eq!(
        sockopt::tcp_user_timeout(&accepted).unwrap(),
        0,
        "clients may be slow"
    );
}

#[tokio::test]
async fn as_many_may_wait_to_be_accepted_as_the_system_allows() {
    let system = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let system: usize = system.trim().parse().unwrap();
    let listener = listen("127.0.0.1:0", false).await.unwrap();
    let address: SocketAddr = listener.local_address().parse().unwrap();
    // One more than the backlog fits; beyond, connecting takes a second and more.
    let mut waiting = Vec::new();
    for _ in 0..system.min(1_500) {
        let connecting = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(500));
        waiting.push(connecting.expect("there is room"));
    }
}
