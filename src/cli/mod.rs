//! The command line: from arguments and `ETCD_*` variables to a running member.
//!
//! ```text
//!   arguments, variables ─► flags (what was typed) ─► config (what it means) ─► serve ─► Node::start
//!                                                └─► logging
//! ```
//!
//! A drop-in for `etcd`: flags, variables, texts and exit codes are its own (0; 1 for a configuration that
//! cannot be served; 2 for a flag that cannot be understood). Nothing below this folder knows that there
//! are flags.

mod auth_token;
pub mod config;
mod discovery;
pub mod flags;
pub mod log_file;
mod logging;
mod offline;
#[cfg(test)]
mod panic_tests;
pub mod serve;
mod tls;

use std::io::{self, Write};
use std::process::ExitCode;

use tracing::{error, info, warn};

use crate::config::Config;
use flags::{Flags, Parsed, environment, file, help};
use log_file::Rotation;
use logging::{FATAL, Logger};

/// The exit code for a flag that cannot be understood.
const MISUSE: u8 = 2;

/// Runs the program; `arguments` begin with its name.
pub fn main(arguments: Vec<String>) -> ExitCode {
    let typed = arguments.get(1..).unwrap_or_default();
    if let Some(code) = offline::run(typed) {
        return code;
    }
    let parsed = flags::parse(typed);
    match &parsed {
        Parsed::Help => {
            print(&mut io::stdout(), &help::all_flags());
            print(&mut io::stderr(), help::USAGE);
            return ExitCode::SUCCESS;
        }
        Parsed::Misuse(text) => {
            print(&mut io::stderr(), &format!("{text}\n{}", help::USAGE));
            return ExitCode::from(MISUSE);
        }
        Parsed::Flags(flags) if flags.boolean("version") => {
            print(&mut io::stdout(), &help::version());
            return ExitCode::SUCCESS;
        }
        Parsed::Flags(_) | Parsed::Stray(_) => {}
    }
    let raised = crate::runtime::tokio::raise_descriptor_limit();
    let runtime = match crate::runtime::tokio::new_runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            print(&mut io::stderr(), &format!("cannot start the runtime: {error}\n"));
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        let env = crate::runtime::tokio::env();
        let logger = Logger::install(&env);
        let config = configure(parsed, &logger);
        if let Err(error) = raised {
            warn!(error = %error, "cannot raise the soft limit on file descriptors to the hard one");
        }
        if !matches!(config, Err(Refusal::Logged)) {
            info!(args = ?arguments, "Running: ");
        }
        match config {
            Ok((config, reuse_port)) => {
                if reuse_port {
                    crate::runtime::tokio::reuse_ports();
                }
                log_start(&config);
                if let Err(error) = offline::etcd_dir::adopt(&env, &config).await {
                    error!(target: FATAL, error = error.to_string(), "failed to start");
                    return ExitCode::FAILURE;
                }
                serve::run(env, config).await
            }
            Err(Refusal::Verify(error)) => {
                warn!(error, "failed to verify flags");
                if error == config::UNSET_ADVERTISE {
                    warn!(error, "advertise client URLs are not set");
                }
                ExitCode::FAILURE
            }
            Err(Refusal::Logged) => ExitCode::FAILURE,
        }
    })
}

/// Why there is no configuration.
enum Refusal {
    /// The log says it already.
    Logged,
    /// What is wrong with the flags.
    Verify(String),
}

impl From<String> for Refusal {
    fn from(error: String) -> Self {
        Refusal::Verify(error)
    }
}

/// Everything between what was typed and the configuration of the member, and the log's set-up. Also whether ports may
/// be shared.
fn configure(parsed: Parsed, logger: &Logger) -> Result<(Config, bool), Refusal> {
    let mut flags = match parsed {
        Parsed::Flags(flags) => flags,
        Parsed::Stray(argument) => return Err(Refusal::Verify(format!("{argument:?} is not a valid flag"))),
        Parsed::Help | Parsed::Misuse(_) => return Err(Refusal::Logged),
    };
    match config_file(&flags) {
        Some(path) => flags = read_file(&path)?,
        None => read_environment(&mut flags)?,
    }
    config::verify_early(&flags)?;
    let text = |name| flags.text(name);
    let rotation = flags
        .boolean("enable-log-rotation")
        .then(|| Rotation::parse(&text("log-rotation-config-json")))
        .transpose()?;
    logger.configure(
        &text("log-level"),
        &text("log-format"),
        &text("log-outputs"),
        rotation.as_ref(),
    )?;
    config::verify(&flags)?;
    for message in config::deprecated(&flags) {
        warn!("{message}");
    }
    for name in config::inert(&flags) {
        warn!("flag-name" = name, "the flag has no effect on this server");
    }
    if flags.unsigned("bootstrap-defrag-threshold-megabytes") > 0 {
        // etcd's words where nothing worth it would be freed: here space is given back all the time.
        info!("Skipping defragmentation");
    }
    let config = config::build(&flags)?;
    if flags.text("name") == "default" {
        warn!(
            name = config.name,
            "it isn't recommended to use default name, please set a value for --name. Note that etcd might \
             run into issue when multiple members have the same default name"
        );
    }
    if flags.text("data-dir").is_empty() {
        warn!("data-dir" = %config.data_dir.display(), "'data-dir' was empty; using default");
    }
    Ok((config, flags.boolean("socket-reuse-port")))
}

