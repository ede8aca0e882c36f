//! Real processes: the built binary in temporary directories on free ports, and clients that speak to it
//! over the product's own channel.
//!
//! The only place of these tests that knows of processes, ports and the operating system's clock.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::ffi::OsString;
use std::fs;
use std::future::Future;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{LazyLock, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate::client::Channel;
use quorate::proto::etcdserverpb as pb;
use quorate::runtime::Env;
use tempfile::TempDir;

/// How long anything may take on a loaded machine before a test gives up. Nothing depends on it being short.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Another binary to test: see the header of these tests.
const BINARY_VARIABLE: &str = "QUORATE_TEST_BINARY";
const POLL: Duration = Duration::from_millis(20);
pub const READY: &str = "ready to serve client requests";

/// One runtime for all tests of this binary: the environment of a process belongs to one.
static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().build().expect("a runtime can be built")
});

/// Runs a test's body.
pub fn run<F: Future>(body: impl FnOnce(Env) -> F) -> F::Output {
    let _guard = RUNTIME.enter();
    RUNTIME.block_on(body(quorate::runtime::tokio::env()))
}

/// A port that is free now, below the range from which the kernel picks ports for connections.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 1_000) as u16 * 20;
    loop {
        let port = 10_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Waits until `look` finds something; panics with `what` when patience ends.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(POLL);
    }
}

fn tested_binary() -> OsString {
    std::env::var_os(BINARY_VARIABLE).unwrap_or(env!("CARGO_BIN_EXE_quorate").into())
}

/// A member: its flags, and its process while it runs.
pub struct Member {
    pub name: String,
    /// "host:port" for clients.
    pub address: String,
    pub data_dir: PathBuf,
    pub flags: Vec<String>,
    /// What runs.
    pub binary: OsString,
    /// The command that starts the binary, if not the binary itself.
    pub launcher: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Member {
    /// Starts the process; does not wait for anything.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = fs::File::create(&self.log).expect("the log can be created");
        let mut words: Vec<OsString> = self.launcher.iter().map(OsString::from).collect();
        words.push(self.binary.clone());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETCD_")) {
            command.env_remove(name);
        }
        self.child = Some(command.spawn().expect("the binary can be started"));
    }

    /// Starts the process and waits until it serves.
    pub fn start(&mut self) {
        self.spawn();
        self.wait_ready();
    }

    pub fn wait_ready(&mut self) {
        let what = format!("{} to be ready", self.name);
        let start = Instant::now();
        while !self.log().contains(READY) {
            let exited = self.process().try_wait().expect("a child can be asked");
            assert!(
                exited.is_none(),
                "{} ended: {exited:?}\n{}",
                self.name,
                self.log()
            );
            assert!(
                start.elapsed() < PATIENCE,
                "waited in vain for {what}:\n{}",
                self.log()
            );
            std::thread::sleep(POLL);
        }
    }

    /// The URL at which other members reach it.
    pub fn peer_url(&self) -> String {
        let own = format!("{}=", self.name);
        let mut flags = self.flags.iter();
        let listed = flags.find_map(|flag| flag.strip_prefix("--initial-cluster="));
        let mut pairs = listed.expect("members are listed").split(',');
        pairs
            .find_map(|pair| pair.strip_prefix(&own))
            .expect("a member lists itself")
            .to_owned()
    }

    fn process(&mut self) -> &mut Child {
        self.child.as_mut().expect("the member runs")
    }

    /// Starts the process and waits until it has ended by itself; its exit code and its log.
    pub fn run_to_end(&mut self) -> (Option<i32>, String) {
        self.spawn();
        self.end()
    }

    /// Waits until the process has ended by itself; its exit code and its log.
    pub fn end(&mut self) -> (Option<i32>, String) {
        let status = self.wait_end();
        (status.code(), self.log())
    }

    fn wait_end(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the member runs");
        let what = format!("{} to end", self.name);
        wait_for(&what, || child.try_wait().expect("a child can be asked"))
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn signal(&mut self, signal: rustix::process::Signal) {
        let process = rustix::process::Pid::from_child(self.process());
        rustix::process::kill_process(process, signal).expect("a signal can be sent");
    }

    /// Sends a signal and waits for the end.
    pub fn stop(&mut self, signal: rustix::process::Signal) -> ExitStatus {
        self.signal(signal);
        self.wait_end()
    }

    /// From now on the process does nothing; its system keeps its connections.
    pub fn pause(&mut self) {
        self.signal(rustix::process::Signal::STOP);
    }

    pub fn resume(&mut self) {
        self.signal(rustix::process::Signal::CONT);
    }

    /// The process's number.
    /// Memory that the process has in use.
    pub fn resident_mebibytes(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("the process lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kibibytes.expect("a size") >> 10
    }

    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("the member runs").id()
    }

    /// What this run of the process has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Connects, as soon as somebody listens.
    pub async fn connect(&self, env: &Env) -> Client {
        connect(env, &self.address).await
    }

    /// The answer to an HTTP request on the client port: status and body.
    pub fn http_get(&self, path: &str) -> (u16, String) {
        http_get(&self.address, path)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- log of {}\n{}", self.name, last_lines(&self.log(), 40));
        }
        self.kill();
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

pub fn http_get(address: &str, path: &str) -> (u16, String) {
    use std::io::Write;
    let mut stream = std::net::TcpStream::connect(address).expect("somebody listens");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a time-out can be set");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .expect("a request can be sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer comes");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = match chunked {
        true => joined(body),
        false => body.to_owned(),
    };
    (status.expect("an answer has a status"), body)
}

