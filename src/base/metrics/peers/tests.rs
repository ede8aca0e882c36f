use super::*;

#[test]
fn only_who_was_there_can_be_lost() {
    let peer = PeerMetrics::default();
    peer.lost();
    assert_eq!((peer.sent_failures.get(), peer.disconnects.get()), (1, 0));
    peer.reached();
    peer.reached();
    assert!(peer.is_active());
    peer.lost();
    peer.lost();
    assert!(!peer.is_active());
    assert_eq!((peer.sent_failures.get(), peer.disconnects.get()), (3, 1));
}

#[test]
fn strangers_cannot_fill_the_memory() {
    let peers = Peers::default();
    let kept = peers.of(1);
    for id in 2..10_000 {
        peers.of(id).received_bytes.inc();
    }
    assert_eq!(peers.all().len(), limits::PEERS_COUNTED_MAX + 1);
    assert!(Arc::ptr_eq(&kept, &peers.of(1)));
    let counted: u64 = peers
        .all()
        .iter()
        .map(|(_, peer)| peer.received_bytes.get())
        .sum();
    assert_eq!(counted, 9_998);
}
