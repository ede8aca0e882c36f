//! The hosts of a world: switched on and off, started and killed, paused, cut off.
//!
//! A host outlives its processes: its disk, its clock and its place on the network stay. Each process is
//! a madsim node of its own, so that killing it drops all of its tasks at once; `runtime::current()` finds
//! the environment by the madsim node that runs the code.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use madsim::runtime::{Handle, NodeHandle};
use madsim::task::{JoinHandle, NodeId};
use quorate::runtime::Env;

use super::Nanos;
use super::clock::Clock;
use super::disk::{self, Drive};
use super::env::{Process, locked};
use super::net::{self, HostId, Net};
use super::timer::{Sleep, Time};
use crate::notebook::{Notebook, Step};
use crate::seed::Seed;
use crate::trace::Trace;

thread_local! {
    /// Which process each madsim node is. One world lives in a thread at a time.
    static PROCESSES: RefCell<BTreeMap<NodeId, (String, Env)>> = const { RefCell::new(BTreeMap::new()) };
}

/// The environment of the process that runs this code.
fn current() -> Env {
    PROCESSES.with_borrow(|processes| {
        let (_, env) = processes
            .get(&madsim::plugin::node())
            .expect("product code runs in a process of the world");
        env.clone()
    })
}

/// The host whose process runs this code, or "world".
pub fn current_name() -> String {
    // Outside a task madsim has no current node, and says so by a panic: look before asking.
    let inside = madsim::time::TimeHandle::try_current().is_some();
    let name = |processes: &BTreeMap<NodeId, (String, Env)>| {
        let process = processes.get(&madsim::plugin::node());
        process.map(|(name, _)| name.clone())
    };
    inside
        .then(|| PROCESSES.with_borrow(name))
        .flatten()
        .unwrap_or_else(|| "world".to_owned())
}

/// How a process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kill {
    /// The process only: its system closes its connections, its disk loses nothing.
    Process,
    /// The whole machine: what was not synced is lost or torn, and nobody is told.
    Power,
    /// The same; all that was not synced is lost.
    PowerLosing,
    /// The same; the first change to each file that was not synced is torn, and the rest is lost.
    PowerTearing,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Running {
    Off,
    On,
    Paused,
}

struct Host {
    name: String,
    drive: Arc<Mutex<Drive>>,
    clock: Arc<Mutex<Clock>>,
    state: Running,
    /// When it was started, or ran again after a pause.
    running_since: Nanos,
    powered: bool,
    process: Option<NodeHandle>,
    lives: u64,
}

/// Hosts, network and trace of one run. Cheap to clone.
#[derive(Clone)]
pub struct World {
    shared: Arc<Shared>,
}

struct Shared {
    seed: Seed,
    time: Time,
    trace: Trace,
    notebook: Notebook,
    net: Arc<Mutex<Net>>,
    disk_settings: disk::Settings,
    hosts: Mutex<Vec<Host>>,
    /// madsim's node of the task that made this world.
    main: NodeId,
}

impl World {
    /// An empty world on the madsim runtime that runs this code.
    pub fn new(seed: Seed, network: net::Settings, disk_settings: disk::Settings, trace: Trace) -> Self {
        Self::recorded(seed, network, disk_settings, trace, Notebook::default())
    }

    /// The same, with somebody who takes notes.
    pub fn recorded(
        seed: Seed,
        network: net::Settings,
        disk_settings: disk::Settings,
        trace: Trace,
        notebook: Notebook,
    ) -> Self {
        quorate::runtime::install(current);
        PROCESSES.with_borrow_mut(BTreeMap::clear);
        let time = Time::current();
        let clock = time.clone();
        let timer = Box::new(move |at, waker: std::task::Waker| clock.wake_at(at, &waker));
        let net = Net::new(network, seed.dice("network"), timer);
        World {
            shared: Arc::new(Shared {
                seed,
                time,
                trace,
                notebook,
                net: Arc::new(Mutex::new(net)),
                disk_settings,
                hosts: Mutex::new(Vec::new()),
                main: madsim::plugin::node(),
            }),
        }
    }