/// The file that replaces flags and variables, if one is named.
fn config_file(flags: &Flags) -> Option<String> {
    let typed = Some(flags.text("config-file")).filter(|path| !path.is_empty());
    let variable = || std::env::var(environment::variable("config-file"));
    typed.or_else(|| variable().ok().filter(|path| !path.is_empty()))
}

fn read_file(path: &str) -> Result<Flags, Refusal> {
    let told = |error: String| Refusal::Verify(format!("--config-file {path}: {error}"));
    let text = std::fs::read_to_string(path).map_err(|error| told(error.to_string()))?;
    let (flags, unknown) = file::read(&text).map_err(told)?;
    info!(
        path,
        "loaded server configuration, other configuration command line flags and environment variables will be \
         ignored if provided"
    );
    for key in unknown {
        warn!(
            path,
            key, "a key of the configuration file is not known and has no effect"
        );
    }
    Ok(flags)
}

fn read_environment(flags: &mut Flags) -> Result<(), Refusal> {
    let variables: Vec<(String, String)> = std::env::vars_os()
        .map(|(name, value)| {
            (
                name.to_string_lossy().into_owned(),
                value.to_string_lossy().into_owned(),
            )
        })
        .collect();
    let version = variables
        .iter()
        .find(|(name, _)| name == environment::VERSION_VARIABLE);
    if let Some((key, value)) = version.filter(|(_, value)| !value.is_empty()) {
        warn!(key, value, "cannot set special environment variable");
    }
    let report = environment::apply(flags, &variables);
    for (name, value) in &report.used {
        info!(
            "variable-name" = name,
            "variable-value" = value,
            "recognized and used environment variable"
        );
    }
    for variable in &report.unrecognized {
        warn!(
            "environment-variable" = variable,
            "unrecognized environment variable"
        );
    }
    if let Some(variable) = report.conflict {
        error!(
            target: FATAL,
            { "environment-variable" = variable },
            "conflicting environment variable is shadowed by corresponding command-line flag (either unset \
             environment variable or disable flag))"
        );
        return Err(Refusal::Logged);
    }
    report.error.map_or(Ok(()), |error| Err(Refusal::Verify(error)))
}

/// Whether the member has no data yet.
fn is_empty(config: &Config) -> bool {
    match std::fs::read_dir(config.data_dir.join("member")) {
        Ok(mut entries) => entries.next().is_none(),
        Err(_) => true,
    }
}

/// etcd's line about what is started, as far as there is something behind its fields.
fn log_start(config: &Config) {
    let dir_type = if is_empty(config) { "empty" } else { "member" };
    let cluster: Vec<String> = config
        .initial_cluster
        .iter()
        .flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")))
        .collect();
    info!(
        "etcd-version" = help::ETCD_VERSION,
        "server-version" = env!("CARGO_PKG_VERSION"),
        "go-os" = std::env::consts::OS,
        "go-arch" = help::go_architecture(),
        "member-initialized" = dir_type == "member",
        name = config.name,
        "data-dir" = %config.data_dir.display(),
        "wal-dir" = config.wal_dir.as_ref().map(|dir| dir.display().to_string()).unwrap_or_default(),
        "heartbeat-interval" = ?config.heartbeat_interval,
        "election-timeout" = ?config.election_timeout,
        "snapshot-count" = config.snapshot_count,
        "snapshot-catchup-entries" = config.snapshot_catchup_entries,
        "initial-advertise-peer-urls" = ?config.advertise_peer_urls,
        "listen-peer-addresses" = ?config.listen_peer,
        "advertise-client-urls" = ?config.advertise_client_urls,
        "listen-client-addresses" = ?config.listen_client,
        "listen-metrics-addresses" = ?config.listen_metrics,
        "initial-cluster" = cluster.join(","),
        "initial-cluster-token" = config.initial_cluster_token,
        "quota-backend-bytes" = config.quota_bytes,
        "max-request-bytes" = config.max_request_bytes,
        "max-concurrent-streams" = config.max_concurrent_streams,
        "pre-vote" = config.pre_vote,
        // Whatever the flag says, as in etcd.
        "v2-deprecation" = "write-only",
        "starting an etcd server"
    );
    if config.unsafe_no_fsync {
        warn!("--unsafe-no-fsync: acknowledged writes may be lost at a power failure");
    }
}

/// Writes what it can: nobody may be reading.
fn print(to: &mut dyn Write, text: &str) {
    let _ = to.write_all(text.as_bytes()).and_then(|()| to.flush());
}