/// What comes in chunks, each behind its length in hexadecimal digits, in one piece.
fn joined(mut chunks: &str) -> String {
    let mut body = String::new();
    while let Some((length, rest)) = chunks.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("a chunk has a length");
        body.push_str(&rest[..length]);
        chunks = rest[length..].trim_start_matches("\r\n");
    }
    body
}

/// Members of one cluster, in one temporary directory.
pub struct Cluster {
    pub members: Vec<Member>,
    dir: TempDir,
}

impl Cluster {
    /// Prepares a cluster; starts nothing. `flags` go to every member.
    pub fn new(size: usize, flags: &[&str]) -> Cluster {
        let dir = TempDir::new().expect("a temporary directory can be made");
        let ports: Vec<(u16, u16)> = (0..size).map(|_| (free_port(), free_port())).collect();
        let peers = ports
            .iter()
            .enumerate()
            .map(|(n, (_, peer))| format!("m{n}=http://127.0.0.1:{peer}"));
        let initial_cluster = peers.collect::<Vec<_>>().join(",");
        let member = |(n, (client, peer)): (usize, &(u16, u16))| {
            let name = format!("m{n}");
            let data_dir = dir.path().join(&name);
            let mut all = vec![
                format!("--name={name}"),
                format!("--data-dir={}", data_dir.display()),
                format!("--listen-client-urls=http://127.0.0.1:{client}"),
                format!("--advertise-client-urls=http://127.0.0.1:{client}"),
                format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
                format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
                format!("--initial-cluster={initial_cluster}"),
            ];
            all.extend(flags.iter().map(|flag| flag.to_string()));
            let (address, log) = (
                format!("127.0.0.1:{client}"),
                dir.path().join(format!("{name}.log")),
            );
            Member {
                name,
                address,
                data_dir,
                flags: all,
                binary: tested_binary(),
                launcher: Vec::new(),
                log,
                child: None,
            }
        };
        let members = ports.iter().enumerate().map(member).collect();
        Cluster { members, dir }
    }

    /// A cluster that serves.
    pub fn start(size: usize, flags: &[&str]) -> Cluster {
        let mut cluster = Cluster::new(size, flags);
        cluster.members.iter_mut().for_each(Member::spawn);
        cluster.members.iter_mut().for_each(Member::wait_ready);
        cluster
    }

