//! What a nemesis does to the network, and what processes and machines do to it when they die.

use super::connection::{Connection, Half, Holder, Piece};
use super::link::{Link, Touched};
use super::{EndId, HostId, LinkChange, NEVER, Nanos, Net, RESET_GAP, RETRANSMIT_MAX};

impl Net {
    /// Cuts one direction. Cuts add up: each needs its [`heal`](Self::heal).
    pub fn cut(&mut self, now: Nanos, from: HostId, to: HostId) {
        if from == to || !self.links[from][to].cut() {
            return;
        }
        self.note_link(now, from, to, true);
        for id in self.ends_towards(Some(from), to) {
            let held = self.hold(now, id);
            self.links[from][to].touched.blocked += u64::from(held);
        }
    }

    fn note_link(&mut self, at: Nanos, from: HostId, to: HostId, is_cut: bool) {
        self.link_changes.push(LinkChange { at, from, to, is_cut });
    }

    /// Ends one cut of one direction.
    pub fn heal(&mut self, now: Nanos, from: HostId, to: HostId) {
        if from == to || !self.links[from][to].heal() {
            return;
        }
        self.note_link(now, from, to, false);
        if self.hosts[to].powered {
            self.release(now, from, to);
        }
    }

    pub fn is_cut(&self, from: HostId, to: HostId) -> bool {
        self.links[from][to].is_cut()
    }

    /// Whether what two hosts say to one another takes longer than usual, or does not arrive.
    pub fn is_disturbed(&self, now: Nanos, one: HostId, other: HostId) -> bool {
        self.links[one][other].is_disturbed(now) || self.links[other][one].is_disturbed(now)
    }

    /// Whether since then one of two hosts forgot connections that the other goes on with.
    pub fn has_halved_since(&self, then: Nanos, one: HostId, other: HostId) -> bool {
        self.halved.get(&(one, other)).is_some_and(|at| *at >= then)
    }

    /// Does something to one direction.
    pub fn link(&mut self, from: HostId, to: HostId) -> &mut Link {
        &mut self.links[from][to]
    }

    /// What faults did on these links so far.
    pub fn touched(&self, links: &[(HostId, HostId)]) -> Touched {
        let mut sum = Touched::default();
        for (from, to) in links {
            let touched = self.links[*from][*to].touched;
            sum.blocked += touched.blocked;
            sum.delayed += touched.delayed;
            sum.clogged += touched.clogged;
            sum.ended += touched.ended;
        }
        sum
    }

    /// Puts a device between two hosts that takes the end of one direction for that of the connection.
    pub fn put_middle_box(&mut self, one: HostId, other: HostId) {
        self.links[one][other].has_middle_box = true;
        self.links[other][one].has_middle_box = true;
    }

    /// An end has sent its end-of-stream. Behind a middle box it hears no more than what has arrived, and what the other
    /// end says from now on reaches nobody.
    pub(super) fn end_both(&mut self, now: Nanos, id: EndId) {
        let Net {
            links,
            connections,
            dice,
            ..
        } = self;
        let Some(connection) = connections.get_mut(&id.connection) else {
            return;
        };
        let (end, opposite) = connection.pair(id.side);
        let link = &mut links[end.host][opposite.host];
        if !link.has_middle_box || opposite.finished {
            return;
        }
        link.touched.ended += 1;
        let arrival = now + link.delay(now, dice, 60);
        end.deliver(now);
        if end.holder == Holder::Process && !end.failed() {
            end.truncate_flight(0);
            end.push(arrival, Piece::End);
            opposite.slot.wake_writer();
        }
        connection.is_ended_by_box = true;
        self.arm(id);
    }

    /// Whether bytes are under way between two hosts, in either direction.
    pub fn is_busy(&mut self, now: Nanos, one: HostId, other: HostId) -> bool {
        let mut towards = self.ends_towards(Some(one), other);
        towards.extend(self.ends_towards(Some(other), one));
        towards.into_iter().any(|id| {
            self.connection(id).is_ok_and(|connection| {
                let end = &mut connection.ends[id.side];
                end.deliver(now);
                end.flight_bytes() > 0
            })
        })
    }

    /// One host forgets its connections with another, which learns nothing of it: what the other sends is answered with a
    /// reset, or by nobody. Their number.
    pub fn halve(&mut self, now: Nanos, forgets: HostId, other: HostId, half: Half) -> usize {
        self.halved.insert((forgets, other), now);
        self.halved.insert((other, forgets), now);
        let ends = self.ends_towards(Some(other), forgets);
        for id in &ends {
            let Ok(connection) = self.connection(*id) else {
                continue;
            };
            connection.half = Some(half);
            let (end, opposite) = connection.pair(id.side);
            end.deliver(now);
            end.holder = Holder::Forgotten;
            end.flight.clear();
            end.slot.wake_all();
            // What this end had sent arrives if it does, but is not sent again.
            opposite.flight.retain(|(arrival, _)| *arrival != NEVER);
            end.stalled_since = None;
            self.forget_if_over(*id);
        }
        ends.len()
    }

