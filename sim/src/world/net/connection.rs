//! One connection: two ends, each with the bytes that travel to it.
//!
//! ```text
//!   dialer                                             acceptor
//!   end 0 ── poll_write ──►  flight ──► readable ──► poll_read  end 1
//!         ◄── readable ◄──   flight  ◄── poll_write ──
//! ```
//!
//! A piece in flight has its time of arrival; "never" while the link is cut or the other machine is off.
//! End-of-stream and reset are pieces like any other: they travel, and they can be held up.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::slot::Slot;
use super::{HostId, NEVER, Nanos};

/// What travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Data(Bytes),
    /// The sender will send no more.
    End,
    /// The connection is gone.
    Reset,
}

/// Who still holds an end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Holder {
    /// A process.
    Process,
    /// Nobody: the process closed it or died, and the operating system answers with a reset.
    Closed,
    /// The machine lost power and forgot it.
    Forgotten,
}

/// One end, with what travels towards it.
pub(super) struct End {
    pub host: HostId,
    pub holder: Holder,
    /// The other side's address, for logs.
    pub peer: String,
    pub slot: Arc<Slot>,
    /// In order of arrival.
    pub flight: VecDeque<(Nanos, Piece)>,
    readable: VecDeque<Bytes>,
    /// Bytes in flight and readable: bounded by the window.
    pub held_bytes: usize,
    /// End-of-stream has arrived.
    ended: bool,
    /// This end has sent its end-of-stream.
    pub finished: bool,
    /// What every call on this end returns from now on.
    error: Option<io::ErrorKind>,
    /// Since when something that this end sent cannot arrive.
    pub stalled_since: Option<Nanos>,
}

impl End {
    pub fn new(host: HostId, peer: String) -> Self {
        End {
            host,
            holder: Holder::Process,
            peer,
            slot: Arc::new(Slot::default()),
            flight: VecDeque::new(),
            readable: VecDeque::new(),
            held_bytes: 0,
            ended: false,
            finished: false,
            error: None,
            stalled_since: None,
        }
    }

    /// Moves what has arrived by now out of flight.
    pub fn deliver(&mut self, now: Nanos) {
        while let Some((arrival, _)) = self.flight.front() {
            if *arrival > now {
                return;
            }
            match self.flight.pop_front() {
                Some((_, Piece::Data(data))) => self.readable.push_back(data),
                Some((_, Piece::End)) => self.ended = true,
                Some((_, Piece::Reset)) => self.fail(io::ErrorKind::ConnectionReset),
                None => return,
            }
        }
    }

    /// The connection is gone as far as this end can tell: whatever was not read is lost.
    pub fn fail(&mut self, error: io::ErrorKind) {
        self.error.get_or_insert(error);
        self.readable.clear();
        self.flight.clear();
        self.held_bytes = 0;
    }

    pub fn check(&self) -> io::Result<()> {
        self.error.map_or(Ok(()), |error| Err(error.into()))
    }

    pub fn failed(&self) -> bool {
        self.error.is_some()
    }

    /// Data or its end can be had without waiting.
    pub fn is_readable(&self) -> bool {
        self.ended || !self.readable.is_empty()
    }

    /// Bytes arrived, or about to arrive, that nobody will read: closing then sends a reset.
    pub fn has_unread(&self) -> bool {
        self.held_bytes > 0
    }

    /// Copies arrived bytes; their number.
    pub fn read(&mut self, mut put: impl FnMut(&[u8]), mut room: usize) -> usize {
        let mut read = 0;
        while room > 0 {
            let Some(front) = self.readable.front_mut() else {
                break;
            };
            let length = front.len().min(room);
            put(&front[..length]);
            front.advance(length);
            if front.is_empty() {
                self.readable.pop_front();
            }
            read += length;
            room -= length;
        }
        self.held_bytes -= read;
        read
    }

    /// When the next piece arrives, if one does.
    pub fn next_arrival(&self) -> Option<Nanos> {
        self.flight
            .front()
            .map(|(arrival, _)| *arrival)
            .filter(|arrival| *arrival != NEVER)
    }

    /// Puts a piece behind everything that is under way already.
    pub fn push(&mut self, arrival: Nanos, piece: Piece) {
        let last = self.flight.back().map_or(0, |(last, _)| *last);
        if let Piece::Data(data) = &piece {
            self.held_bytes += data.len();
        }
        self.flight.push_back((arrival.max(last), piece));
    }

    /// Nothing under way arrives until [`release`](Self::release). True if something is under way.
    pub fn hold(&mut self, now: Nanos) -> bool {
        self.deliver(now);
        self.flight.iter_mut().for_each(|(arrival, _)| *arrival = NEVER);
        !self.flight.is_empty()
    }

    /// What was held up arrives at this time.
    pub fn release(&mut self, at: Nanos) {
        for (arrival, _) in &mut self.flight {
            if *arrival == NEVER {
                *arrival = at;
            }
        }
    }

    /// Cuts what is under way to its first `keep` bytes; the rest never arrives.
    pub fn truncate_flight(&mut self, mut keep: usize) {
        let mut kept = VecDeque::new();
        for (arrival, piece) in self.flight.drain(..) {
            let Piece::Data(data) = piece else {
                continue;
            };
            let length = data.len().min(keep);
            self.held_bytes -= data.len() - length;
            keep -= length;
            if length > 0 {
                kept.push_back((arrival, Piece::Data(data.slice(..length))));
            }
        }
        self.flight = kept;
    }

    pub fn flight_bytes(&self) -> usize {
        let size = |(_, piece): &(Nanos, Piece)| match piece {
            Piece::Data(data) => data.len(),
            Piece::End | Piece::Reset => 0,
        };
        self.flight.iter().map(size).sum()
    }
}

/// How a connection is half-open: one end is gone and its machine knows nothing of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Half {
    /// What is sent to it is answered with a reset.
    Refused,
    /// Something between the two has forgotten the connection: what is sent to it is answered by nobody.
    Silent,
}

/// Both ends.
pub(super) struct Connection {
    pub ends: [End; 2],
    pub half: Option<Half>,
    /// A middle box took the end of one direction for that of both.
    pub is_ended_by_box: bool,
}

impl Connection {
    /// An end and the one opposite.
    pub fn pair(&mut self, side: usize) -> (&mut End, &mut End) {
        let [dialer, acceptor] = &mut self.ends;
        match side {
            0 => (dialer, acceptor),
            _ => (acceptor, dialer),
        }
    }

    /// Nobody holds either end.
    pub fn is_over(&self) -> bool {
        self.ends.iter().all(|end| end.holder != Holder::Process)
    }
}
