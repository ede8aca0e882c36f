use super::*;

fn members(count: i64) -> Members {
    let mut members = Members::default();
    // The youngest is told first.
    for n in (0..count).rev() {
        let key = member_key("t", n as u64);
        let urls = format!("m{n}=http://h:{n}");
        members.add("t", &key, &urls, 10 + n).unwrap();
    }
    members
}

#[test]
fn keys_are_those_of_etcd() {
    assert_eq!(size_key("a"), "/_etcd/registry/a/_config/size");
    assert_eq!(member_key("a", 0xab), "/_etcd/registry/a/members/ab");
    assert_eq!(members_prefix("/a//b/../"), "/_etcd/registry/a/members");
    assert_eq!(members_end("x"), "/_etcd/registry/x/membert");
}

#[test]
fn a_size_is_a_positive_number() {
    assert_eq!(parse_size(b"3"), Ok(3));
    for bad in ["", "0", "-1", "3 ", "three", "99999999999999999999999"] {
        assert_eq!(
            parse_size(bad.as_bytes()),
            Err("discovery: size key is bad"),
            "{bad}"
        );
    }
}

#[test]
fn who_came_first_belongs_to_the_cluster() {
    let four = members(4);
    let own = |n| member_key("t", n);
    assert_eq!(
        four.initial_cluster(3).unwrap(),
        "m0=http://h:0,m1=http://h:1,m2=http://h:2"
    );
    assert!(four.check_room(&own(2), 3).is_ok());
    assert_eq!(four.check_room(&own(3), 3), Err("discovery: cluster is full"));
    // A stranger to a cluster that is full, and to one that is not.
    assert_eq!(
        members(3).check_room(&own(9), 3),
        Err("discovery: cluster is full")
    );
    assert!(members(2).check_room(&own(9), 3).is_ok());
}

#[test]
fn what_is_no_member_does_not_count() {
    let mut three = members(3);
    let mut refused = |key: &str, urls| three.add("t", key, urls, 1).unwrap_err();
    assert_eq!(
        refused("/_etcd/registry/u/members/1", "a=b"),
        "invalid peer registry key"
    );
    assert_eq!(
        refused("/_etcd/registry/t/members/9", "nonsense"),
        "invalid peer info returned from discovery service"
    );
    assert_eq!(
        refused("/_etcd/registry/t/members/1", "a=http://h:1"),
        "found duplicate peer from discovery service"
    );
    assert_eq!(three, members(3));
}

#[test]
fn urls_have_to_be_urls() {
    let mut members = members(1);
    members.add("t", &member_key("t", 7), "x=nowhere", 99).unwrap();
    assert_eq!(members.initial_cluster(2), Err("discovery: invalid peer URL"));
    assert!(members.initial_cluster(1).is_ok());
}
