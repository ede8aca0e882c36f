//! `SimNet`: byte streams between hosts as TCP gives them, faults included.
//!
//! ```text
//!   product ── Stream ── poll_read / poll_write ──► Net (this folder: no clock, no tasks, `now` is told)
//!                                                    │ links[from][to]: delay, cut
//!   nemesis ── cut, burden, clog, reset, halve, kill ►│ connections: two ends each
//!                                                    └─ timers: asked of the world
//! ```
//!
//! What it promises, because TCP does:
//! * bytes arrive in order, each once, or the connection fails;
//! * a full window makes the writer wait;
//! * while a link is cut nothing arrives, end-of-stream and resets included; what was under way arrives
//!   some time after it is healed (retransmission backs off), or the *sender* fails with a time-out while
//!   the receiver learns nothing (half-open);
//! * a process that dies closes its connections: its machine answers for it. A machine that loses power
//!   says nothing; when it is back, it answers old connections with a reset;
//! * behind a middle box the end of one direction is the end of both: what travels the other way is lost;
//! * connecting to a port that nobody listens on is refused; connecting into a cut, or to a machine that
//!   is off, takes minutes.
//!
//! It does not model packets: delay belongs to a piece as written. It does not share bandwidth between
//! connections.

mod connection;
mod faults;
mod link;
mod slot;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::ready;
use serde::{Deserialize, Serialize};

pub use self::connection::Half;
use self::connection::{Connection, End, Holder, Piece};
pub use self::link::{Burden, Link, Speed, Touched};
pub use self::slot::Slot;
use super::Nanos;
use crate::plan::readable;
use crate::seed::Dice;

/// A machine on the network.
pub type HostId = usize;

/// Not before something changes.
pub(crate) const NEVER: Nanos = Nanos::MAX;
/// The longest wait of a retransmission after a link is healed.
const RETRANSMIT_MAX: Nanos = 1_200_000_000;
/// How long after the last bytes a reset comes at most.
const RESET_GAP: Nanos = 2_000_000;
/// The first port that is given out where port 0 was asked for.
const EPHEMERAL_PORT: u16 = 32_768;

pub(crate) fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What a run draws once for its network.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub speed: Speed,
    /// Bytes that one direction of a connection holds: buffers of both systems and what is under way.
    pub window: usize,
    /// How long a sender waits for acknowledgements before its connection fails.
    #[serde(with = "readable")]
    pub give_up: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            speed: Speed::default(),
            window: 256 << 10,
            give_up: Duration::from_secs(20),
        }
    }
}

/// Registers a timer: at this time, wake that. Asked of the world because only it has a clock.
pub type Timer = Box<dyn Fn(Nanos, Waker) + Send>;

struct Host {
    name: String,
    powered: bool,
    listeners: BTreeMap<u16, Backlog>,
    next_port: u16,
}

/// A bound port, with who binds it: an earlier process that is only now cleared away must not close it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Binding {
    pub host: HostId,
    pub port: u16,
    number: u64,
}

struct Backlog {
    binding: u64,
    waiting: VecDeque<u64>,
    acceptor: Option<Waker>,
}

/// One end of a connection, as a stream names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EndId {
    connection: u64,
    side: usize,
}

impl EndId {
    fn opposite(self) -> EndId {
        EndId {
            connection: self.connection,
            side: 1 - self.side,
        }
    }
}

/// What became of the first packet of a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Knock {
    /// The dialer's end.
    Opened(EndId),
    Refused,
    /// No answer: try again later.
    Silence,
}

/// A link was cut, or let through again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkChange {
    pub at: Nanos,
    pub from: HostId,
    pub to: HostId,
    pub is_cut: bool,
}

/// The whole network.
pub struct Net {
    settings: Settings,
    dice: Dice,
    timer: Timer,
    hosts: Vec<Host>,
    links: Vec<Vec<Link>>,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    next_binding: u64,
    /// When the processes of a host last read something that another one had sent: to, from.
    heard: BTreeMap<(HostId, HostId), Nanos>,
    /// When one of two hosts last forgot its connections with the other; both orders.
    halved: BTreeMap<(HostId, HostId), Nanos>,
    /// Counted over the run, for the report.
    pub resets: u64,
    pub timeouts: u64,
    /// Pieces sent into a connection whose other end is gone without a word.
    pub into_halves: u64,
    /// Which links were cut, and when: for timelines.
    pub link_changes: Vec<LinkChange>,
}

