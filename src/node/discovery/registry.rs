//! What stands in a discovery service, as etcd writes it.
//!
//! ```text
//!   /_etcd/registry/<token>/_config/size           "3"            by whoever asks for the cluster
//!   /_etcd/registry/<token>/members/<member id>    "m1=http://…"  by each member
//! ```
//!
//! Members count in the order in which they came: of four that register for a cluster of three, the last is none.

use crate::base::MemberId;
use crate::base::urls::parse_cluster;

const PREFIX: &str = "/_etcd/registry";

pub fn size_key(token: &str) -> String {
    clean(&format!("{PREFIX}/{token}/_config/size"))
}

/// What the keys of members begin with.
pub fn members_prefix(token: &str) -> String {
    clean(&format!("{PREFIX}/{token}/members"))
}

pub fn member_key(token: &str, member: MemberId) -> String {
    format!("{}/{member:x}", members_prefix(token))
}

/// A path without empty steps, `.` and `..`: etcd writes keys so.
fn clean(path: &str) -> String {
    let mut steps: Vec<&str> = Vec::new();
    for step in path.split('/') {
        match step {
            "" | "." => {}
            ".." => drop(steps.pop()),
            step => steps.push(step),
        }
    }
    format!("/{}", steps.join("/"))
}

/// How many members the cluster shall have.
pub fn parse_size(value: &[u8]) -> Result<usize, &'static str> {
    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    size.filter(|size| *size > 0).ok_or("discovery: size key is bad")
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Registered {
    key: String,
    /// "name=url,name=url": of one member.
    urls: String,
    create_revision: i64,
}

/// The members that have registered, oldest first.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Members(Vec<Registered>);

impl Members {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// # Errors
    /// Why this is no member that counts, in etcd's words.
    pub fn add(
        &mut self,
        token: &str,
        key: &str,
        urls: &str,
        create_revision: i64,
    ) -> Result<(), &'static str> {
        if !key.starts_with(&members_prefix(token)) {
            return Err("invalid peer registry key");
        }
        if !urls.contains('=') {
            return Err("invalid peer info returned from discovery service");
        }
        if self.0.iter().any(|known| known.key == key) {
            return Err("found duplicate peer from discovery service");
        }
        self.0.push(Registered {
            key: key.to_owned(),
            urls: urls.to_owned(),
            create_revision,
        });
        self.0.sort_by_key(|member| member.create_revision);
        Ok(())
    }

    /// # Errors
    /// There is no room, and the member with this key is not among those that came first.
    pub fn check_room(&self, own_key: &str, size: usize) -> Result<(), &'static str> {
        let others = self.0.iter().take_while(|member| member.key != own_key).count();
        match others >= size {
            true => Err("discovery: cluster is full"),
            false => Ok(()),
        }
    }

    /// The first members as `--initial-cluster` lists them.
    pub fn initial_cluster(&self, size: usize) -> Result<String, &'static str> {
        let first: Vec<&str> = self.0.iter().take(size).map(|member| &*member.urls).collect();
        let text = first.join(",");
        match parse_cluster(&text) {
            Ok(_) => Ok(text),
            Err(_) => Err("discovery: invalid peer URL"),
        }
    }
}

/// The end of the range of keys that begin with the prefix of members.
pub fn members_end(token: &str) -> String {
    let prefix = members_prefix(token);
    let rest = prefix
        .strip_suffix('s')
        .expect("the prefix ends with \"members\"");
    format!("{rest}t")
}

#[cfg(test)]
mod tests {
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
}
