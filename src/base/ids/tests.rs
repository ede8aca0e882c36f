use super::*;

/// Ids of a cluster from the flags' values: those of its members in order, and the cluster's.
fn ids(members: &[&[&str]], token: &str) -> (Vec<MemberId>, ClusterId) {
    let members: Vec<_> = members.iter().map(|urls| member_id(urls, token, None)).collect();
    let cluster = cluster_id(members.iter().copied());
    (members, cluster)
}

/// What etcd 3.7.1 logs for the same flags (`added-peer-id`, `cluster-id`).
#[test]
fn ids_are_those_of_etcd() {
    let (members, cluster) = ids(&[&["http://localhost:2380"]], "etcd-cluster");
    assert_eq!((members, cluster), (vec![0x8e9e05c52164694d], 0xcdf818194e3a8c32));

    let infra = [
        &["http://10.0.1.10:2380"][..],
        &["http://10.0.1.11:2380"],
        &["http://10.0.1.12:2380"],
    ];
    let (members, cluster) = ids(&infra, "etcd-cluster-1");
    assert_eq!(
        members,
        [0x140fedbeeb74765d, 0xd5dc5f8d75d04e29, 0x08a0a11c6194fc77]
    );
    assert_eq!(cluster, 0xacccc8912db0cd57);

    // A member with two URLs, given in descending order.
    let a = ["http://127.0.0.1:2390", "http://127.0.0.1:2380"];
    let (members, cluster) = ids(&[&a, &["http://127.0.0.1:12380"]], "tkn");
    assert_eq!(members, [0xe334cd18e25c924b, 0x77f41cbd71028a3a]);
    assert_eq!(cluster, 0xcc6da03f5a78e327);

    let (members, cluster) = ids(&[&["http://localhost:2380"]], "");
    assert_eq!((members, cluster), (vec![0x37807cb0bf7500f6], 0x2c833ae9c7555b5e));
}

#[test]
fn the_time_of_joining_makes_another_id() {
    let urls = ["http://127.0.0.1:2380"];
    let first = member_id(&urls, "etcd-cluster", None);
    let again = member_id(&urls, "etcd-cluster", Some(1_700_000_000));
    assert_ne!(first, again);
    assert_ne!(again, member_id(&urls, "etcd-cluster", Some(1_700_000_001)));
}

#[test]
fn the_order_of_urls_and_members_does_not_matter() {
    let (a, b) = ("http://127.0.0.1:1", "http://127.0.0.1:2");
    assert_eq!(member_id(&[a, b], "t", None), member_id(&[b, a], "t", None));
    assert_eq!(cluster_id([1, 2, 3]), cluster_id([3, 1, 2]));
}