    pub fn now(&self) -> Nanos {
        self.shared.time.now()
    }

    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.now())
    }

    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.shared.time.sleep(duration)
    }

    pub fn sleep_until(&self, at: Nanos) -> Sleep {
        self.shared.time.sleep_until(at)
    }

    /// Starts a task of the world itself, which no host's death ends.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let main = Handle::current().get_node(self.shared.main);
        main.expect("the main node is always there").spawn(task)
    }

    pub fn trace(&self) -> &Trace {
        &self.shared.trace
    }

    pub fn notebook(&self) -> &Notebook {
        &self.shared.notebook
    }

    /// Adds an event to the trace.
    pub fn event(&self, place: &str, what: fmt::Arguments<'_>) {
        self.shared.trace.event(self.elapsed(), place, what);
    }

    /// Adds a host, switched on, without a process.
    pub fn add_host(&self, name: &str) -> HostId {
        let Shared {
            seed, disk_settings, ..
        } = &*self.shared;
        let dice = seed.dice(&format!("disk {name}"));
        let mut hosts = locked(&self.shared.hosts);
        hosts.push(Host {
            name: name.to_owned(),
            drive: Arc::new(Mutex::new(Drive::new(*disk_settings, dice))),
            clock: Arc::new(Mutex::new(Clock::new(0, 0))),
            state: Running::Off,
            running_since: 0,
            powered: true,
            process: None,
            lives: 0,
        });
        let id = locked(&self.shared.net).add_host(name);
        assert_eq!(id + 1, hosts.len(), "hosts are numbered alike everywhere");
        id
    }

    pub fn name(&self, host: HostId) -> String {
        locked(&self.shared.hosts)[host].name.clone()
    }

    /// Starts a process on a host that has none: switches the machine on if need be.
    pub fn start<F>(&self, id: HostId, main: impl FnOnce(Env) -> F) -> Env
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let now = self.now();
        let mut hosts = locked(&self.shared.hosts);
        let host = &mut hosts[id];
        assert_eq!(host.state, Running::Off, "{} runs already", host.name);
        host.lives += 1;
        if !host.powered {
            host.powered = true;
            locked(&self.shared.net).power_on(now, id);
        }
        let mut dice = self
            .shared
            .seed
            .dice(&format!("process {} {}", host.name, host.lives));
        // Anywhere: nobody may compare instants of two processes.
        let origin = 1_000_000_000 + dice.below(1 << 45);
        locked(&host.clock).restart(now, origin);
        let label = format!("{}.{}", host.name, host.lives);
        let tasks = Handle::current().create_node().name(&label).build();
        let env = Env::new(Process {
            time: self.shared.time.clone(),
            host: id,
            life: locked(&host.drive).begin_life(),
            tasks: tasks.clone(),
            net: self.shared.net.clone(),
            drive: host.drive.clone(),
            clock: host.clock.clone(),
            dice: Mutex::new(dice),
        });
        PROCESSES.with_borrow_mut(|processes| {
            processes.insert(tasks.id(), (host.name.clone(), env.clone()));
        });
        self.event(&host.name, format_args!("start {}", host.lives));
        self.notebook().life(now, &host.name, Step::Started);
        (host.state, host.running_since) = (Running::On, now);
        host.process = Some(tasks.clone());
        drop(hosts);
        tasks.spawn(main(env.clone()));
        env
    }

    /// Ends the process of a host. False if it has none.
    pub fn kill(&self, id: HostId, kill: Kill) -> bool {
        let now = self.now();
        let mut hosts = locked(&self.shared.hosts);
        let host = &mut hosts[id];
        let Some(process) = host.process.take() else {
            return false;
        };
        host.state = Running::Off;
        self.event(&host.name, format_args!("kill {kill:?}"));
        let how = match kill {
            Kill::Process => "killed",
            Kill::Power => "lost power",
            Kill::PowerLosing => "lost power and all unsynced writes",
            Kill::PowerTearing => "lost power, unsynced writes torn",
        };
        self.notebook().life(now, &host.name, Step::Ended(how));
        Handle::current().kill(process.id());
        match kill {
            Kill::Process => {
                locked(&self.shared.net).kill_process(now, id);
                locked(&host.drive).kill_process();
            }
            Kill::Power | Kill::PowerLosing | Kill::PowerTearing => {
                host.powered = false;
                locked(&self.shared.net).power_off(now, id);
                locked(&host.drive).crash_with(match kill {
                    Kill::PowerLosing => Some(disk::Tail::Lost),
                    Kill::PowerTearing => Some(disk::Tail::Torn),
                    _ => None,
                });
            }
        }
        true
    }

    /// Stops a process from running, as SIGSTOP does. False if there is nothing to stop.
    pub fn pause(&self, id: HostId) -> bool {
        self.change(id, Running::On, Running::Paused)
    }

    pub fn resume(&self, id: HostId) -> bool {
        self.change(id, Running::Paused, Running::On)
    }

    /// [`pause`](Self::pause) and [`resume`](Self::resume), so often that it is not worth a line each.
    pub fn pause_briefly(&self, id: HostId, pause: bool) -> bool {
        let (from, to) = match pause {
            true => (Running::On, Running::Paused),
            false => (Running::Paused, Running::On),
        };
        self.switch(id, from, to)
    }

    fn change(&self, id: HostId, from: Running, to: Running) -> bool {
        let changed = self.switch(id, from, to);
        if changed {
            self.event(&self.name(id), format_args!("{to:?}"));
        }
        changed
    }

    fn switch(&self, id: HostId, from: Running, to: Running) -> bool {
        let mut hosts = locked(&self.shared.hosts);
        let host = &mut hosts[id];
        let Some(process) = host.process.as_ref().filter(|_| host.state == from) else {
            return false;
        };
        let step = match to {
            Running::Paused => {
                Handle::current().pause(process.id());
                Step::Paused
            }
            _ => {
                Handle::current().resume(process.id());
                Step::Resumed
            }
        };
        let now = self.now();
        self.notebook().life(now, &host.name, step);
        (host.state, host.running_since) = (to, now);
        true
    }

    pub fn is_off(&self, id: HostId) -> bool {
        locked(&self.shared.hosts)[id].state == Running::Off
    }

    pub fn is_running(&self, id: HostId) -> bool {
        locked(&self.shared.hosts)[id].state == Running::On
    }

    /// Since when a host's process has run without a pause; `None`: it does not run.
    pub fn running_since(&self, id: HostId) -> Option<Nanos> {
        let host = &locked(&self.shared.hosts)[id];
        (host.state == Running::On).then_some(host.running_since)
    }

    /// How often a process was started on a host.
    pub fn lives(&self, id: HostId) -> u64 {
        locked(&self.shared.hosts)[id].lives
    }

    /// Does something to the network.
    pub fn net<T>(&self, act: impl FnOnce(&mut Net, Nanos) -> T) -> T {
        act(&mut locked(&self.shared.net), self.now())
    }

    /// Does something to a disk.
    pub fn drive<T>(&self, id: HostId, act: impl FnOnce(&mut Drive) -> T) -> T {
        let drive = locked(&self.shared.hosts)[id].drive.clone();
        act(&mut locked(&drive))
    }

    /// Does something to a clock.
    pub fn clock<T>(&self, id: HostId, act: impl FnOnce(&mut Clock, Nanos) -> T) -> T {
        let clock = locked(&self.shared.hosts)[id].clock.clone();
        act(&mut locked(&clock), self.now())
    }
}
