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
mod tests;
