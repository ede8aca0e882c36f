//! Members of a new cluster, or of one that is joined, from the service records of a domain.
//!
//! ```text
//!   _etcd-server-ssl._tcp.<domain> ─► https://host:port ─┐
//!   _etcd-server._tcp.<domain>     ─► http://host:port ──┴─► --initial-cluster
//! ```
//!
//! A record is this member's own if its host and port resolve to an address that this member advertises. The others'
//! names are not in the records: they are counted, and each member counts differently, so nothing may depend on them.
//!
//! etcd takes records of equal priority in a random order; here the order is fixed.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use tracing::info;

use crate::base::urls::{Url, parse_cluster};
use crate::config::SrvOptions;
use crate::runtime::Env;

impl SrvOptions {
    fn service(&self, service: &str) -> String {
        match self.name.as_str() {
            "" => service.to_owned(),
            name => format!("{service}-{name}"),
        }
    }
}

/// The members: names and their URLs.
///
/// # Errors
/// etcd's words if there are none, or this member is not among them.
pub async fn members(
    env: &Env,
    options: &SrvOptions,
    name: &str,
    advertised: &[String],
) -> Result<BTreeMap<String, Vec<Url>>, String> {
    let mut found = Vec::new();
    let mut errors = Vec::new();
    for (scheme, service) in [("https", "etcd-server-ssl"), ("http", "etcd-server")] {
        let service = options.service(service);
        let listed = list(env, scheme, &service, &options.domain, name, advertised).await;
        info!(
            "service-scheme" = scheme,
            "service-name" = service,
            "server-name" = name,
            "discovery-srv" = options.domain,
            "advertise-peer-urls" = ?advertised,
            "found-cluster" = ?listed,
            "get cluster for {service} SRV"
        );
        match listed {
            Ok(listed) => found.extend(listed),
            Err(error) => errors.push(error),
        }
    }
    if !errors.is_empty() {
        tracing::warn!(
            error = errors.join("\n"),
            "failed to resolve during SRV discovery"
        );
    }
    let failed = |reason: String| format!("error setting up initial cluster: {reason}");
    if found.is_empty() {
        return Err(failed(errors.join("\n")));
    }
    for node in &found {
        info!(node, "got bootstrap from DNS for etcd-server");
    }
    let members = parse_cluster(&found.join(",")).map_err(failed)?;
    match members.contains_key(name) {
        true => Ok(members),
        false => Err(failed(format!(
            "cannot find local etcd member {name:?} in SRV records"
        ))),
    }
}

/// The members that one service lists, each as "name=url".
async fn list(
    env: &Env,
    scheme: &str,
    service: &str,
    domain: &str,
    name: &str,
    advertised: &[String],
) -> Result<Vec<String>, String> {
    let context = |error: String| format!("error querying DNS SRV records for _{service} {error}");
    let mut own = BTreeMap::new();
    for url in advertised {
        let url = Url::parse(url)?;
        let address = resolve(env, &url.address).await;
        own.insert(address.map_err(|error| error.to_string())?, url);
    }
    let records = env.lookup_services(&format!("_{service}._tcp.{domain}")).await;
    let records = records.map_err(|error| context(error.to_string()))?;
    let mut trouble = None;
    let mut listed = Vec::new();
    // A member may have a number for its name.
    let mut names = (0..).map(|n: u32| n.to_string()).filter(|other| other != name);
    for record in records {
        let host = format!("{}:{}", record.target, record.port);
        let address = match resolve(env, &host).await {
            Ok(address) => address,
            Err(error) => {
                trouble = Some(error.to_string());
                continue;
            }
        };
        let own = own.get(&address);
        let known_as = match own {
            Some(_) => name.to_owned(),
            None => names.next().expect("there is always another number"),
        };
        match own {
            Some(url) if url.scheme.to_string() != scheme => {
                trouble = Some(format!(
                    "bootstrap at {scheme}://{host} from DNS for {service} has scheme mismatch with expected peer {url}"
                ));
            }
            _ => listed.push(format!("{known_as}={scheme}://{host}")),
        }
    }
    match trouble.filter(|_| listed.is_empty()) {
        Some(error) => Err(context(error)),
        None => Ok(listed),
    }
}

/// The address that Go would take: the first of the older kind, if there is one.
async fn resolve(env: &Env, address: &str) -> io::Result<SocketAddr> {
    let context = |error: io::Error| io::Error::new(error.kind(), format!("lookup {address}: {error}"));
    let found = env.resolve(address).await.map_err(context)?;
    let older = found.iter().find(|address| address.is_ipv4());
    let first = older.or(found.first()).copied();
    first.ok_or_else(|| context(io::Error::new(io::ErrorKind::NotFound, "no such host")))
}
