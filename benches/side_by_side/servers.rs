//! Clusters of real processes of one system, and what the kernel counts of them.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use quorate::client::Channel;
use quorate::proto::etcdserverpb as pb;
use quorate::runtime::{Env, Listener, Stream, Task};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

/// How long a cluster may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Linux counts CPU time in /proc in hundredths of a second on every machine.
const TICK: Duration = Duration::from_millis(10);

/// A program that can be measured.
pub struct System {
    pub name: &'static str,
    program: PathBuf,
}

impl System {
    /// Those of the wanted systems that are there; says which one is not.
    pub fn find(wanted: &[String]) -> Vec<System> {
        let mut systems = Vec::new();
        let wants = |name: &str| wanted.iter().any(|wanted| wanted == name);
        if wants("quorate") {
            let program = env!("CARGO_BIN_EXE_quorate").into();
            systems.push(System {
                name: "quorate",
                program,
            });
        }
        if wants("etcd") {
            let path = std::env::var_os("PATH").unwrap_or_default();
            match std::env::split_paths(&path)
                .map(|dir| dir.join("etcd"))
                .find(|path| path.is_file())
            {
                Some(program) => systems.push(System {
                    name: "etcd",
                    program,
                }),
                None => println!("no etcd on the PATH: its rows are skipped\n"),
            }
        }
        systems
    }
}

/// A running cluster with fresh data.
pub struct Servers {
    /// "host:port" of each member, for clients.
    pub addresses: Vec<String>,
    processes: Vec<Child>,
    relays: Vec<Task<()>>,
    _dir: TempDir,
}

/// CPU time and memory of all members together.
#[derive(Clone, Copy)]
pub struct Usage {
    pub cpu: Duration,
    pub resident_bytes: u64,
}

impl Servers {
    /// `delay`: how far away the members are from each other, one way.
    pub async fn start(env: &Env, system: &System, nodes: usize, delay: Duration) -> Result<Servers, String> {
        // Below the build's folder, so on a disk rather than in a file system of memory.
        let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).map_err(|error| error.to_string())?;
        let ports: Vec<(u16, u16)> = free_ports(2 * nodes)
            .chunks(2)
            .map(|pair| (pair[0], pair[1]))
            .collect();
        let mut relays = Vec::new();
        let mut peers = Vec::new();
        for (_, peer) in &ports {
            let mut address = format!("127.0.0.1:{peer}");
            if !delay.is_zero() {
                let listener = env
                    .listen("127.0.0.1:0")
                    .await
                    .map_err(|error| error.to_string())?;
                let near = std::mem::replace(&mut address, listener.local_address());
                relays.push(env.spawn(relay(env.clone(), listener, near, delay)));
            }
            peers.push(address);
        }
        let members = peers.iter().enumerate();
        let members: Vec<String> = members.map(|(n, peer)| format!("m{n}=http://{peer}")).collect();
        let mut processes = Vec::new();
        for (n, (client, peer)) in ports.iter().enumerate() {
            let log =
                fs::File::create(dir.path().join(format!("m{n}.log"))).map_err(|error| error.to_string())?;
            let process = Command::new(&system.program)
                .arg(format!("--name=m{n}"))
                .arg(format!(
                    "--data-dir={}",
                    dir.path().join(format!("m{n}")).display()
                ))
                .arg(format!("--listen-client-urls=http://127.0.0.1:{client}"))
                .arg(format!("--advertise-client-urls=http://127.0.0.1:{client}"))
                .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer}"))
                .arg(format!("--initial-advertise-peer-urls=http://{}", peers[n]))
                .arg(format!("--initial-cluster={}", members.join(",")))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn();
            processes.push(process.map_err(|error| format!("{}: {error}", system.program.display()))?);
        }
        let servers = Servers {
            addresses: ports
                .iter()
                .map(|(client, _)| format!("127.0.0.1:{client}"))
                .collect(),
            processes,
            relays,
            _dir: dir,
        };
        for address in &servers.addresses {
            wait_ready(env, system, address).await?;
        }
        Ok(servers)
    }

    /// Connections to the members in turn.
    pub async fn connect(&self, env: &Env, count: usize) -> Result<Vec<Channel>, String> {
        let mut channels = Vec::new();
        for address in self.addresses.iter().cycle().take(count) {
            let channel = Channel::connect(env, address, START_TIMEOUT).await;
            channels.push(channel.map_err(|error| format!("{address}: {error}"))?);
        }
        Ok(channels)
    }

    pub fn usage(&self) -> Usage {
        let mut usage = Usage {
            cpu: Duration::ZERO,
            resident_bytes: 0,
        };
        for process in &self.processes {
            let read = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", process.id()));
            let stat = read("stat").unwrap_or_default();
            // Fields after the command's closing parenthesis; 14 and 15 of the whole are utime and stime.
            let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
            let ticks = fields
                .split_whitespace()
                .skip(11)
                .take(2)
                .filter_map(|field| field.parse::<u32>().ok());
            usage.cpu += TICK * ticks.sum::<u32>();
            let status = read("status").unwrap_or_default();
            let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let kilobytes = resident.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
            usage.resident_bytes += kilobytes.unwrap_or(0) * 1024;
        }
        usage
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.relays.iter().for_each(Task::abort);
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Passes on what comes, `delay` later.
async fn relay(env: Env, listener: Box<dyn Listener>, to: String, delay: Duration) {
    while let Ok(near) = listener.accept().await {
        let Ok(far) = env.connect(&to).await else { continue };
        let (near, far) = (tokio::io::split(near), tokio::io::split(far));
        pass_on(&env, near.0, far.1, delay);
        pass_on(&env, far.0, near.1, delay);
    }
}

fn pass_on(env: &Env, mut from: ReadHalf<Stream>, mut to: WriteHalf<Stream>, delay: Duration) {
    let (sender, mut pieces) = mpsc::unbounded_channel();
    let (reading, writing) = (env.clone(), env.clone());
    env.spawn_detached(async move {
        loop {
            let mut piece = Vec::with_capacity(64 * 1024);
            let read = from.read_buf(&mut piece).await;
            let over = !matches!(read, Ok(bytes) if bytes > 0);
            if over || sender.send((reading.now() + delay, piece)).is_err() {
                return;
            }
        }
    });
    env.spawn_detached(async move {
        while let Some((due, piece)) = pieces.recv().await {
            writing.sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    });
}

/// Waits until a member answers a linearizable read.
async fn wait_ready(env: &Env, system: &System, address: &str) -> Result<(), String> {
    let deadline = env.now() + START_TIMEOUT;
    loop {
        if let Ok(channel) = Channel::connect(env, address, START_TIMEOUT).await {
            let mut client = pb::kv_client::KvClient::new(channel);
            let request = pb::RangeRequest {
                key: "-".into(),
                ..Default::default()
            };
            if matches!(env.timeout_at(deadline, client.range(request)).await, Ok(Ok(_))) {
                return Ok(());
            }
        }
        if env.now() >= deadline {
            return Err(format!("{} at {address} does not answer", system.name));
        }
        env.sleep(Duration::from_millis(50)).await;
    }
}

fn free_ports(count: usize) -> Vec<u16> {
    let bind = |_| TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let listeners: Vec<TcpListener> = (0..count).map(bind).collect();
    let port = |listener: &TcpListener| {
        listener
            .local_addr()
            .expect("a bound listener has an address")
            .port()
    };
    listeners.iter().map(port).collect()
}
