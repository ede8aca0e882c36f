//! Clients that write a URL where HTTP/2 wants an authority.
//!
//! clientv3 of etcd 3.4 (calls to one endpoint, as `etcdctl endpoint status`) and of 3.5.0 (all calls) send an
//! `:authority` such as `http://127.0.0.1:2379` or `#initially=[http://127.0.0.1:2379]`. Go's server takes it; hyper
//! resets the stream before anybody can be asked. No part of this server looks at the authority, so it is made
//! an ordinary header on the way in, by one byte:
//!
//! ```text
//!   frame head (9) │ :method  :scheme  :path  0x41 = a field of name 1, ":authority", kept in HPACK's table
//!                                             0x77 = a field of name 55, "set-cookie", the same
//! ```
//!
//! Both names have ten letters, so HPACK's table stays as large as its encoder thinks. It is done where the
//! authority is the fourth field, as grpc-go's is: before it came every other pseudo-header, and none may follow an
//! ordinary header. Other clients' requests, and a block whose first fields are cut in two frames, pass as they are.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD_BYTES: usize = 9;
const HEADERS: u8 = 1;
const FLAG_PADDED: u8 = 0x8;
const FLAG_PRIORITY: u8 = 0x20;
/// A literal field that the decoder remembers, with name 1 of HPACK's static table.
const AUTHORITY: u8 = 0x40 | 1;
/// What that header is called then.
pub const RENAMED: &str = "set-cookie";
/// The same with name 55.
const SET_COOKIE: u8 = 0x40 | 55;
/// `:method`, `:scheme` and `:path`, in any order.
const FIELDS_BEFORE: usize = 3;

/// A client's stream, whose `:authority` may be anything.
pub struct AnyAuthority<S> {
    stream: S,
    scanner: Scanner,
}

