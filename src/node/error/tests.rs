use super::*;

#[test]
fn the_texts_that_operators_know() {
    let not_as_listed = |reason| NodeError::NotAsListed {
        cluster: "{ClusterID:7 Members:[]}".into(),
        reason,
    };
    for (error, text) in [
        (
            NodeError::from(StopReason::Removed),
            "the member has been permanently removed from the cluster",
        ),
        (
            NodeError::from(StopReason::Broken(Broken::Stopped("the log is closed"))),
            "the log is closed",
        ),
        (
            NodeError::Listen {
                what: "client",
                address: "10.0.0.1:2379".into(),
                kind: io::ErrorKind::AddrInUse,
                error: "Address already in use (os error 98)".into(),
            },
            "listen client 10.0.0.1:2379: Address already in use (os error 98)",
        ),
        (
            NodeError::LogMissing {
                wal_dir: "/wal".into(),
                member_dir: "/data/member".into(),
            },
            "/wal: the log is missing, but /data/member holds the state of a member; restore the log (--wal-dir?), or \
             remove the data and rejoin as a new member",
        ),
        (
            not_as_listed(Mismatch::Unlisted {
                member: 0xab,
                peer_urls: vec!["http://a:2380".into()],
            }),
            "error validating peerURLs {ClusterID:7 Members:[]}: PeerURLs: no match found for existing member (ab, \
             [\"http://a:2380\"])",
        ),
        (
            not_as_listed(Mismatch::DataGone(0xab)),
            "error validating peerURLs {ClusterID:7 Members:[]}: member ab has taken part before, and its data are \
             gone: remove it from the cluster and add it again",
        ),
        (
            NodeError::DataGone(0xab),
            "member ab has already been bootstrapped: its data are gone; remove it from the cluster, add it again, \
             and start it with --initial-cluster-state=existing",
        ),
    ] {
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn data_are_gone_whoever_says_so() {
    assert!(NodeError::DataGone(1).has_lost_data());
    let known = |reason| NodeError::NotAsListed {
        cluster: String::new(),
        reason,
    };
    assert!(known(Mismatch::DataGone(1)).has_lost_data());
    assert!(!known(Mismatch::Count).has_lost_data());
    assert!(!NodeError::NobodyAnswers.has_lost_data());
}
