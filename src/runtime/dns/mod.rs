//! Service records (SRV) of the domain name system, which the C library looks up for nobody.
//!
//! ```text
//!   name ─► config (servers, search list) ─► client (UDP, TCP if that is too short) ─► message ─► records
//! ```
//!
//! Knows one question and one kind of answer: addresses of hosts are the C library's business. What servers say is
//! not believed to be well formed: a record whose target is no host name does not count.

mod client;
mod config;
mod message;

pub use client::lookup;
pub use config::Config;

/// Where a service is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Service {
    pub priority: u16,
    pub weight: u16,
    /// A host's name, without the dot at its end.
    pub target: String,
    pub port: u16,
}

#[cfg(test)]
mod tests;
