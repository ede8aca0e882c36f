//! Service records (SRV) of the domain name system, which the C library looks up for nobody.

use std::io;
use std::net::SocketAddr;

use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::{Resolver, TokioResolver, system_conf};

/// Names a name server ("127.0.0.1:53") to ask instead of those that the system names.
const SERVER_VARIABLE: &str = "QUORATE_NAME_SERVER";

/// Where a service is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Service {
    pub priority: u16,
    pub weight: u16,
    /// A host's name, without the dot at its end.
    pub target: String,
    pub port: u16,
}

/// The services that a name stands for, best first.
///
/// # Errors
/// In Go's words.
pub async fn lookup(name: &str) -> io::Result<Vec<Service>> {
    let services = ask(name)
        .await
        .map_err(|error| match error.is_no_records_found() {
            true => not_found(name),
            false => io::Error::other(format!("lookup {name}: {error}")),
        })?;
    match services.is_empty() {
        true => Err(not_found(name)),
        false => Ok(services),
    }
}

fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("lookup {name}: no such host"))
}

async fn ask(name: &str) -> Result<Vec<Service>, NetError> {
    let found = resolver()?.srv_lookup(name).await?;
    let services = found.answers().iter().filter_map(|record| match &record.data {
        RData::SRV(service) => Some(Service {
            priority: service.priority,
            weight: service.weight,
            target: service.target.to_ascii().trim_end_matches('.').to_owned(),
            port: service.port,
        }),
        _ => None,
    });
    let mut services: Vec<Service> = services.collect();
    services.sort();
    Ok(services)
}

fn resolver() -> Result<TokioResolver, NetError> {
    let (config, options) = match std::env::var(SERVER_VARIABLE) {
        Ok(server) => (
            config_of(server.parse().map_err(io::Error::other)?),
            ResolverOpts::default(),
        ),
        Err(_) => system_conf::read_system_conf()?,
    };
    Resolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .build()
}

fn config_of(server: SocketAddr) -> ResolverConfig {
    let mut named = NameServerConfig::udp_and_tcp(server.ip());
    for connection in &mut named.connections {
        connection.port = server.port();
    }
    ResolverConfig::from_parts(None, Vec::new(), vec![named])
}