impl Net {
    pub fn new(settings: Settings, dice: Dice, timer: Timer) -> Self {
        Net {
            settings,
            dice,
            timer,
            hosts: Vec::new(),
            links: Vec::new(),
            connections: BTreeMap::new(),
            next_connection: 0,
            next_binding: 0,
            heard: BTreeMap::new(),
            resets: 0,
            timeouts: 0,
            into_halves: 0,
            halved: BTreeMap::new(),
            link_changes: Vec::new(),
        }
    }

    /// Adds a machine, switched on. Each link gets its own share of the usual latency.
    pub fn add_host(&mut self, name: &str) -> HostId {
        let id = self.hosts.len();
        self.hosts.push(Host {
            name: name.to_owned(),
            powered: true,
            listeners: BTreeMap::new(),
            next_port: EPHEMERAL_PORT,
        });
        for from in 0..id {
            let link = self.draw_link();
            self.links[from].push(link);
        }
        let mut row: Vec<Link> = (0..id).map(|_| self.draw_link()).collect();
        row.push(Link::new(Speed::LOOPBACK));
        self.links.push(row);
        id
    }

    /// When a host last read something that came from another one; 0: never.
    pub fn heard(&self, by: HostId, from: HostId) -> Nanos {
        self.heard.get(&(by, from)).copied().unwrap_or(0)
    }

    /// How many machines there are.
    pub fn hosts(&self) -> HostId {
        self.hosts.len()
    }

    fn draw_link(&mut self) -> Link {
        let mut speed = self.settings.speed;
        speed.latency = self.dice.range(speed.latency / 2..speed.latency * 3 / 2 + 1);
        Link::new(speed)
    }