    /// Breaks the connections between two hosts in the middle of whatever is under way; how many messages were cut off.
    pub fn reset(&mut self, now: Nanos, one: HostId, other: HostId) -> usize {
        let mut towards = self.ends_towards(Some(one), other);
        towards.extend(self.ends_towards(Some(other), one));
        let mut cut_off = 0;
        for id in &towards {
            let Ok(connection) = self.connection(*id) else {
                continue;
            };
            connection.ends[id.side].deliver(now);
            let under_way = connection.ends[id.side].flight_bytes();
            let keep = self.dice.index(under_way + 1);
            cut_off += usize::from(keep < under_way);
            let Ok(connection) = self.connection(*id) else {
                continue;
            };
            let end = &mut connection.ends[id.side];
            end.truncate_flight(keep);
            // Behind what is under way, so that a reader may see the first part of a message.
            let behind = end.next_arrival().unwrap_or(now);
            let gap = self.dice.below(RESET_GAP);
            self.answer_with_reset(now, behind + gap, *id);
        }
        cut_off
    }

    /// The process of a host ended: its ports and connections are closed by the system.
    pub fn kill_process(&mut self, now: Nanos, host: HostId) {
        let ports: Vec<u16> = self.hosts[host].listeners.keys().copied().collect();
        for port in ports {
            self.close_port(now, host, port);
        }
        for id in self.ends_towards(None, host) {
            self.close(now, id);
        }
    }

    /// The machine lost power: nothing is said to anybody.
    pub fn power_off(&mut self, now: Nanos, host: HostId) {
        self.hosts[host].powered = false;
        self.hosts[host].listeners.clear();
        for id in self.ends_towards(None, host) {
            if let Ok(connection) = self.connection(id) {
                let (end, opposite) = connection.pair(id.side);
                end.holder = Holder::Forgotten;
                // A machine without power retransmits nothing.
                opposite.deliver(now);
                opposite.flight.retain(|(arrival, _)| *arrival != NEVER);
                end.stalled_since = None;
            }
            self.hold(now, id);
            self.forget_if_over(id);
        }
    }

    /// The machine is back, without memory of its connections: what is retransmitted to them is answered
    /// with a reset.
    pub fn power_on(&mut self, now: Nanos, host: HostId) {
        self.hosts[host].powered = true;
        for from in 0..self.hosts.len() {
            if !self.links[from][host].is_cut() {
                self.release(now, from, host);
            }
        }
    }

    /// Ends on a host whose opposite is on another host (any if `None`).
    fn ends_towards(&self, from: Option<HostId>, to: HostId) -> Vec<EndId> {
        let mut found = Vec::new();
        for (connection, Connection { ends, .. }) in &self.connections {
            for side in 0..2 {
                let wanted = from.is_none_or(|from| ends[1 - side].host == from);
                if ends[side].host == to && wanted {
                    let connection = *connection;
                    found.push(EndId { connection, side });
                }
            }
        }
        found
    }

    /// What travels to this end stops; true if something does.
    pub(super) fn hold(&mut self, now: Nanos, id: EndId) -> bool {
        let Ok(connection) = self.connection(id) else {
            return false;
        };
        let (end, opposite) = connection.pair(id.side);
        let held = end.hold(now);
        if held {
            opposite.stalled_since.get_or_insert(now);
            self.arm(id.opposite());
        }
        held
    }

    /// What was held up on a link is retransmitted.
    fn release(&mut self, now: Nanos, from: HostId, to: HostId) {
        for id in self.ends_towards(Some(from), to) {
            let Net {
                links,
                dice,
                connections,
                ..
            } = self;
            let Some(connection) = connections.get_mut(&id.connection) else {
                continue;
            };
            if connection.half == Some(Half::Silent) {
                continue;
            }
            let (end, opposite) = connection.pair(id.side);
            let Some(since) = opposite.stalled_since.take() else {
                continue;
            };
            let wait = dice.below((now - since).min(RETRANSMIT_MAX) + 1);
            let at = now + wait + links[from][to].delay(now, dice, end.flight_bytes());
            end.release(at);
            if end.holder == Holder::Process {
                self.arm(id);
            } else if opposite.holder == Holder::Process {
                end.flight.clear();
                self.answer_with_reset(now, at, id.opposite());
            }
        }
    }
}
