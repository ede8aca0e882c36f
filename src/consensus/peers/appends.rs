//! Entries on their way to a follower, where connections are served.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::message::AppendAnswer;
use crate::base::limits;
use crate::consensus::raft::format::append::encode_append;
use crate::consensus::raft::format::entry::Payload;
use crate::consensus::raft::types::{AppendRequest, Entry, StreamAppendResult};
use crate::runtime::buggify::{self, Site};
use crate::runtime::channel::{Limits, Receiver, Sender};
use crate::runtime::{AbortOnDrop, Env};
use crate::transport::{Dialer, FrameReader, FrameWriter, decode};

/// Requests of entries that raft has handed over, and nobody sends yet; the same of answers.
const APPENDS_HANDED_OVER_MAX: usize = 4;
/// Requests of entries that may be under way to one follower.
const APPENDS_UNDER_WAY_MAX: usize = 64;

/// How much of a stream may be between raft and the connection, in each direction.
pub const HANDED_OVER: Limits = Limits {
    count: APPENDS_HANDED_OVER_MAX,
    bytes: 2 * limits::APPEND_BYTES_MAX,
};

/// What a request of entries takes in memory, nearly.
pub fn append_bytes(request: &AppendRequest) -> usize {
    let payload = |entry: &Entry| match &entry.payload {
        Payload::Normal(batch) => batch.bytes().len(),
        Payload::Blank | Payload::Membership(_) => 0,
    };
    request.entries.iter().map(payload).sum()
}

/// One stream of entries, where connections are served: requests out, answers in.
pub async fn exchange_appends(
    dialer: Dialer,
    reader: FrameReader,
    writer: FrameWriter,
    requests: Receiver<AppendRequest>,
    handed_back: Sender<io::Result<StreamAppendResult>>,
) {
    let sending = Arc::new(Sending::default());
    let send = dialer.env.spawn(send_appends(requests, writer, sending.clone()));
    let mut answers = Answers {
        env: dialer.env,
        reader,
        sending,
        _send: AbortOnDrop(send),
        timeout: dialer.timeout,
    };
    while let Some(answer) = answers.next().await.transpose() {
        let goes_on = matches!(answer, Ok(Ok(_)));
        if handed_back.send(answer, 0).await.is_err() || !goes_on {
            return;
        }
    }
}

/// What the two directions of one stream of entries tell each other.
struct Sending {
    /// One permit for each request that may still go out unanswered.
    room: Semaphore,
    room_max: usize,
    /// Of the largest request so far.
    bytes_max: AtomicUsize,
    /// No more requests come.
    finished: AtomicBool,
}

impl Default for Sending {
    fn default() -> Self {
        let room_max = buggify::limit(Site::AppendWindowTiny, APPENDS_UNDER_WAY_MAX, 2);
        Sending {
            room: Semaphore::new(room_max),
            room_max,
            bytes_max: AtomicUsize::new(0),
            finished: AtomicBool::new(false),
        }
    }
}

impl Sending {
    fn is_answer_due(&self) -> bool {
        self.room.available_permits() < self.room_max
    }

    /// How often the usual time an answer may take: an entry can be larger than what a request usually holds.
    fn shares(&self) -> u32 {
        let shares = self.bytes_max.load(Ordering::SeqCst) / limits::APPEND_BYTES_MAX;
        u32::try_from(shares).unwrap_or(u32::MAX).max(1)
    }

    /// Whether the peer may end its side.
    fn is_over(&self) -> bool {
        self.finished.load(Ordering::SeqCst) && !self.is_answer_due()
    }
}

/// Sends requests as they come, as long as not too many are unanswered.
async fn send_appends(mut requests: Receiver<AppendRequest>, mut writer: FrameWriter, sending: Arc<Sending>) {
    while let Some(request) = requests.recv().await {
        let Ok(permit) = sending.room.acquire().await else {
            return;
        };
        permit.forget();
        let request = encode_append(&request);
        let bytes = request.iter().map(Bytes::len).sum();
        sending.bytes_max.fetch_max(bytes, Ordering::SeqCst);
        if writer.send_parts(&request).await.is_err() {
            return;
        }
    }
    sending.finished.store(true, Ordering::SeqCst);
    // The answers still due come before the peer's own end.
    let _ = writer.end().await;
}

/// The answers of one stream of entries.
struct Answers {
    env: Env,
    reader: FrameReader,
    sending: Arc<Sending>,
    _send: AbortOnDrop<()>,
    timeout: Duration,
}

impl Answers {
    /// The next answer; `None` when all requests are answered and no more come. A peer that ends earlier, or hangs up,
    /// is an error: to openraft a stream that ends well without answers is one to be resumed, and it then
    /// repeats the last range it was told to send, even if that range has been given up and purged since.
    async fn next(&mut self) -> io::Result<Option<StreamAppendResult>> {
        let Answers {
            env,
            reader,
            sending,
            timeout,
            ..
        } = self;
        let mut frame = pin!(reader.next());
        loop {
            let (is_due, shares) = (sending.is_answer_due(), sending.shares());
            match env.timeout(*timeout * shares, frame.as_mut()).await {
                Ok(Ok(None)) if sending.is_over() => return Ok(None),
                Ok(frame) => {
                    let frame = frame?.ok_or(io::ErrorKind::UnexpectedEof)?;
                    sending.room.add_permits(1);
                    let answer: AppendAnswer = decode(&frame)?;
                    return Ok(Some(answer.into()));
                }
                // Silence is an error only while an answer is due, and no longer one than it was at its beginning.
                Err(elapsed) if is_due && sending.shares() == shares => return Err(elapsed.into()),
                // Everything is answered: the peer's end alone is missing, and may never come.
                Err(_) if sending.is_over() => return Ok(None),
                Err(_) => {}
            }
        }
    }
}
