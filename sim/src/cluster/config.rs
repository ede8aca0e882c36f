//! What a member is started with.

use std::time::Duration;

use quorate::config::{AutoCompaction, Config, CorruptionChecks, EngineKind, JwtOptions, Keepalive};

use super::{CLIENT_PORT, Cluster, PEER_PORT, locked, name, peer_url};

/// Shorter than a run, longer than most faults.
const JWT_TTL: Duration = Duration::from_secs(20);
/// The least: it is the work of a login, not its strength, that costs the simulator.
const BCRYPT_COST: u32 = 4;

impl Cluster {
    pub(super) fn config(&self, member: usize) -> Config {
        let other_options = locked(&self.shared.members[member]).options.clone();
        let options = other_options.as_ref().unwrap_or(&self.shared.plan.options);
        let own = name(member);
        let initial = (0..self.len()).map(|other| (name(other), vec![peer_url(other)]));
        Config {
            data_dir: "/data".into(),
            engine: EngineKind::Journal,
            listen_client: vec![format!("{own}:{CLIENT_PORT}").into()],
            listen_peer: vec![format!("{own}:{PEER_PORT}").into()],
            advertise_client_urls: vec![format!("http://{own}:{CLIENT_PORT}")],
            advertise_peer_urls: vec![peer_url(member)],
            join: locked(&self.shared.members[member]).joins,
            initial_cluster: initial.collect(),
            heartbeat_interval: options.heartbeat_interval,
            election_timeout: options.election_timeout,
            snapshot_count: options.snapshot_count,
            snapshot_catchup_entries: options.snapshot_catchup_entries,
            log_segment_bytes: options.log_segment_bytes,
            quota_bytes: options.quota_bytes,
            bcrypt_cost: BCRYPT_COST,
            auth_jwt: options.jwt.then(|| JwtOptions {
                sign_method: "HS256".into(),
                private_key: b"the secret of all members".to_vec(),
                ttl: JWT_TTL,
                ..JwtOptions::default()
            }),
            pre_vote: options.pre_vote,
            lease_checkpoints: options.lease_checkpoints,
            corruption: CorruptionChecks {
                initial: options.initial_corruption_check,
                interval: options.corruption_check_interval,
                compaction_interval: options.compaction_check_interval,
            },
            watch_progress_interval: options.watch_progress_interval,
            auto_compaction: (!options.auto_compaction_retention.is_zero())
                .then_some(AutoCompaction::Periodic(options.auto_compaction_retention)),
            // A look at the members changes no run.
            probe_interval: Duration::ZERO,
            max_txn_ops: options.max_txn_ops,
            max_request_bytes: options.max_request_bytes,
            max_concurrent_streams: options.max_concurrent_streams,
            keepalive: Keepalive {
                interval: options.keepalive_interval,
                ..Keepalive::default()
            },
            auth_token_ttl: options.auth_token_ttl,
            level: options.level,
            name: own,
            ..Config::default()
        }
    }
}
