//! `resolv.conf`: whom to ask, and for what, if a name is short.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const PORT: u16 = 53;
/// As in the C library.
const NDOTS_MAX: usize = 15;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    pub servers: Vec<SocketAddr>,
    search: Vec<String>,
    ndots: usize,
    pub timeout: Duration,
    /// How often each server is asked.
    pub attempts: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            servers: vec![SocketAddr::new(IpAddr::from([127, 0, 0, 1]), PORT)],
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
        }
    }
}

impl Config {
    /// What is not understood is left out. Servers may have a port: `[127.0.0.1]:5353`.
    pub fn parse(text: &str) -> Config {
        let mut config = Config::default();
        let mut servers = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => servers.extend(words.next().and_then(server)),
                Some("domain") => config.search = words.next().map(str::to_owned).into_iter().collect(),
                Some("search") => config.search = words.map(str::to_owned).collect(),
                Some("options") => words.for_each(|option| config.set(option)),
                _ => {}
            }
        }
        if !servers.is_empty() {
            config.servers = servers;
        }
        config
    }

    fn set(&mut self, option: &str) {
        let Some((name, value)) = option.split_once(':') else {
            return;
        };
        let Ok(value) = value.parse::<usize>() else {
            return;
        };
        match name {
            "ndots" => self.ndots = value.min(NDOTS_MAX),
            "timeout" => self.timeout = Duration::from_secs(value.clamp(1, 30) as u64),
            "attempts" => self.attempts = value.clamp(1, 5),
            _ => {}
        }
    }

    /// The names to ask for in turn, without the dot at their ends.
    pub fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(rooted) = name.strip_suffix('.') {
            return vec![rooted.to_owned()];
        }
        let mut names: Vec<String> = self
            .search
            .iter()
            .map(|suffix| format!("{name}.{}", suffix.trim_end_matches('.')))
            .collect();
        let dots = name.bytes().filter(|byte| *byte == b'.').count();
        let own = if dots >= self.ndots { 0 } else { names.len() };
        names.insert(own, name.to_owned());
        names
    }
}

fn server(text: &str) -> Option<SocketAddr> {
    let address = text.parse().ok().map(|address| SocketAddr::new(address, PORT));
    address.or_else(|| {
        let (address, port) = text.strip_prefix('[')?.split_once("]:")?;
        Some(SocketAddr::new(address.parse().ok()?, port.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read() {
        let text = "# comment\nnameserver 10.0.0.1\nnameserver fd00::1 # here\nnameserver [127.0.0.1]:5353\n\
                    nameserver nonsense\nsearch a.example b.example.\noptions ndots:5 timeout:1 attempts:99 rotate\n";
        let config = Config::parse(text);
        let servers = ["10.0.0.1:53", "[fd00::1]:53", "127.0.0.1:5353"];
        assert_eq!(config.servers, servers.map(|server| server.parse().unwrap()));
        assert_eq!((config.timeout, config.attempts), (Duration::from_secs(1), 5));
        assert_eq!(
            config.candidates("_x._tcp.c"),
            ["_x._tcp.c.a.example", "_x._tcp.c.b.example", "_x._tcp.c"]
        );
        assert_eq!(config.candidates("_x._tcp.c."), ["_x._tcp.c"]);
        assert_eq!(Config::parse(""), Config::default());
    }

    #[test]
    fn a_name_with_dots_comes_first() {
        let config = Config::parse("domain a.example");
        assert_eq!(
            config.candidates("_x._tcp.c"),
            ["_x._tcp.c", "_x._tcp.c.a.example"]
        );
        assert_eq!(config.candidates("c"), ["c.a.example", "c"]);
    }
}
