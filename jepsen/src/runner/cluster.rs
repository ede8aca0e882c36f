//! Real processes on loopback: started with etcd's flags, killed, paused, restarted.
//!
//! The data directories live under the output folder and survive kills; all processes end with the
//! cluster, however the run ends.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use quorate::proto::etcdserverpb as pb;
use quorate::runtime::Env;
use quorate_jepsen::history::{Outcome, Request};
use quorate_jepsen::workload::{Clock, Connection, call};
use rustix::process::{Pid, Signal, kill_process};

use super::lives::Lives;

/// One member.
struct Member {
    name: String,
    client_address: String,
    peer_address: String,
    data: PathBuf,
    log: PathBuf,
    process: Option<Child>,
    paused: bool,
}

pub struct Cluster {
    binary: PathBuf,
    token: String,
    members: Vec<Member>,
    deaths: Vec<String>,
    clock: Clock,
    lives: Lives,
}

impl Cluster {
    /// Picks ports and folders; starts nothing.
    pub async fn prepare(
        env: &Env,
        clock: Clock,
        binary: &Path,
        nodes: u32,
        out: &Path,
    ) -> Result<Cluster, String> {
        let data = out.join("data");
        if data.exists() {
            fs::remove_dir_all(&data).map_err(|error| super::at(&data, &error))?;
        }
        fs::create_dir_all(&data).map_err(|error| super::at(&data, &error))?;
        let ports = free_addresses(env, 2 * nodes as usize).await?;
        let mut members = Vec::new();
        for (number, pair) in ports.chunks(2).enumerate() {
            let [client_address, peer_address] = pair else {
                return Err("ports come in pairs".into());
            };
            let name = format!("m{number}");
            members.push(Member {
                client_address: client_address.clone(),
                peer_address: peer_address.clone(),
                data: data.join(&name),
                log: out.join(format!("{name}.log")),
                name,
                process: None,
                paused: false,
            });
        }
        for member in &members {
            File::create(&member.log).map_err(|error| super::at(&member.log, &error))?;
        }
        Ok(Cluster {
            lives: Lives::of(members.iter().map(|member| member.name.clone())),
            clock,
            binary: binary.to_owned(),
            token: format!("jepsen-{}", env.random_u64()),
            members,
            deaths: Vec::new(),
        })
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Client addresses by member number.
    pub fn addresses(&self) -> Vec<String> {
        self.members
            .iter()
            .map(|member| member.client_address.clone())
            .collect()
    }

    /// What became of the processes so far.
    pub fn lives(&self) -> &Lives {
        &self.lives
    }

    pub fn start_all(&mut self) -> Result<(), String> {
        (0..self.len()).try_for_each(|member| self.start(member))
    }

    fn initial_cluster(&self) -> String {
        let entries: Vec<String> = self
            .members
            .iter()
            .map(|member| format!("{}=http://{}", member.name, member.peer_address))
            .collect();
        entries.join(",")
    }

    /// Starts a member that does not run.
    pub fn start(&mut self, member: usize) -> Result<(), String> {
        let initial_cluster = self.initial_cluster();
        self.lives.started(self.clock.now(), member);
        let member = &mut self.members[member];
        let log = File::options()
            .append(true)
            .open(&member.log)
            .map_err(|error| super::at(&member.log, &error))?;
        let errors = log.try_clone().map_err(|error| super::at(&member.log, &error))?;
        let client_url = format!("http://{}", member.client_address);
        let peer_url = format!("http://{}", member.peer_address);
        let mut command = Command::new(&self.binary);
        command
            .args(["--name", &member.name])
            .arg("--data-dir")
            .arg(&member.data)
            .args(["--listen-client-urls", &client_url])
            .args(["--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url])
            .args(["--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &initial_cluster])
            .args(["--initial-cluster-state", "new"])
            .args(["--initial-cluster-token", &self.token])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        let child = command
            .spawn()
            .map_err(|error| format!("{} does not start: {error}", self.binary.display()))?;
        member.process = Some(child);
        member.paused = false;
        Ok(())
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self, member: usize) -> Result<(), String> {
        let Some(mut process) = self.members[member].process.take() else {
            return Ok(());
        };
        self.lives.ended(self.clock.now(), member, "killed");
        let member = &self.members[member];
        process
            .kill()
            .and_then(|()| process.wait())
            .map_err(|error| format!("{} cannot be killed: {error}", member.name))?;
        Ok(())
    }

    /// SIGSTOP.
    pub fn pause(&mut self, member: usize) -> Result<(), String> {
        self.members[member].paused = true;
        self.lives.paused(self.clock.now(), member);
        self.signal(member, Signal::STOP)
    }

    /// SIGCONT.
    pub fn resume(&mut self, member: usize) -> Result<(), String> {
        self.members[member].paused = false;
        self.lives.resumed(self.clock.now(), member);
        self.signal(member, Signal::CONT)
    }

    fn signal(&self, member: usize, signal: Signal) -> Result<(), String> {
        let member = &self.members[member];
        let Some(process) = &member.process else {
            return Ok(());
        };
        let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| format!("{} has no process id", member.name))?;
        kill_process(pid, signal).map_err(|error| format!("{} gets no signal: {error}", member.name))
    }

    pub fn is_up(&self, member: usize) -> bool {
        let member = &self.members[member];
        member.process.is_some() && !member.paused
    }

    pub fn is_paused(&self, member: usize) -> bool {
        self.members[member].paused
    }

    /// Notices members that ended although nobody killed them.
    pub fn notice_deaths(&mut self) -> usize {
        for (number, member) in self.members.iter_mut().enumerate() {
            let ended = member
                .process
                .as_mut()
                .and_then(|process| process.try_wait().ok()?);
            if let Some(status) = ended {
                member.process = None;
                let log = member.log.display();
                let how = format!("ended by itself ({status})");
                self.lives.ended(self.clock.now(), number, &how);
                self.deaths
                    .push(format!("{} ended by itself ({status}): see {log}", member.name));
            }
        }
        self.deaths.len()
    }

    /// Every member that ended by itself so far, with its exit status.
    pub fn deaths(&self) -> &[String] {
        &self.deaths
    }

    /// Waits until every member answers a linearizable read.
    pub async fn wait_until_serving(&mut self, env: &Env, timeout: Duration) -> Result<(), String> {
        let deadline = env.now() + timeout;
        let request: Request = pb::RangeRequest {
            key: b"start".as_slice().into(),
            ..Default::default()
        }
        .into();
        for (number, address) in self.addresses().iter().enumerate() {
            loop {
                if let Some(connection) = Connection::open(env, address, super::CONNECT_TIMEOUT, None).await
                    && let Outcome::Ok(_) = call(env, &connection, &request, super::CALL_TIMEOUT).await
                {
                    break;
                }
                if self.notice_deaths() > 0 {
                    return Err(self.deaths.join("; "));
                }
                if env.now() >= deadline {
                    let log = self.members[number].log.display();
                    return Err(format!(
                        "member {number} does not serve within {timeout:?}: see {log}"
                    ));
                }
                env.sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in 0..self.len() {
            // The run is over; a process that is gone already is what is wanted.
            let _ = self.kill(member);
        }
    }
}

/// Loopback addresses whose ports were free a moment ago.
async fn free_addresses(env: &Env, count: usize) -> Result<Vec<String>, String> {
    let mut listeners = Vec::new();
    for _ in 0..count {
        let listener = env.listen("127.0.0.1:0").await;
        listeners.push(listener.map_err(|error| format!("no free port: {error}"))?);
    }
    Ok(listeners
        .iter()
        .map(|listener| listener.local_address())
        .collect())
}
