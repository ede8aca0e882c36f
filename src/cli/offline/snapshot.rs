//! `snapshot save`, `status` and `restore`.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar};

use super::{Arguments, DbFile, block_on};
use crate::base::urls;
use crate::bbolt::File;
use crate::client::Channel;
use crate::config::{Config, TlsOptions};
use crate::node::{Origin, restore as restore_member};
use crate::proto::etcdserverpb::{SnapshotRequest, maintenance_client::MaintenanceClient};
use crate::runtime::Env;
use crate::runtime::tls::Tls;
use crate::state::etcd_snapshot::{Summary, summarize};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

pub fn save(arguments: Arguments) -> Result<(), String> {
    let target = Path::new(arguments.only("file")?);
    let endpoint = arguments.text("endpoints").unwrap_or("127.0.0.1:2379");
    if endpoint.contains(',') {
        return Err(format!(
            "snapshot must be requested to one selected node, not multiple {endpoint}"
        ));
    }
    let part = target.with_added_extension("part");
    block_on(async |env| {
        let channel = connect(&env, endpoint, &arguments).await?;
        let bar = ProgressBar::no_length();
        let written = fetch(channel, &part, &bar).await;
        bar.finish_and_clear();
        written.inspect_err(|_| {
            let _ = fs::remove_file(&part);
        })
    })?;
    DbFile::open(&part, true)?;
    fs::rename(&part, target).map_err(|error| format!("{}: {error}", target.display()))?;
    println(&format!("Snapshot saved at {}", target.display()));
    Ok(())
}

async fn connect(env: &Env, endpoint: &str, arguments: &Arguments) -> Result<Channel, String> {
    let address = endpoint
        .split_once("://")
        .map_or(endpoint, |(_, address)| address);
    let file = |flag| arguments.text(flag).map(Into::into);
    let tls = match (file("cert"), file("key")) {
        (Some(cert_file), Some(key_file)) => Some(TlsOptions {
            cert_file,
            key_file,
            trusted_ca_file: file("cacert"),
            tls12: true,
            tls13: true,
            ..TlsOptions::default()
        }),
        (None, None) => None,
        _ => return Err("--cert and --key belong together".into()),
    };
    let secure = endpoint.starts_with("https://") || tls.is_some();
    let shown = |error: std::io::Error| format!("{endpoint}: {error}");
    let stream = env.timeout(CONNECT_TIMEOUT, env.connect(address)).await;
    let stream = stream.map_err(|error| shown(error.into()))?.map_err(shown)?;
    let stream = match tls.filter(|_| secure) {
        None if secure => return Err("https needs --cacert, --cert and --key".into()),
        None => stream,
        Some(options) => {
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
            let tls = Tls::new(env.clone(), options)?;
            tls.connect(stream, host.trim_matches(['[', ']']))
                .await
                .map_err(shown)?
        }
    };
    Channel::over(env, stream, address).await.map_err(shown)
}

async fn fetch(channel: Channel, part: &Path, bar: &ProgressBar) -> Result<(), String> {
    let context = |error: std::io::Error| format!("{}: {error}", part.display());
    let mut file = fs::File::create(part).map_err(context)?;
    let mut client = MaintenanceClient::new(channel);
    let answer = client.snapshot(SnapshotRequest {}).await;
    let mut stream = answer.map_err(|status| status.message().to_owned())?.into_inner();
    while let Some(message) = stream
        .message()
        .await
        .map_err(|status| status.message().to_owned())?
    {
        let done = bar.position() + message.blob.len() as u64;
        bar.set_length(done + message.remaining_bytes);
        bar.set_position(done);
        file.write_all(&message.blob).map_err(context)?;
    }
    file.sync_all().map_err(context)
}

pub fn status(arguments: Arguments) -> Result<(), String> {
    let path = Path::new(arguments.only("file")?);
    let file = File::open(DbFile::open(path, false)?)?;
    let found = summarize(&file)?;
    let format = arguments
        .text("w")
        .or(arguments.text("write-out"))
        .unwrap_or("simple");
    println(&shown(&found, file.size(), format)?);
    Ok(())
}

fn shown(found: &Summary, size: u64, format: &str) -> Result<String, String> {
    let Summary {
        hash,
        revision,
        total_keys,
        version,
    } = found;
    Ok(match format {
        "simple" => format!("{hash:x}, {revision}, {total_keys}, {}, {version}", human(size)),
        "json" => format!(
            "{{\"hash\":{hash},\"revision\":{revision},\"totalKey\":{total_keys},\"totalSize\":{size},\"version\":\"{version}\"}}"
        ),
        "table" => table(&[
            ("HASH", format!("{hash:x}")),
            ("REVISION", revision.to_string()),
            ("TOTAL KEYS", total_keys.to_string()),
            ("TOTAL SIZE", human(size)),
            ("VERSION", version.clone()),
        ]),
        other => return Err(format!("unknown output format {other:?}: simple, table or json")),
    })
}