impl<S> AnyAuthority<S> {
    pub fn new(stream: S) -> Self {
        let scanner = Scanner {
            at: At::Preface { seen: 0 },
        };
        AnyAuthority { stream, scanner }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AnyAuthority<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if let Some(new) = buf.filled_mut().get_mut(before..) {
            self.scanner.pass(new);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AnyAuthority<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Follows the frames, and in HEADERS the first fields.
struct Scanner {
    at: At,
}

/// What the next byte belongs to.
enum At {
    Preface {
        seen: usize,
    },
    Head {
        bytes: [u8; FRAME_HEAD_BYTES],
        seen: usize,
    },
    /// A frame's bytes that are of no interest.
    Rest {
        left: usize,
    },
    Fields {
        /// Bytes of the frame that are still to come.
        left: usize,
        /// Fields that have begun.
        fields: usize,
        expect: Expect,
    },
    /// Not HTTP/2.
    Elsewhere,
}

/// What comes next in a block of fields.
#[derive(Clone, Copy)]
enum Expect {
    /// The padding's length, the priority.
    Extra {
        left: usize,
    },
    Field,
    /// The further bytes of a number that ends with the name; and how many texts follow.
    Number {
        texts: usize,
    },
    /// A text's length, of which `shift` bits have come; then more texts.
    Length {
        length: usize,
        shift: u32,
        texts: usize,
    },
    Text {
        left: usize,
        texts: usize,
    },
}

impl Expect {
    /// What follows when `texts` texts are still to come.
    fn texts(texts: usize) -> Expect {
        match texts.checked_sub(1) {
            None => Expect::Field,
            Some(texts) => Expect::Length {
                length: 0,
                shift: 0,
                texts,
            },
        }
    }

    fn text(left: usize, texts: usize) -> Expect {
        match left {
            0 => Expect::texts(texts),
            _ => Expect::Text { left, texts },
        }
    }

    /// The representation that begins with `byte`: an index or a literal (RFC 7541, section 6).
    fn field(byte: u8) -> Expect {
        let (prefix, literal) = match byte {
            0x80.. => (0x7f, false),
            0x40.. => (0x3f, true),
            0x20.. => (0x1f, false),
            _ => (0x0f, true),
        };
        let texts = match (literal, byte & prefix) {
            (false, _) => 0,
            (true, 0) => 2,
            (true, _) => 1,
        };
        match byte & prefix == prefix {
            true => Expect::Number { texts },
            false => Expect::texts(texts),
        }
    }
}

impl Scanner {
    /// Takes in the next bytes, and corrects them.
    fn pass(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let taken = match &mut self.at {
                At::Elsewhere => return,
                At::Rest { left } => {
                    let taken = bytes.len().min(*left);
                    *left -= taken;
                    taken
                }
                _ => {
                    self.byte(&mut bytes[0]);
                    1
                }
            };
            if let At::Rest { left: 0 } | At::Fields { left: 0, .. } = self.at {
                self.at = At::Head {
                    bytes: [0; FRAME_HEAD_BYTES],
                    seen: 0,
                };
            }
            bytes = &mut bytes[taken..];
        }
    }

    fn byte(&mut self, byte: &mut u8) {
        match &mut self.at {
            At::Preface { seen } if PREFACE.get(*seen) != Some(byte) => self.at = At::Elsewhere,
            At::Preface { seen } => {
                *seen += 1;
                if *seen == PREFACE.len() {
                    self.at = At::Rest { left: 0 };
                }
            }
            At::Head { bytes, seen } => {
                bytes[*seen] = *byte;
                *seen += 1;
                if *seen == FRAME_HEAD_BYTES {
                    self.at = begin(*bytes);
                }
            }
            At::Fields { left, fields, expect } => {
                *left -= 1;
                match next(*expect, fields, byte) {
                    Some(next) => *expect = next,
                    None => self.at = At::Rest { left: *left },
                }
            }
            At::Rest { .. } | At::Elsewhere => {}
        }
    }
}

/// A frame whose head is complete.
fn begin([a, b, c, kind, flags, ..]: [u8; FRAME_HEAD_BYTES]) -> At {
    let left = u32::from_be_bytes([0, a, b, c]) as usize;
    if kind != HEADERS {
        return At::Rest { left };
    }
    let padded = usize::from(flags & FLAG_PADDED != 0);
    let priority = if flags & FLAG_PRIORITY != 0 { 5 } else { 0 };
    let expect = match padded + priority {
        0 => Expect::Field,
        left => Expect::Extra { left },
    };
    At::Fields {
        left,
        fields: 0,
        expect,
    }
}

/// Goes on by a byte of a block; `None`: what is left of the frame is of no interest.
fn next(expect: Expect, fields: &mut usize, byte: &mut u8) -> Option<Expect> {
    Some(match expect {
        Expect::Extra { left: 1 } => Expect::Field,
        Expect::Extra { left } => Expect::Extra { left: left - 1 },
        Expect::Field if *fields == FIELDS_BEFORE => {
            if *byte == AUTHORITY {
                *byte = SET_COOKIE;
            }
            return None;
        }
        Expect::Field => {
            let resizes_table = matches!(*byte, 0x20..0x40);
            *fields += usize::from(!resizes_table);
            Expect::field(*byte)
        }
        Expect::Number { texts } if *byte & 0x80 != 0 => Expect::Number { texts },
        Expect::Number { texts } => Expect::texts(texts),
        Expect::Length { shift: 0, texts, .. } => match usize::from(*byte & 0x7f) {
            length @ 0x7f => Expect::Length {
                length,
                shift: 1,
                texts,
            },
            length => Expect::text(length, texts),
        },
        Expect::Length { length, shift, texts } => {
            // Longer than any block may be: hyper will refuse it.
            let more = usize::from(*byte & 0x7f).checked_shl(shift - 1)?;
            let length = length.checked_add(more)?;
            match *byte & 0x80 {
                0 => Expect::text(length, texts),
                _ => Expect::Length {
                    length,
                    shift: shift + 7,
                    texts,
                },
            }
        }
        Expect::Text { left: 1, texts } => Expect::texts(texts),
        Expect::Text { left, texts } => Expect::Text {
            left: left - 1,
            texts,
        },
    })
}

#[cfg(test)]
mod tests;
