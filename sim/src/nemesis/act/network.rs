//! Faults of links and connections.

use std::time::Duration;

use tokio::io::AsyncReadExt;

use super::Blow;
use crate::cluster::peer_url;
use crate::seed::Dice;
use crate::world::net::{Burden, Half, HostId, Touched, nanos};

/// A direction between two hosts.
type Direction = (HostId, HostId);

/// How long a stranger tries to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);

/// How often it is looked whether a message is under way that can be cut off.
const LOOK_EVERY: Duration = Duration::from_micros(200);

/// How long a snapshot may take to begin once a member that lagged can be reached again.
pub(super) const SNAPSHOT_WAIT: Duration = Duration::from_secs(4);

fn both(pairs: impl IntoIterator<Item = Direction>) -> Vec<Direction> {
    pairs.into_iter().flat_map(|(a, b)| [(a, b), (b, a)]).collect()
}

/// Cuts between two sides.
fn between(one: &[HostId], other: &[HostId]) -> Vec<Direction> {
    both(one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b))))
}

impl Blow<'_> {
    /// Every host, or the members alone: a partition may or may not cut clients off.
    fn affected(&self) -> Vec<HostId> {
        let mut hosts = self.members();
        if self.fault.choice & 1 == 1 {
            hosts.extend(self.others);
        }
        hosts
    }

    /// Two members.
    fn pair(&self, dice: &mut Dice) -> Direction {
        let mut members = self.members();
        dice.shuffle(&mut members);
        (members[0], members[1])
    }

    /// Both directions between one member and all others.
    pub(super) fn around(&self, member: usize) -> Vec<Direction> {
        let own = self.host(member);
        let others: Vec<HostId> = self.affected().into_iter().filter(|host| *host != own).collect();
        between(&[own], &others)
    }

    /// Two sides, the leader on that of the majority, or on the other; each client's host on one of them, or on both.
    pub(super) fn split(&self, leader: usize, with_majority: bool, dice: &mut Dice) -> Vec<Direction> {
        let leader = self.host(leader);
        let mut rest: Vec<HostId> = self
            .members()
            .into_iter()
            .filter(|host| *host != leader)
            .collect();
        dice.shuffle(&mut rest);
        let minority_max = rest.len().div_ceil(2).max(1);
        let minority = 1 + dice.index(minority_max);
        let with_leader = if with_majority {
            rest.len() - minority.min(rest.len())
        } else {
            minority - 1
        };
        let (friends, others) = rest.split_at(with_leader);
        let (mut one, mut other) = (friends.to_vec(), others.to_vec());
        one.push(leader);
        for host in self.others {
            match dice.below(3) {
                0 => one.push(*host),
                1 => other.push(*host),
                _ => {}
            }
        }
        between(&one, &other)
    }

    pub(super) fn one_way(&self, dice: &mut Dice) -> Vec<Direction> {
        let (from, to) = self.pair(dice);
        if !dice.chance(0.3) {
            return vec![(from, to)];
        }
        // All that goes to one member, or all that comes from it.
        let towards = dice.chance(0.5);
        let direction = |other: HostId| if towards { (other, from) } else { (from, other) };
        let others = self.members().into_iter().filter(|host| *host != from);
        others.map(direction).collect()
    }

    pub(super) fn two_way(&self, dice: &mut Dice) -> Vec<Direction> {
        both([self.pair(dice)])
    }

    /// Everybody is in another majority; of three, which are in one whatever is cut, each hears one other alone.
    pub(super) fn ring(&self, dice: &mut Dice) -> Vec<Direction> {
        let mut ring = self.members();
        dice.shuffle(&mut ring);
        let count = ring.len();
        let ahead = |from: usize, to: usize| (to + count - from) % count;
        let is_cut = |distance: usize| match count {
            0..=3 => distance == count - 1,
            _ => distance != 1 && distance != count - 1,
        };
        let pairs = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        pairs
            .filter(|(from, to)| from != to && is_cut(ahead(*from, *to)))
            .map(|(from, to)| (ring[from], ring[to]))
            .collect()
    }

    /// Two halves that only one member can reach.
    pub(super) fn bridge(&self, member: usize) -> Vec<Direction> {
        let bridge = self.host(member);
        let rest: Vec<HostId> = self
            .members()
            .into_iter()
            .filter(|host| *host != bridge)
            .collect();
        let (one, other) = rest.split_at(rest.len() / 2);
        between(one, other)
    }

    fn touched(&self, links: &[Direction]) -> Touched {
        self.world.net(|net, _| net.touched(links))
    }

    /// Cuts a member off until what it missed may be gone from the log; true if it then needed a snapshot.
    pub(super) async fn purge(&self, member: usize) -> bool {
        let leads = self.cluster.leader() == Some(member);
        let member = (member + usize::from(leads)) % self.cluster.len();
        let host = self.host(member);
        let begun = || self.world.drive(host, |drive| drive.counters.generations);
        let before = begun();
        self.cut(self.around(member)).await;
        let end = self.world.now() + nanos(SNAPSHOT_WAIT);
        while begun() == before && self.world.now() < end {
            self.world.sleep(Duration::from_millis(10)).await;
        }
        begun() > before
    }

    pub(super) async fn cut(&self, links: Vec<Direction>) -> bool {
        let before = self.touched(&links).blocked;
        for (from, to) in &links {
            self.world.net(|net, now| net.cut(now, *from, *to));
        }
        self.wait().await;
        for (from, to) in &links {
            self.world.net(|net, now| net.heal(now, *from, *to));
        }
        self.touched(&links).blocked > before
    }

    /// Links are cut one by one over the first half, and restored in another order over the second.
    pub(super) async fn swizzle(&self, leader: usize, dice: &mut Dice) -> bool {
        let mut links = self.split(leader, dice.chance(0.5), dice);
        let before = self.touched(&links).blocked;
        let step = self.fault.lasts() / (2 * links.len() as u32);
        dice.shuffle(&mut links);
        for (from, to) in &links {
            self.world.net(|net, now| net.cut(now, *from, *to));
            self.world.sleep(step).await;
        }
        dice.shuffle(&mut links);
        for (from, to) in &links {
            self.world.sleep(step).await;
            self.world.net(|net, now| net.heal(now, *from, *to));
        }
        self.touched(&links).blocked > before
    }

    async fn burden(&self, links: &[Direction], burden: Burden) -> bool {
        let before = self.touched(links).delayed;
        for (from, to) in links {
            self.world.net(|net, _| net.link(*from, *to).burden(burden));
        }
        self.wait().await;
        for (from, to) in links {
            self.world.net(|net, _| net.link(*from, *to).unburden(burden));
        }
        self.touched(links).delayed > before
    }

    pub(super) async fn delay(&self, dice: &mut Dice) -> bool {
        let delay = *dice.pick(&[10, 50, 200, 800, 3_000]);
        let burden = Burden {
            delay: nanos(Duration::from_millis(delay)),
            ..Burden::default()
        };
        self.burden(&[self.pair(dice)], burden).await
    }

    pub(super) async fn jitter(&self, member: usize, dice: &mut Dice) -> bool {
        let jitter = *dice.pick(&[20, 200, 1_000]);
        let burden = Burden {
            jitter: nanos(Duration::from_millis(jitter)),
            ..Burden::default()
        };
        self.burden(&self.around(member), burden).await
    }

    pub(super) async fn slow(&self, member: usize, dice: &mut Dice) -> bool {
        let delay = nanos(Duration::from_millis(*dice.pick(&[20, 100, 400, 1_500])));
        let burden = Burden {
            delay,
            jitter: delay / 2,
            // From 1 MiB/s to 64 KiB/s.
            per_kibibyte: *dice.pick(&[1_000_000, 4_000_000, 16_000_000]),
        };
        self.burden(&self.around(member), burden).await
    }

    /// All arrives at once at the end, and no sender ever noticed: as behind a device with a large buffer.
    pub(super) async fn clog(&self, member: usize, dice: &mut Dice) -> bool {
        let own = self.host(member);
        let mut links = self.around(member);
        match dice.below(3) {
            0 => links.retain(|(from, _)| *from == own),
            1 => links.retain(|(_, to)| *to == own),
            _ => {}
        }
        let before = self.touched(&links).clogged;
        let end = self.end();
        for (from, to) in &links {
            self.world.net(|net, _| net.link(*from, *to).clog(end));
        }
        self.wait().await;
        self.touched(&links).clogged > before
    }

    /// Strikes at the first moment at which something is under way.
    pub(super) async fn reset(&self, member: usize) -> bool {
        let own = self.host(member);
        let others: Vec<HostId> = self
            .members()
            .into_iter()
            .chain(self.others.iter().copied())
            .filter(|other| *other != own)
            .collect();
        let busy = |other: &HostId| self.world.net(|net, now| net.is_busy(now, own, *other));
        while self.world.now() < self.end() && !others.iter().any(busy) {
            self.world.sleep(LOOK_EVERY).await;
        }
        let reset = |other: &HostId| self.world.net(|net, now| net.reset(now, own, *other));
        others.iter().map(reset).sum::<usize>() > 0
    }

    /// A member, or whoever talks to it, forgets what connects them.
    pub(super) async fn halve(&self, member: usize, dice: &mut Dice) -> bool {
        let own = self.host(member);
        let half = *dice.pick(&[Half::Refused, Half::Silent]);
        let before = self.world.net(|net, _| net.into_halves);
        for other in self.affected().into_iter().filter(|other| *other != own) {
            let (forgets, goes_on) = if dice.chance(0.5) {
                (own, other)
            } else {
                (other, own)
            };
            self.world.net(|net, now| net.halve(now, forgets, goes_on, half));
        }
        self.wait().await;
        self.world.net(|net, _| net.into_halves) > before
    }

    /// They stay: a cluster has to serve behind them.
    pub(super) async fn put_middle_boxes(&self, member: usize) -> bool {
        let links = self.around(member);
        let before = self.touched(&links).ended;
        for (from, to) in &links {
            self.world.net(|net, _| net.put_middle_box(*from, *to));
        }
        self.wait().await;
        self.touched(&links).ended > before
    }

    /// They come from a client's host, and go at the end; true if the member hung up on one before.
    pub(super) async fn send_strangers(&self, member: usize, dice: &mut Dice) -> bool {
        let clients = self.cluster.addresses()[member].clone();
        let peers = peer_url(member).replace("http://", "");
        let mut strangers = Vec::new();
        for _ in 0..*dice.pick(&[5, 50, 300]) {
            for address in [&clients, &peers] {
                let connecting = self.env.timeout(CONNECT_TIMEOUT, self.env.connect(address));
                match connecting.await {
                    Ok(Ok(stream)) => strangers.push(stream),
                    // Nobody is there just now.
                    _ => self.world.sleep(CONNECT_TIMEOUT).await,
                }
                if self.world.now() >= self.end() {
                    return false;
                }
            }
        }
        let mut hung_up = false;
        for stranger in &mut strangers {
            let left = Duration::from_nanos(self.end().saturating_sub(self.world.now()));
            hung_up |= self.env.timeout(left, stranger.read_u8()).await.is_ok();
        }
        hung_up
    }
}