/// As Go's humanize: powers of 1000, two digits.
fn human(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 9.95);
    format!("{value:.digits$} {}", units.get(unit).unwrap_or(&"B"))
}

fn table(columns: &[(&str, String)]) -> String {
    let widths: Vec<usize> = columns
        .iter()
        .map(|(head, cell)| head.len().max(cell.len()))
        .collect();
    let line = |cells: Vec<&str>| {
        let padded = cells
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!(" {cell:^width$} "));
        format!("|{}|", padded.collect::<Vec<_>>().join("|"))
    };
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
    let rule = format!("+{}+", rule.join("+"));
    let heads = line(columns.iter().map(|(head, _)| *head).collect());
    let cells = line(columns.iter().map(|(_, cell)| cell.as_str()).collect());
    [rule.clone(), heads, rule.clone(), cells, rule].join("\n")
}

pub fn restore(arguments: Arguments) -> Result<(), String> {
    let path = Path::new(arguments.only("file")?);
    let bump_revision = arguments.number("bump-revision")?;
    if bump_revision < 0 {
        return Err("--bump-revision must not be negative".into());
    }
    if (bump_revision > 0) != arguments.switch("mark-compacted") {
        return Err("--bump-revision and --mark-compacted are only possible together".into());
    }
    let config = configuration(&arguments)?;
    let not_empty = fs::read_dir(&config.data_dir).is_ok_and(|mut entries| entries.next().is_some());
    if not_empty {
        return Err(format!(
            "data-dir {:?} not empty or could not be read",
            config.data_dir
        ));
    }
    let file = File::open(DbFile::open(path, !arguments.switch("skip-hash-check"))?)?;
    let bar = ProgressBar::new_spinner().with_message(format!("restoring {}", HumanBytes(file.size())));
    let restored = block_on(async |env| {
        let origin = Origin::Snapshot { bump_revision };
        let restored = restore_member(&env, &config, &file, origin, &mut || bar.inc(1)).await;
        restored.map_err(|error| error.to_string())
    });
    bar.finish_and_clear();
    let restored = restored?;
    println(&format!(
        "restored {} keys at revision {} into {}",
        restored.keys,
        restored.revision,
        config.data_dir.display()
    ));
    Ok(())
}

/// etcdutl's flags, with its defaults.
fn configuration(arguments: &Arguments) -> Result<Config, String> {
    let name = arguments.text("name").unwrap_or("default");
    let advertised = arguments
        .text("initial-advertise-peer-urls")
        .unwrap_or("http://localhost:2380");
    let cluster = match arguments.text("initial-cluster") {
        Some(cluster) => cluster.to_owned(),
        None => {
            let own = advertised.split(',').map(|url| format!("{name}={url}"));
            own.collect::<Vec<_>>().join(",")
        }
    };
    let texts = |urls: &[urls::Url]| urls.iter().map(|url| url.text.clone()).collect::<Vec<_>>();
    let advertise_peer_urls = texts(&urls::parse_list(advertised)?);
    let initial_cluster: Vec<_> = urls::parse_cluster(&cluster)?
        .into_iter()
        .map(|(name, urls)| (name, texts(&urls)))
        .collect();
    let listed = initial_cluster.iter().find(|(member, _)| member == name);
    let (_, listed) = listed
        .ok_or_else(|| format!("couldn't find local name {name:?} in the initial cluster configuration"))?;
    if *listed != advertise_peer_urls {
        return Err(format!(
            "--initial-cluster has {name}={} but missing from --initial-advertise-peer-urls={}",
            listed.join(","),
            advertise_peer_urls.join(",")
        ));
    }
    let data_dir = arguments.text("data-dir").map(str::to_owned);
    Ok(Config {
        name: name.to_owned(),
        data_dir: data_dir.unwrap_or_else(|| format!("{name}.etcd")).into(),
        wal_dir: arguments.text("wal-dir").map(Into::into),
        initial_cluster_token: arguments
            .text("initial-cluster-token")
            .unwrap_or("etcd-cluster")
            .to_owned(),
        initial_cluster,
        advertise_peer_urls,
        ..Config::default()
    })
}

fn println(line: &str) {
    crate::cli::print(&mut std::io::stdout(), &format!("{line}\n"));
}

#[cfg(test)]
mod tests;