    /// Prepares one more member, which joins; its peer URL.
    pub fn prepare_joiner(&mut self) -> String {
        let last = self.members.last().expect("there is a member to join");
        let old = (
            last.name.clone(),
            last.address.clone(),
            last.peer_url(),
            last.data_dir.display().to_string(),
        );
        let name = format!("m{}", self.members.len());
        let address = format!("127.0.0.1:{}", free_port());
        let peer_url = format!("http://127.0.0.1:{}", free_port());
        let data_dir = self.dir.path().join(&name);
        let flag = |flag: &String| match flag.strip_prefix("--initial-cluster=") {
            Some(listed) => format!("--initial-cluster={listed},{name}={peer_url}"),
            None => flag
                .replace(&old.3, &data_dir.display().to_string())
                .replace(&old.1, &address)
                .replace(&old.2, &peer_url)
                .replace(&format!("--name={}", old.0), &format!("--name={name}")),
        };
        let mut flags: Vec<String> = last.flags.iter().map(flag).collect();
        flags.push("--initial-cluster-state=existing".into());
        self.members.push(Member {
            log: self.dir.path().join(format!("{name}.log")),
            name,
            address,
            data_dir,
            flags,
            binary: tested_binary(),
            launcher: Vec::new(),
            child: None,
        });
        peer_url
    }

    /// A member with the data of the first one, other ports, and changed flags.
    pub fn intruder(&self, change: impl Fn(&str) -> String) -> Member {
        let victim = &self.members[0];
        let flags = victim.flags.iter().map(|flag| change(flag)).collect();
        Member {
            name: "intruder".into(),
            address: String::new(),
            data_dir: victim.data_dir.clone(),
            flags,
            binary: tested_binary(),
            launcher: Vec::new(),
            log: self.dir.path().join("intruder.log"),
            child: None,
        }
    }

    /// Which member leads, by what `member` says.
    pub async fn leader(&self, env: &Env, asked: usize) -> usize {
        let mut clients = Vec::new();
        for member in &self.members {
            let id = match member.child {
                Some(_) => Some(
                    member
                        .connect(env)
                        .await
                        .status(env)
                        .await
                        .header
                        .map(|header| header.member_id),
                ),
                None => None,
            };
            clients.push(id.flatten());
        }
        let deadline = env.now() + PATIENCE;
        let mut client = self.members[asked].connect(env).await;
        loop {
            let leader = client
                .try_status(env)
                .await
                .map(|status| status.leader)
                .unwrap_or(0);
            if let Some(found) = clients.iter().position(|id| *id == Some(leader)) {
                return found;
            }
            assert!(
                env.now() < deadline,
                "no leader:\n{}",
                last_lines(&self.members[asked].log(), 20)
            );
            env.sleep(POLL).await;
        }
    }

    /// Waits until all running members have the same hash at one revision, and tells it.
    pub async fn assert_equal_hashes(&self, env: &Env) -> u32 {
        let mut first = self.members[0].connect(env).await;
        let revision = first.linearizable_revision(env).await;
        let mut hashes = Vec::new();
        for member in self.members.iter().filter(|member| member.child.is_some()) {
            let mut client = member.connect(env).await;
            // A linearizable read at this member: it has applied everything up to `revision`.
            assert!(client.linearizable_revision(env).await >= revision);
            let request = pb::HashKvRequest { revision };
            let answer = env.timeout(PATIENCE, client.maintenance.hash_kv(request)).await;
            let answer = answer.expect("an answer in time").expect("a hash").into_inner();
            hashes.push((answer.hash, answer.compact_revision));
        }
        hashes.dedup();
        assert_eq!(
            hashes.len(),
            1,
            "members differ at revision {revision}: {hashes:?}"
        );
        hashes[0].0
    }
}

/// Clients of every service over one connection.
#[derive(Clone)]
pub struct Client {
    pub kv: pb::kv_client::KvClient<Channel>,
    pub watch: pb::watch_client::WatchClient<Channel>,
    pub lease: pb::lease_client::LeaseClient<Channel>,
    pub cluster: pb::cluster_client::ClusterClient<Channel>,
    pub maintenance: pb::maintenance_client::MaintenanceClient<Channel>,
    pub auth: pb::auth_client::AuthClient<Channel>,
}