    /// The machine and port that "host:port" means on a host.
    pub fn resolve(&self, own: HostId, address: &str) -> io::Result<(HostId, u16)> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidInput, format!("address {address}"));
        let (name, port) = address.rsplit_once(':').ok_or_else(invalid)?;
        let port = port.parse().map_err(|_| invalid())?;
        let known = |host: &Host| host.name == name;
        let host = match name {
            "" | "localhost" | "127.0.0.1" | "0.0.0.0" | "[::]" => Some(own),
            _ => self.hosts.iter().position(known),
        };
        let unknown = || io::Error::new(io::ErrorKind::NotFound, format!("no such host: {name}"));
        Ok((host.ok_or_else(unknown)?, port))
    }

    /// Binds a port of a host (0: any free one).
    pub fn bind(&mut self, host: HostId, port: u16) -> io::Result<Binding> {
        let machine = &mut self.hosts[host];
        let port = match port {
            0 => {
                machine.next_port = machine.next_port.checked_add(1).unwrap_or(EPHEMERAL_PORT);
                machine.next_port
            }
            port => port,
        };
        if machine.listeners.contains_key(&port) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let number = self.next_binding;
        self.next_binding += 1;
        let backlog = Backlog {
            binding: number,
            waiting: VecDeque::new(),
            acceptor: None,
        };
        machine.listeners.insert(port, backlog);
        Ok(Binding { host, port, number })
    }

    /// Closes a port, if it is still bound by this binding; connections that nobody accepted are reset.
    pub fn unbind(&mut self, now: Nanos, binding: Binding) {
        if self.bound(binding).is_some() {
            self.close_port(now, binding.host, binding.port);
        }
    }

    fn close_port(&mut self, now: Nanos, host: HostId, port: u16) {
        let Some(backlog) = self.hosts[host].listeners.remove(&port) else {
            return;
        };
        for connection in backlog.waiting {
            self.close(now, EndId { connection, side: 1 });
        }
        backlog.acceptor.into_iter().for_each(Waker::wake);
    }

    fn bound(&mut self, binding: Binding) -> Option<&mut Backlog> {
        let backlog = self.hosts[binding.host].listeners.get_mut(&binding.port);
        backlog.filter(|backlog| backlog.binding == binding.number)
    }

    pub fn poll_accept(&mut self, binding: Binding, cx: &Context<'_>) -> Poll<io::Result<EndId>> {
        let Some(backlog) = self.bound(binding) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        match backlog.waiting.pop_front() {
            Some(connection) => Poll::Ready(Ok(EndId { connection, side: 1 })),
            None => {
                backlog.acceptor = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// The other side of an end, for logs.
    pub fn peer(&self, id: EndId) -> String {
        let connection = self.connections.get(&id.connection);
        connection.map_or_else(String::new, |connection| connection.ends[id.side].peer.clone())
    }

    /// How long a packet takes to get there; `None` if it does not.
    pub fn packet(&mut self, now: Nanos, from: HostId, to: HostId) -> Option<Nanos> {
        let Net {
            links, hosts, dice, ..
        } = self;
        let link = &mut links[from][to];
        link.touched.blocked += u64::from(link.is_cut());
        (!link.is_cut() && hosts[to].powered).then(|| link.delay(now, dice, 60))
    }

    /// The first packet of a connection has arrived.
    pub fn knock(&mut self, from: HostId, to: HostId, port: u16) -> Knock {
        if !self.hosts[to].powered || self.links[from][to].is_cut() {
            return Knock::Silence;
        }
        let dialer = self.hosts[from].name.clone();
        let host = &mut self.hosts[to];
        let acceptor = format!("{}:{port}", host.name);
        let Some(backlog) = host.listeners.get_mut(&port) else {
            return Knock::Refused;
        };
        let id = self.next_connection;
        self.next_connection += 1;
        backlog.waiting.push_back(id);
        backlog.acceptor.take().into_iter().for_each(Waker::wake);
        let ends = [End::new(from, acceptor), End::new(to, format!("{dialer}:{id}"))];
        let connection = Connection {
            ends,
            half: None,
            is_ended_by_box: false,
        };
        self.connections.insert(id, connection);
        Knock::Opened(EndId {
            connection: id,
            side: 0,
        })
    }

    pub fn poll_read(
        &mut self,
        now: Nanos,
        id: EndId,
        room: usize,
        put: impl FnMut(&[u8]),
        cx: &Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(now, id)?;
        let (end, opposite) = self.connection(id)?.pair(id.side);
        if end.is_readable() {
            let (to, from) = (end.host, opposite.host);
            if end.read(put, room) > 0 {
                if opposite.holder == Holder::Process {
                    opposite.slot.wake_writer();
                }
                self.heard.insert((to, from), now);
            }
            return Poll::Ready(Ok(()));
        }
        end.slot.wait_to_read(cx.waker());
        self.arm(id);
        Poll::Pending
    }

    pub fn poll_write(
        &mut self,
        now: Nanos,
        id: EndId,
        parts: &[io::IoSlice<'_>],
        cx: &Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let room = ready!(self.poll_room(now, id, cx))?;
        let mut data = Vec::with_capacity(room.min(parts.iter().map(|part| part.len()).sum()));
        for part in parts {
            data.extend_from_slice(&part[..part.len().min(room - data.len())]);
        }
        let length = data.len();
        if length > 0 {
            self.send(now, id, Piece::Data(Bytes::from(data)));
        }
        Poll::Ready(Ok(length))
    }

    /// Bytes that can be written without waiting.
    fn poll_room(&mut self, now: Nanos, id: EndId, cx: &Context<'_>) -> Poll<io::Result<usize>> {
        self.check(now, id)?;
        let window = self.settings.window;
        let (end, opposite) = self.connection(id)?.pair(id.side);
        if end.finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = window.saturating_sub(opposite.held_bytes);
        if room == 0 {
            end.slot.wait_to_write(cx.waker());
            self.arm(id);
            return Poll::Pending;
        }
        Poll::Ready(Ok(room))
    }

    /// Sends end-of-stream.
    pub fn finish(&mut self, now: Nanos, id: EndId) -> io::Result<()> {
        self.check(now, id)?;
        let end = &mut self.connection(id)?.ends[id.side];
        if !end.finished {
            end.finished = true;
            self.send(now, id, Piece::End);
            self.end_both(now, id);
        }
        Ok(())
    }

    /// The process let go of an end: the system says so to the other side.
    pub fn close(&mut self, now: Nanos, id: EndId) {
        let Ok(connection) = self.connection(id) else {
            return;
        };
        let end = &mut connection.ends[id.side];
        if end.holder != Holder::Process {
            return;
        }
        end.deliver(now);
        end.holder = Holder::Closed;
        let quiet = end.failed();
        let last = match end.has_unread() {
            true => Some(Piece::Reset),
            false => (!end.finished).then_some(Piece::End),
        };
        end.finished = true;
        if let Some(piece) = last.filter(|_| !quiet) {
            let is_end = piece == Piece::End;
            self.send(now, id, piece);
            if is_end {
                self.end_both(now, id);
            }
        }
        self.forget_if_over(id);
    }

    fn forget_if_over(&mut self, id: EndId) {
        if self
            .connections
            .get(&id.connection)
            .is_some_and(Connection::is_over)
        {
            self.connections.remove(&id.connection);
        }
    }

    fn connection(&mut self, id: EndId) -> io::Result<&mut Connection> {
        let connection = self.connections.get_mut(&id.connection);
        connection.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Lets time pass at one end, and fails if that end has failed.
    fn check(&mut self, now: Nanos, id: EndId) -> io::Result<()> {
        let give_up = nanos(self.settings.give_up);
        let end = &mut self.connection(id)?.ends[id.side];
        end.deliver(now);
        if end.stalled_since.is_some_and(|since| since + give_up <= now) && !end.failed() {
            end.fail(io::ErrorKind::TimedOut);
            // What this end had sent is not retransmitted any more.
            end.stalled_since = None;
            self.timeouts += 1;
            let opposite = &mut self.connection(id)?.ends[1 - id.side];
            opposite.truncate_flight(0);
        }
        let end = &self.connection(id)?.ends[id.side];
        match end.holder {
            Holder::Process => end.check(),
            Holder::Closed | Holder::Forgotten => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Puts a piece on its way from this end to the other.
    fn send(&mut self, now: Nanos, id: EndId, piece: Piece) {
        let Net {
            links,
            hosts,
            connections,
            dice,
            into_halves,
            ..
        } = self;
        let Some(connection) = connections.get_mut(&id.connection) else {
            return;
        };
        let (half, is_ended) = (connection.half, connection.is_ended_by_box);
        let (end, opposite) = connection.pair(id.side);
        let link = &mut links[end.host][opposite.host];
        let bytes = match &piece {
            Piece::Data(data) => data.len(),
            Piece::End | Piece::Reset => 60,
        };
        link.touched.blocked += u64::from(link.is_cut());
        *into_halves += u64::from(half.is_some());
        let reachable = !link.is_cut() && hosts[opposite.host].powered && half != Some(Half::Silent);
        if !reachable {
            end.stalled_since.get_or_insert(now);
            opposite.push(NEVER, piece);
            self.arm(id);
            return;
        }
        let arrival = now + link.delay(now, dice, bytes);
        if opposite.holder == Holder::Process && !is_ended {
            opposite.push(arrival, piece);
            self.arm(id.opposite());
        } else if matches!(piece, Piece::Data(_)) {
            // Nobody is there: the machine, or the box on the way, answers with a reset, which has to travel back.
            let back = links[opposite.host][end.host].delay(now, dice, 60);
            self.answer_with_reset(now, arrival + back, id);
        }
    }

    /// A reset travels to this end.
    fn answer_with_reset(&mut self, now: Nanos, arrival: Nanos, id: EndId) {
        let Ok(connection) = self.connection(id) else {
            return;
        };
        let (end, opposite) = connection.pair(id.side);
        let (to, from) = (end.host, opposite.host);
        end.push(arrival, Piece::Reset);
        self.resets += 1;
        if self.links[from][to].is_cut() {
            self.hold(now, id);
        }
        self.arm(id);
    }

    /// Sets the timer of an end to whatever happens next there.
    fn arm(&mut self, id: EndId) {
        let give_up = nanos(self.settings.give_up);
        let Some(connection) = self.connections.get(&id.connection) else {
            return;
        };
        let end = &connection.ends[id.side];
        let failure = end.stalled_since.map(|since| since + give_up);
        let next = end.next_arrival().into_iter().chain(failure).min();
        if let Some(at) = next
            && end.slot.wants_timer(at)
        {
            (self.timer)(at, Waker::from(end.slot.clone()));
        }
    }
}