/// Connects to "host:port", as soon as somebody listens.
pub async fn connect(env: &Env, address: &str) -> Client {
    let deadline = env.now() + PATIENCE;
    loop {
        match Channel::connect(env, address, PATIENCE).await {
            Ok(channel) => return Client::new(channel),
            Err(error) => assert!(env.now() < deadline, "cannot connect to {address}: {error}"),
        }
        env.sleep(POLL).await;
    }
}

impl Client {
    pub fn new(channel: Channel) -> Client {
        Client {
            auth: pb::auth_client::AuthClient::new(channel.clone()),
            kv: pb::kv_client::KvClient::new(channel.clone()),
            watch: pb::watch_client::WatchClient::new(channel.clone()),
            lease: pb::lease_client::LeaseClient::new(channel.clone()),
            cluster: pb::cluster_client::ClusterClient::new(channel.clone()),
            maintenance: pb::maintenance_client::MaintenanceClient::new(channel),
        }
    }

    /// Puts; the revision, or why not.
    pub async fn try_put(&mut self, env: &Env, key: &str, value: &str) -> Result<i64, tonic::Status> {
        let request = pb::PutRequest {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::copy_from_slice(value.as_bytes()),
            ..Default::default()
        };
        let answer = env
            .timeout(PATIENCE, self.kv.put(request))
            .await
            .expect("an answer in time")?;
        Ok(answer.into_inner().header.unwrap_or_default().revision)
    }

    pub async fn put(&mut self, env: &Env, key: &str, value: &str) -> i64 {
        self.try_put(env, key, value).await.expect("a put succeeds")
    }

    /// Puts until it succeeds: while a leader is elected, writes may fail.
    pub async fn put_eventually(&mut self, env: &Env, key: &str, value: &str) -> i64 {
        let deadline = env.now() + PATIENCE;
        loop {
            match self.try_put(env, key, value).await {
                Ok(revision) => return revision,
                Err(error) => assert!(env.now() < deadline, "no put succeeds: {error}"),
            }
            env.sleep(POLL).await;
        }
    }

    pub async fn range(
        &mut self,
        env: &Env,
        request: pb::RangeRequest,
    ) -> Result<pb::RangeResponse, tonic::Status> {
        let answer = env
            .timeout(PATIENCE, self.kv.range(request))
            .await
            .expect("an answer in time")?;
        Ok(answer.into_inner())
    }

    /// The value of a key, by a linearizable read.
    pub async fn get(&mut self, env: &Env, key: &str) -> Option<String> {
        let request = pb::RangeRequest {
            key: Bytes::copy_from_slice(key.as_bytes()),
            ..Default::default()
        };
        let answer = self.range(env, request).await.expect("a get succeeds");
        let found = answer.kvs.into_iter().next();
        found.map(|kv| String::from_utf8_lossy(&kv.value).into_owned())
    }

    /// The store's revision, by a linearizable read.
    pub async fn linearizable_revision(&mut self, env: &Env) -> i64 {
        let request = pb::RangeRequest {
            key: Bytes::from_static(b"-"),
            ..Default::default()
        };
        let answer = self.range(env, request).await.expect("a get succeeds");
        answer.header.unwrap_or_default().revision
    }

    pub async fn try_status(&mut self, env: &Env) -> Result<pb::StatusResponse, tonic::Status> {
        let status = self.maintenance.status(pb::StatusRequest {});
        Ok(env
            .timeout(PATIENCE, status)
            .await
            .expect("an answer in time")?
            .into_inner())
    }

    pub async fn status(&mut self, env: &Env) -> pb::StatusResponse {
        self.try_status(env).await.expect("a status")
    }
}

/// The lines of a stream as they come. Whoever waits for one can stop waiting.
pub fn lines_of(stream: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let mut all = BufReader::new(stream).lines().map_while(Result::ok);
        while all.next().is_some_and(|line| sender.send(line).is_ok()) {}
    });
    lines
}

/// Every file below a directory, sorted.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the directory can be read") {
            let entry = entry.expect("the directory can be read");
            match entry.file_type().expect("an entry has a type").is_dir() {
                true => folders.push(entry.path()),
                false => files.push(entry.path()),
            }
        }
    }
    files.sort();
    files
}
